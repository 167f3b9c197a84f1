"""The batches of each training step, drawn by the seed and the step's number alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from sequences import IGNORED, PairStore, Template, TokenSequence
from torch.utils.data import DataLoader, Dataset
from wordings import alike

if TYPE_CHECKING:
    from language_model import Settings


@dataclass(frozen=True)
class Batch:
    """Token ids and targets ``[rows, tokens]``; ``tokens`` of them are no padding.

    Arrays, not tensors: those of many worker processes would run out of file handles.
    """

    ids: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]
    tokens: int

    def to(self, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and targets as tensors."""
        ids, targets = (torch.from_numpy(x).long().to(device) for x in (self.ids, self.targets))
        return ids, targets


def padded(sequences: Sequence[TokenSequence]) -> Batch:
    """Rows of equal length, padded on the right: no real token sees that."""
    longest = max(len(sequence.ids) for sequence in sequences)
    ids = np.zeros((len(sequences), longest), dtype=np.int32)
    targets = np.full_like(ids, IGNORED)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence.ids)] = sequence.ids
        targets[row, : len(sequence.ids)] = sequence.targets
    return Batch(ids, targets, sum(len(sequence.ids) for sequence in sequences))


def batches_of_step(
    store: PairStore,
    template: Template,
    *,
    seed: int,
    step: int,
    tokens: int,
    limit: int,
    most_pairs: int = 3,
    reworded_share: float = 0.0,
) -> list[Batch]:
    """One step's sequences, together about ``tokens``, packed by length into four or five.

    Each has one to ``most_pairs`` pairs; ``reworded_share`` of them share a wording as well.
    """
    order = random.Random(f"{seed}/{step}")
    sequences: list[TokenSequence] = []
    drawn = 0
    while drawn < tokens:
        pairs = alike(store.draw(order, order.randint(1, most_pairs)), reworded_share, order)
        sequences.append(template.sequence(pairs, limit))
        drawn += len(sequences[-1].ids)
    sequences.sort(key=lambda sequence: len(sequence.ids))
    packed: list[list[TokenSequence]] = [[]]
    for sequence in sequences:
        if packed[-1] and (len(packed[-1]) + 1) * len(sequence.ids) > tokens / 4:
            packed.append([])
        packed[-1].append(sequence)
    return [padded(batch) for batch in packed]


class Steps(Dataset[list[Batch]]):
    """The batches of each step, by its number."""

    def __init__(self, store: PairStore, template: Template, settings: Settings) -> None:
        self._store, self._template, self._settings = store, template, settings

    def __len__(self) -> int:
        return self._settings.steps

    def __getitem__(self, step: int) -> list[Batch]:
        settings = self._settings
        if not 0 <= step < settings.steps:
            raise IndexError(f"there is no step {step} of {settings.steps}")
        if random.Random(f"{settings.seed}/kind/{step}").random() < settings.plain_share:
            return self._plain_text(step)
        return batches_of_step(
            self._store,
            self._template,
            seed=settings.seed,
            step=step,
            tokens=settings.step_tokens,
            limit=settings.sequence_tokens,
            most_pairs=settings.most_pairs,
            reworded_share=settings.reworded_share,
        )

    def _plain_text(self, step: int) -> list[Batch]:
        """Documents one behind the other, every token a target."""
        order = random.Random(f"{self._settings.seed}/plain/{step}")
        words, length = self._template.words, self._settings.sequence_tokens
        rows = np.empty((max(1, self._settings.step_tokens // length // 4), length), dtype=np.int32)
        batches = []
        for _ in range(4):
            for row in rows:
                ids: list[int] = []
                while len(ids) < length:
                    document = self._store.draw(order, 1)[0].document
                    ids += [*words(document), words.model.end_token_id]
                row[:] = ids[:length]
            batches.append(Batch(rows.copy(), rows.copy(), rows.size))
        return batches

    def from_step(self, first: int, start_method: str | None = None) -> Iterator[list[Batch]]:
        """Step after step, made ahead by other processes where the settings say so.

        ``start_method`` is how those begin (``fork``, ``spawn``, …); ``None`` takes the platform's.
        """
        workers = self._settings.workers
        loader: DataLoader[Any] = DataLoader(
            self,
            batch_size=None,
            sampler=range(first, len(self)),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            collate_fn=_unchanged,
            multiprocessing_context=start_method if workers else None,
        )
        return iter(loader)


def _unchanged(batches: list[Batch]) -> list[Batch]:
    return batches
