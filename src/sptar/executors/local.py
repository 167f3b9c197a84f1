"""Works through blocks in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from sptar.blocks import Block

__all__ = ["Executor", "LocalExecutor", "Worker", "WorkerFactory"]

Worker = Callable[[Block], None]
"""Does one block and writes its result itself, whole or not at all."""

WorkerFactory = Callable[[], Worker]
"""Makes a worker: loads what it needs once, for all blocks that it gets."""


class Executor(Protocol):
    """Has blocks done, each at least once; a block done twice gives the same bytes.

    ``remote`` says whether workers live in other processes: then the factory is pickled, and
    progress is counted in whole blocks.
    """

    remote: bool

    def share(
        self, blocks: Sequence[Block], factory: WorkerFactory, on_done: Callable[[Block], None]
    ) -> None:
        """Do all blocks; ``on_done`` is called in this process after each."""
        ...


class LocalExecutor:
    """The executor that is always there: no workers, the libraries' own threads."""

    remote = False

    def share(
        self, blocks: Sequence[Block], factory: WorkerFactory, on_done: Callable[[Block], None]
    ) -> None:
        """Do the blocks in order."""
        work = factory()
        for block in blocks:
            work(block)
            on_done(block)
