"""How many tokens a model's table of positions holds, found out by watching it at work.

A config's ``max_position_embeddings`` is the number of rows of that table, which is not always the
number of tokens that can be read: RoBERTa and its kin keep the first rows for padding. What a model
looks up for two texts of known lengths says where it begins to count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["readable_tokens"]

_LENGTHS = (20, 37)
"""Beyond the first tokens, where tables of relative distances count as tables of positions do."""


class _LookUps(TorchFunctionMode):
    """Remembers for each table of vectors its rows and the highest row that was looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.highest: dict[tuple[int, int], int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.embedding:
            rows = args[0] if args else kwargs["input"]
            table = args[1] if len(args) > 1 else kwargs["weight"]
            if rows.numel():
                key = (table.data_ptr(), table.shape[0])
                self.highest[key] = max(self.highest.get(key, -1), int(rows.max()))
        return func(*args, **kwargs)


@torch.inference_mode()
def readable_tokens(read: Callable[[int], object], most: int | None = None) -> int | None:
    """How many tokens a model can read before its table of positions ends.

    Args:
        read: runs the model on one text of so many tokens, the same token again and again.
        most: the most tokens that may be tried; with fewer than about 40 nothing is tried.

    Returns:
        ``None``: there is no such table (positions are computed, as rotary ones are).
    """
    if most is not None and most < _LENGTHS[1]:
        return None
    seen = []
    for length in _LENGTHS:
        with _LookUps() as look_ups:
            read(length)
        seen.append(look_ups.highest)
    shorter, longer = seen
    bounds = [
        rows - (highest - (_LENGTHS[1] - 1))
        for (table, rows), highest in longer.items()
        if highest - shorter.get((table, rows), highest) == _LENGTHS[1] - _LENGTHS[0]
    ]
    return min(bounds, default=None)
