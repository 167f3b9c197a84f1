"""Blocks shared out to processes and to a Ray cluster: same bytes, and no loss when one dies."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from alive import assert_all_end, numbers_written
from sptar.blocks import Block, JsonlBlocks
from sptar.errors import DataError, WorkspaceError
from sptar.executors.local import LocalExecutor
from sptar.executors.processes import ProcessExecutor


@dataclass(frozen=True)
class Squares:
    """A worker factory: writes the squares of a block's numbers and who did it.

    ``suicide`` is a block whose worker kills itself the first ``times`` times.
    """

    folder: Path
    items: int
    suicide: int | None = None
    times: int = 1
    seconds: float = 0.0
    broken: int | None = None
    error: Exception | None = None

    def __call__(self):
        blocks = JsonlBlocks.open(self.folder, items=self.items, block_size=3)

        def work(block: Block) -> None:
            with (self.folder / f"tries-{block.number}").open("a") as stream:
                stream.write(f"{os.getpid()}\n")
            if block.number == self.broken:
                raise self.error or DataError("this block is broken.")
            if block.number == self.suicide:
                tries = (self.folder / f"tries-{block.number}").read_text().count("\n")
                if tries <= self.times:
                    os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
            blocks.write(block, ({"square": n * n} for n in range(block.start, block.stop)))

        return work


def done_by(executor, factory):
    """Bytes of the joined blocks, and the blocks in the order in which they were done."""
    blocks = JsonlBlocks.open(factory.folder, items=factory.items, block_size=3)
    order = []
    executor.share(blocks.missing(), factory, lambda block: order.append(block.number))
    blocks.join(factory.folder / "joined.jsonl")
    return (factory.folder / "joined.jsonl").read_bytes(), order


def tries(folder: Path) -> dict[int, int]:
    return {
        int(path.name.removeprefix("tries-")): path.read_text().count("\n")
        for path in folder.glob("tries-*")
    }


@pytest.fixture
def expected(tmp_path):
    joined, order = done_by(LocalExecutor(), Squares(tmp_path / "local", 10))
    assert order == [0, 1, 2, 3]
    return joined


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_processes_write_the_same_bytes(workers, expected, tmp_path):
    joined, order = done_by(ProcessExecutor(workers, 1), Squares(tmp_path / "p", 10))
    assert joined == expected
    assert sorted(order) == [0, 1, 2, 3]


def test_a_killed_process_costs_one_block(expected, tmp_path):
    factory = Squares(tmp_path / "p", 10, suicide=1)
    joined, _ = done_by(ProcessExecutor(2, 1), factory)
    assert joined == expected
    assert tries(factory.folder) == {0: 1, 1: 2, 2: 1, 3: 1}


def test_a_block_that_kills_every_worker_is_given_up(tmp_path):
    factory = Squares(tmp_path / "p", 10, suicide=0, times=99)
    with pytest.raises(WorkspaceError, match="Block 0 was given up"):
        done_by(ProcessExecutor(1, 1), factory)
    assert tries(factory.folder)[0] == 3


def test_the_error_of_a_worker_is_the_error_of_the_run(tmp_path):
    with pytest.raises(DataError, match="this block is broken"):
        done_by(ProcessExecutor(2, 1), Squares(tmp_path / "p", 10, broken=2))


def test_a_worker_that_dies_while_it_has_nothing_to_do(expected, tmp_path):
    """It was free to be given the next block: that one goes to another worker."""
    factory = Squares(tmp_path / "p", 10)
    blocks = JsonlBlocks.open(factory.folder, items=10, block_size=3)
    done = []

    def kill_its_worker(block: Block) -> None:
        done.append(block.number)
        pid = int((factory.folder / f"tries-{block.number}").read_text())
        os.kill(pid, signal.SIGKILL)
        assert_all_end([pid])

    ProcessExecutor(1, 1).share(blocks.missing(), factory, kill_its_worker)
    assert sorted(done) == [0, 1, 2, 3]
    blocks.join(factory.folder / "joined.jsonl")
    assert (factory.folder / "joined.jsonl").read_bytes() == expected


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space", "x"), MemoryError("none")])
def test_what_a_worker_lacks_is_no_bug(tmp_path, error):
    with pytest.raises(type(error), match=str(error.args[-1])) as raised:
        done_by(ProcessExecutor(1, 1), Squares(tmp_path / "p", 10, broken=0, error=error))
    assert getattr(raised.value, "errno", None) == getattr(error, "errno", None)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(tmp_path, how):
    parent = subprocess.Popen([sys.executable, "-m", "process_checks", "share", tmp_path])
    try:
        pids = numbers_written(tmp_path, 2, parent)
    finally:
        parent.send_signal(how)
        parent.wait()
    assert_all_end(pids)


def test_workers_end_also_where_the_system_kills_nobody(tmp_path):
    """The thread that waits for the parent does it alone."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nsys.platform = 'elsewhere'\nfrom pathlib import Path\n"
        "from process_checks import share\n"
        "if __name__ == '__main__':\n    share(Path(sys.argv[1]))\n"
    )
    parent = subprocess.Popen([sys.executable, script, tmp_path])
    try:
        pids = numbers_written(tmp_path, 2, parent)
    finally:
        parent.kill()
        parent.wait()
    assert_all_end(pids)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells the environment")
