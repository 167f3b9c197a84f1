"""What a trial has found out about a causal language model, and the forward pass that heeds it.

Families of models differ in the names and the meaning of a forward pass' arguments, and each new
release of a library may rename one; an unknown name can vanish in ``**kwargs`` without a sound. So
nothing here goes by the name of a model: :mod:`sptar.llm.trial` tries, and this is what it found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

__all__ = ["Verdict", "forward"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which ways of running a model give what one plain pass over the whole prompt gives.

    Attributes:
        takes_embeddings: embeddings in place of ids, so that virtual tokens can stand in front.
        takes_positions: explicit positions, counted from 0.
        hides_padding: rows of different lengths in one plain pass, padded on the right and masked.
        takes_logits_to_keep: logits of chosen columns only.
        cache_argument: the name under which the forward pass takes a cache; ``None``: it takes
            none that can be continued.
        continues: the model's own kind of cache, filled in one pass and continued in the next.
        shares: a cache of plain keys and values, filled once and copied for several rows.
        mixes_lengths: such rows may have different lengths.
    """

    takes_embeddings: bool
    takes_positions: bool
    hides_padding: bool
    takes_logits_to_keep: bool
    cache_argument: str | None
    continues: bool
    shares: bool
    mixes_lengths: bool

    @property
    def road(self) -> str:
        """How prompts are run, in words."""
        if self.shares:
            return "the shared part of the prompts once, each document behind it"
        if self.continues:
            return "each prompt on its own, with a cache"
        return "each prompt whole for every new token, without a cache"


def forward(
    model: Any, verdict: Verdict, values: dict[str, Any], cache: Any, keep: int
) -> tuple[torch.Tensor, Any]:
    """Logits of the last ``keep`` columns, and the cache if it is one that can be continued."""
    extra: dict[str, Any] = {"logits_to_keep": keep} if verdict.takes_logits_to_keep else {}
    if verdict.cache_argument is None:
        return model(**values, **extra, use_cache=False).logits[:, -keep:], None
    if cache is not None:
        extra[verdict.cache_argument] = cache
    outputs = model(**values, **extra, use_cache=True)
    made = [value for value in outputs.values() if isinstance(value, Cache)]
    return outputs.logits[:, -keep:], made[0] if made else None
