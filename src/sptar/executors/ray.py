"""Shares blocks out to the nodes of a Ray cluster.

Each worker is a Ray actor that holds what its blocks need, a loaded model for instance. Workers
write blocks themselves, so every node must see the work folder under the same path (a shared file
system). A worker or node that is lost costs the block it was at; another one does it again, with
the same bytes as a result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from sptar.blocks import Block
from sptar.errors import ConfigError, SptarError, WorkspaceError
from sptar.executors.lifeline import end_offspring_with_me
from sptar.executors.local import WorkerFactory

__all__ = ["RayExecutor"]

_TRIES = 4
"""A block whose worker is lost this often is not tried again."""


class _Actor:
    """Lives on a node; made once, then given blocks."""

    def __init__(self, factory: WorkerFactory) -> None:
        self._factory = factory
        self._work: Callable[[Block], None] | None = None

    def ready(self) -> None:
        """Answer as soon as the actor runs."""

    def work(self, block: Block) -> SptarError | OSError | None:
        """Do a block; an error that a person can mend is returned, not raised."""
        try:
            if self._work is None:
                self._work = self._factory()
            self._work(block)
        except (SptarError, OSError) as error:
            return error
        return None


class RayExecutor:
    """Workers on a Ray cluster.

    Args:
        address: of a running cluster (``auto`` for the one of this machine); by default a cluster
            on this machine is started for the run.
        workers: actors; by default one for each GPU, or for ``cpus`` cores where there is none.
        cpus: cores that an actor reserves, and its number of threads.
        gpus: GPUs that an actor reserves; by default 1 where the cluster has any.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
    """

    remote = True

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        cpus: int = 1,
        gpus: float | None = None,
    ) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "The executor 'ray' needs the package ray.", hint='Type: pip install "sptar[ray]"'
            ) from None
        if not ray.is_initialized():
            if address is None:
                # A cluster that is started here has services which outlive a killed driver.
                end_offspring_with_me()
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    configure_logging=False,
                    include_dashboard=False if address is None else None,
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"The Ray cluster {address!r} cannot be reached: {error}.",
                    hint="Start it (ray start --head), or leave --ray-address out.",
                ) from None
        self._ray: Any = ray
        present: dict[str, float] = self._ray.cluster_resources()
        self._gpus = (1.0 if present.get("GPU") else 0.0) if gpus is None else gpus
        self._cpus = cpus
        fitting = (
            int(present["GPU"] / self._gpus)
            if self._gpus
            else int(present.get("CPU", 1) // max(1, cpus))
        )
        self.workers = workers or max(1, fitting)

    def share(
        self, blocks: Sequence[Block], factory: WorkerFactory, on_done: Callable[[Block], None]
    ) -> None:
        """Do all blocks, in any order.

        Raises:
            SptarError: what a worker raised.
            WorkspaceError: a block's worker was lost again and again.
        """
        waiting = deque(blocks)
        lost: dict[int, int] = {}
        shared = self._ray.put(factory)
        # An actor gets a block only when it runs: on a cluster that has shrunk, one may wait for
        # room for ever, and must not hold a block meanwhile.
        starting: dict[Any, Any] = {}
        idle: list[Any] = []
        busy: dict[Any, tuple[Any, Block]] = {}
        failed_starts = 0

        def start() -> None:
            actor = self._actor(shared)
            starting[actor.ready.remote()] = actor

        for _ in range(min(self.workers, len(blocks))):
            start()
        try:
            while waiting or busy:
                while waiting and idle:
                    block, actor = waiting.popleft(), idle.pop()
                    busy[actor.work.remote(block)] = (actor, block)
                done, _ = self._ray.wait([*busy, *starting], num_returns=1)
                try:
                    raised = self._ray.get(done[0])
                except (
                    self._ray.exceptions.RayActorError,
                    self._ray.exceptions.ObjectLostError,
                ) as error:
                    said = " ".join(str(error).split())[:500]
                    if done[0] in starting:
                        del starting[done[0]]
                        failed_starts += 1
                        if failed_starts == _TRIES * self.workers:
                            raise WorkspaceError(
                                f"No worker can be started. Ray says: {said}",
                                hint="Is sptar installed on every node?",
                            ) from None
                    else:
                        _, block = busy.pop(done[0])
                        lost[block.number] = lost.get(block.number, 0) + 1
                        if lost[block.number] == _TRIES:
                            raise WorkspaceError(
                                f"Block {block.number} was given up: its worker was lost {_TRIES} "
                                f"times. Ray says: {said}",
                                hint="Is memory short on a node? Finished blocks are kept.",
                            ) from None
                        waiting.append(block)
                    start()
                    continue
                if done[0] in starting:
                    idle.append(starting.pop(done[0]))
                    continue
                actor, block = busy.pop(done[0])
                if raised is not None:
                    raise raised
                on_done(block)
                idle.append(actor)
        finally:
            for actor in [*starting.values(), *idle, *(actor for actor, _ in busy.values())]:
                self._ray.kill(actor)

    def _actor(self, factory: Any) -> Any:
        environment = {
            name: str(max(1, self._cpus))
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        }
        remote = self._ray.remote(_Actor).options(
            num_cpus=self._cpus, num_gpus=self._gpus, runtime_env={"env_vars": environment}
        )
        return remote.remote(factory)