def test_a_service_ends_with_the_process_that_started_it(tmp_path):
    """Also one that has left its parent, its session and everything else that could be followed."""
    parent = subprocess.Popen([sys.executable, "-m", "process_checks", "start_a_service", tmp_path])
    try:
        pids = numbers_written(tmp_path, 1, parent)
    finally:
        parent.kill()
        parent.wait()
    assert_all_end(pids)


def test_processes_get_their_threads_and_leave_the_environment_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    factory = Threads(tmp_path)
    ProcessExecutor(1, 3).share([Block(0, 0, 1)], factory, lambda block: None)
    assert (tmp_path / "threads").read_text() == "3"
    assert os.environ["OMP_NUM_THREADS"] == "7"


@dataclass(frozen=True)
class Threads:
    """A worker factory that writes down the number of threads it was given."""

    folder: Path

    def __call__(self):
        def work(block: Block) -> None:
            (self.folder / "threads").write_text(os.environ["OMP_NUM_THREADS"])

        return work


@pytest.fixture(scope="module")
def cluster():
    """A cluster of three nodes with one core each."""
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Workers cannot import this file: its classes travel by value.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    # A lost node is noticed within seconds.
    watchful = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        # One that is only slow, on a busy machine, is not lost.
        "health_check_timeout_ms": 20_000,
        "health_check_failure_threshold": 5,
    }
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": watchful})
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, configure_logging=False)
    yield made
    ray.shutdown()
    made.shutdown()


def test_ray_writes_the_same_bytes_on_several_nodes(cluster, expected, tmp_path):
    from sptar.executors.ray import RayExecutor

    for workers in (1, 2):
        factory = Squares(tmp_path / f"ray{workers}", 10)
        joined, order = done_by(RayExecutor(workers=workers), factory)
        assert joined == expected
        assert sorted(order) == [0, 1, 2, 3]


def test_a_killed_ray_worker_costs_one_block(cluster, expected, tmp_path):
    from sptar.executors.ray import RayExecutor

    factory = Squares(tmp_path / "ray", 10, suicide=2)
    joined, _ = done_by(RayExecutor(workers=2), factory)
    assert joined == expected
    assert tries(factory.folder) == {0: 1, 1: 1, 2: 2, 3: 1}


def test_the_error_of_a_ray_worker_is_the_error_of_the_run(cluster, tmp_path):
    from sptar.executors.ray import RayExecutor

    with pytest.raises(DataError, match="this block is broken"):
        done_by(RayExecutor(workers=2), Squares(tmp_path / "ray", 10, broken=1))


def test_a_lost_node_is_survived(cluster, tmp_path):
    from sptar.executors.ray import RayExecutor

    expected, _ = done_by(LocalExecutor(), Squares(tmp_path / "local", 24))
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    executor = RayExecutor(workers=3)
    factory = Squares(tmp_path / "ray", 24, seconds=0.8)
    lost = threading.Timer(2.5, lambda: cluster.remove_node(node, allow_graceful=False))
    lost.start()
    joined, order = done_by(executor, factory)
    lost.join()
    assert joined == expected
    assert sorted(order) == list(range(8))
