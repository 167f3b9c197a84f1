"""Shares blocks out to processes of this machine, each with threads of its own.

Matrix products of small models gain little from a second thread; two processes with one thread
each do about twice the work of one. Each process holds a model of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from sptar.blocks import Block
from sptar.errors import SptarError, WorkspaceError
from sptar.executors.lifeline import end_with_parent
from sptar.executors.local import WorkerFactory

__all__ = ["ProcessExecutor"]

_TRIES = 3
"""A block whose worker dies this often is not tried again."""

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


_END = 5.0
"""Seconds that a worker gets to end when it is asked to."""


def _serve(connection: Connection, factory: WorkerFactory) -> None:
    """What a worker process does: blocks come in, ``None`` or an exception goes back."""
    end_with_parent()
    try:
        work = factory()
        while (block := connection.recv()) is not None:
            work(block)
            connection.send(None)
    except (EOFError, KeyboardInterrupt):
        return
    except BaseException as error:
        with contextlib.suppress(OSError):  # nobody listens any more
            connection.send(_told(error))


def _told(error: BaseException) -> Exception:
    """An error that can travel: what a person can mend stays what it is."""
    if isinstance(error, SptarError):
        return error
    if isinstance(error, OSError):
        parts = (error.errno, error.strerror, error.filename)
        return OSError(str(error)) if error.errno is None else OSError(*parts)
    if isinstance(error, MemoryError):
        return MemoryError(*map(str, error.args))
    return RuntimeError(repr(error))


@dataclass
class _Process:
    process: Any
    connection: Connection
    block: Block | None = None

    def give(self, block: Block) -> bool:
        """Hand a block over; false if the worker has died while it had nothing to do."""
        try:
            self.connection.send(block)
        except OSError:
            return False
        self.block = block
        return True


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

        def died(worker: _Process, block: Block) -> None:
            pool.remove(worker)
            self._end([worker])
            deaths[block.number] = deaths.get(block.number, 0) + 1
            if deaths[block.number] == _TRIES:
                raise WorkspaceError(
                    f"Block {block.number} was given up: its worker died {_TRIES} times.",
                    hint="Is memory short? Use fewer --workers. Finished blocks are kept.",
                )
            waiting.append(block)

        try:
            while waiting or any(worker.block is not None for worker in pool):
                while len(pool) < min(self.workers, len(waiting) + len(pool)):
                    pool.append(self._start(factory))
                for worker in [worker for worker in pool if worker.block is None]:
                    if waiting and not worker.give(given := waiting.popleft()):
                        died(worker, given)
                busy = [worker for worker in pool if worker.block is not None]
                if not busy:
                    continue  # to wait for nobody would take for ever
                ready = wait([worker.connection for worker in busy])
                for worker in [worker for worker in busy if worker.connection in ready]:
                    block = worker.block
                    assert block is not None
                    try:
                        raised = worker.connection.recv()
                    except (EOFError, OSError):
                        died(worker, block)
                        continue
                    if raised is not None:
                        raise raised
                    worker.block = None
                    on_done(block)
        finally:
            self._end(pool)

    @staticmethod
    def _end(pool: Sequence[_Process]) -> None:
        """Make sure that nobody is left."""
        for worker in pool:
            worker.connection.close()
            worker.process.terminate()
        for worker in pool:
            worker.process.join(_END)
            if worker.process.is_alive():
                worker.process.kill()
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
