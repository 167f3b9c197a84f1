"""Batches of similar length, halved when memory runs out; results keep the callers' order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from sptar.errors import ModelError
from sptar.progress import silent
from sptar.tensors.memory import free_cached_memory, is_out_of_memory
from sptar.types import Progress

__all__ = ["BatchLimit", "LengthBatches", "most_tokens_on", "pad_right"]

Result = TypeVar("Result")


_CPU_BATCH_TOKENS = 1024
"""A CPU's cores are busy with fewer tokens than that; larger batches only have more padding, and
inner values that leave the caches."""


def most_tokens_on(device: torch.device) -> int | None:
    """How many tokens a batch should have at most that is read whole; ``None``: no limit."""
    return _CPU_BATCH_TOKENS if device.type == "cpu" else None


class BatchLimit:
    """How many texts share a batch, at most: fewer from when memory runs out."""

    def __init__(self, rows: int, progress: Progress = silent) -> None:
        self.rows = rows
        self._progress = progress

    def halve(self, tried: int, tokens: int) -> None:
        """Memory ran out on ``tried`` texts, the longest of so many tokens.

        Raises:
            ModelError: it was a single text.
        """
        free_cached_memory()
        if tried == 1:
            raise ModelError(
                f"Memory ran out on a single text of {tokens} tokens.",
                hint="Set `prompt.max_document_tokens` to a smaller number, or `llm.dtype: "
                "bfloat16`.",
            )
        self.rows = tried // 2
        self._progress.message(
            f"Memory ran out with {tried} texts in a batch; going on with {self.rows}. "
            "The results are the same."
        )


class LengthBatches:
    """Runs a function over items in batches of similar length, the longest first.

    Longest first, because then a batch that does not fit into memory shows at once, and not at
    the end of a night. When memory runs out the batch is cut in half and tried again, and later
    batches stay that small.
    """

    def __init__(self, batch_size: int, progress: Progress = silent) -> None:
        self._limit = BatchLimit(batch_size, progress)

    def run(
        self,
        lengths: Sequence[int],
        work: Callable[[list[int]], list[Result]],
        *,
        equal_lengths: bool = False,
        most_tokens: int | None = None,
    ) -> list[Result]:
        """Result of each item, in the order of ``lengths``.

        Args:
            lengths: tokens of each item.
            work: given the positions of the items of one batch, returns their results.
            equal_lengths: put only items of the same length into one batch, for models that
                cannot be told which positions are padding.
            most_tokens: of a batch, padding included; a single item may have more.

        Raises:
            ModelError: a single item does not fit into memory.
        """
        order = sorted(range(len(lengths)), key=lambda item: (-lengths[item], item))
        results: dict[int, Result] = {}
        start = 0
        while start < len(order):
            rows = self._limit.rows
            if most_tokens is not None:
                rows = min(rows, max(1, most_tokens // max(1, lengths[order[start]])))
            batch = order[start : start + rows]
            if equal_lengths:
                batch = [item for item in batch if lengths[item] == lengths[batch[0]]]
            answers = _unless_out_of_memory(work, batch)
            if answers is None:
                self._limit.halve(len(batch), lengths[batch[0]])
                continue
            results.update(zip(batch, answers, strict=True))
            start += len(batch)
        return [results[item] for item in range(len(lengths))]


def _unless_out_of_memory(
    work: Callable[[list[int]], list[Result]], batch: list[int]
) -> list[Result] | None:
    # The frames of a caught exception keep the tensors of the failed batch alive; they are gone
    # only when the exception has left its handler, so nothing is retried inside of it.
    try:
        return work(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def pad_right(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [rows, longest], filled up with id 0 on the right, and the length of each row."""
    longest = max((len(row) for row in rows), default=0)
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    return ids.reshape(len(rows), longest).to(device), lengths.to(device)
