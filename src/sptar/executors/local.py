"""Works through blocks in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sptar.blocks import Block

__all__ = ["LocalExecutor"]


class LocalExecutor:
    """The executor that is always there: no workers, the libraries' own threads."""

    def run(self, blocks: Sequence[Block], work: Callable[[Block], None]) -> None:
        """Do ``work`` for each block in order; ``work`` writes the block itself."""
        for block in blocks:
            work(block)
