"""Pieces of text of one length with hidden words, for masked language modelling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sequences import IGNORED

from sptar.errors import DataError


@dataclass(frozen=True)
class MaskedBatch:
    """Ids and targets ``[rows, tokens]``; a target is -100 where no word is asked for."""

    ids: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]

    def to(self, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and targets as tensors."""
        ids, targets = (torch.from_numpy(x).to(device) for x in (self.ids, self.targets))
        return ids, targets


def _flat(texts: Iterable[str], tokenizer: Any) -> Iterator[npt.NDArray[np.int32]]:
    left = iter(texts)
    while some := list(islice(left, 1000)):
        # "[MASK]" written out in a text is no mask.
        rows = tokenizer(some, add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        for row in rows:
            yield np.asarray(row, dtype=np.int32)


class Windows:
    """The texts one behind the other, cut into pieces; what is left over at the end is not used.

    Args:
        texts: in the order in which they are joined.
        tokenizer: with [CLS], [SEP] and [MASK].
        tokens: length of a piece, [CLS] and [SEP] included.
        masked_share: share of a piece's words that are asked for.
        seed: names the draws.

    Raises:
        DataError: the texts do not fill one piece.
    """

    def __init__(
        self, texts: Iterable[str], tokenizer: Any, *, tokens: int, masked_share: float, seed: int
    ) -> None:
        self._words, self._seed = tokenizer, seed
        length = tokens - 2
        self._masked = max(1, round(length * masked_share))
        flat = np.concatenate([np.empty(0, dtype=np.int32), *_flat(texts, tokenizer)])
        count = len(flat) // length
        if count == 0:
            raise DataError(f"The text has {len(flat)} tokens, less than one piece of {length}.")
        self._pieces = flat[: count * length].reshape(count, length)
        special = set(tokenizer.all_special_ids)
        self.ordinary = np.array(
            [token_id for token_id in range(len(tokenizer)) if token_id not in special]
        )

    def __len__(self) -> int:
        return len(self._pieces)

    def batch(self, name: str, rows: int) -> MaskedBatch:
        """Up to ``rows`` different pieces, drawn by the seed and ``name`` alone.

        Of ten words that are asked for, eight are masked, one is any word and one stays (Devlin et
        al., 2019, section 3.1).
        """
        digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
        order = np.random.default_rng(int.from_bytes(digest[:16], "big"))
        chosen = order.choice(len(self), size=min(rows, len(self)), replace=False)
        ids = self._pieces[chosen].astype(np.int64)
        places = np.argsort(order.random(ids.shape), axis=1)[:, : self._masked]
        asked = np.take_along_axis(ids, places, axis=1)
        chance = order.random(asked.shape)
        other = order.choice(self.ordinary, size=asked.shape)
        shown = np.where(chance < 0.8, self._words.mask_token_id, asked)
        shown = np.where((chance >= 0.8) & (chance < 0.9), other, shown)
        targets = np.full_like(ids, IGNORED)
        np.put_along_axis(targets, places, asked, axis=1)
        np.put_along_axis(ids, places, shown, axis=1)
        edges = ((0, 0), (1, 1))
        ids, targets = np.pad(ids, edges), np.pad(targets, edges, constant_values=IGNORED)
        ids[:, 0], ids[:, -1] = self._words.cls_token_id, self._words.sep_token_id
        return MaskedBatch(ids, targets)
