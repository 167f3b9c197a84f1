"""Shares blocks out to processes of this machine, each with threads of its own.

Matrix products of small models gain little from a second thread; two processes with one thread
each do about twice the work of one. Each process holds a model of its own.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from sptar.blocks import Block
from sptar.errors import SptarError, WorkspaceError
from sptar.executors.local import WorkerFactory

__all__ = ["ProcessExecutor"]

_TRIES = 3
"""A block whose worker dies this often is not tried again."""

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def _serve(connection: Connection, factory: WorkerFactory) -> None:
    """What a worker process does: blocks come in, ``None`` or an exception goes back."""
    try:
        work = factory()
        while (block := connection.recv()) is not None:
            work(block)
            connection.send(None)
    except (EOFError, KeyboardInterrupt):
        return
    except BaseException as error:
        connection.send(error if isinstance(error, SptarError) else RuntimeError(repr(error)))


@dataclass
class _Process:
    process: Any
    connection: Connection
    block: Block | None = None


class ProcessExecutor:
    """Workers in processes of this machine.

    Args:
        workers: how many.
        threads: of each worker; by default the cores are shared out evenly.
    """

    remote = True

    def __init__(self, workers: int, threads: int | None = None) -> None:
        if workers < 1:
            raise ValueError("at least one worker is needed")
        self.workers = workers
        self.threads = threads or max(1, (os.cpu_count() or 1) // workers)

    def share(
        self, blocks: Sequence[Block], factory: WorkerFactory, on_done: Callable[[Block], None]
    ) -> None:
        """Do all blocks, in any order; a worker that dies costs the block it was at.

        Raises:
            SptarError: what a worker raised.
            WorkspaceError: a block's worker died again and again.
        """
        waiting = deque(blocks)
        deaths: dict[int, int] = {}
        pool: list[_Process] = []
        try:
            while waiting or any(worker.block is not None for worker in pool):
                while len(pool) < min(self.workers, len(waiting) + len(pool)):
                    pool.append(self._start(factory))
                for worker in pool:
                    if worker.block is None and waiting:
                        worker.block = waiting.popleft()
                        worker.connection.send(worker.block)
                ready = wait([worker.connection for worker in pool if worker.block is not None])
                for worker in [worker for worker in pool if worker.connection in ready]:
                    block = worker.block
                    assert block is not None
                    try:
                        raised = worker.connection.recv()
                    except (EOFError, OSError):
                        pool.remove(worker)
                        deaths[block.number] = deaths.get(block.number, 0) + 1
                        if deaths[block.number] == _TRIES:
                            raise WorkspaceError(
                                f"Block {block.number} was given up: its worker died "
                                f"{_TRIES} times.",
                                hint="Is memory short? Use fewer --workers. Finished blocks are "
                                "kept.",
                            ) from None
                        waiting.append(block)
                        continue
                    if raised is not None:
                        raise raised
                    worker.block = None
                    on_done(block)
        finally:
            for worker in pool:
                worker.connection.close()
                worker.process.terminate()
            for worker in pool:
                worker.process.join()

    def _start(self, factory: WorkerFactory) -> _Process:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        before = {name: os.environ.get(name) for name in _THREAD_SETTINGS}
        # Libraries read these when they are loaded, which a spawned process does afresh.
        os.environ.update(dict.fromkeys(_THREAD_SETTINGS, str(self.threads)))
        try:
            process = context.Process(target=_serve, args=(theirs, factory), daemon=True)
            process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        theirs.close()
        return _Process(process, ours)
