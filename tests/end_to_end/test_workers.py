"""The same bytes whoever does the work: this process, several processes, a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sptar.cli.app import run_application

MakeConfig = Callable[..., Path]
COMPARED = ("augment", "encode")


def results(work: Path) -> dict[str, bytes]:
    """Bytes of the weak queries and of all vectors."""
    return {
        path.relative_to(work).as_posix(): path.read_bytes()
        for step in COMPARED
        for folder in (work / "artefacts").glob(f"{step}-*")
        for path in folder.rglob("*")
        if path.suffix in (".jsonl", ".npy")
    }


@pytest.fixture(scope="module")
def config(make_config: MakeConfig) -> Path:
    return make_config("workers", methods=["zero_shot", "sptar"])


@pytest.fixture(scope="module")
def expected(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    work = tmp_path_factory.mktemp("local")
    assert run_application(["encode", str(config), "--work", str(work)]) == 0
    found = results(work)
    assert len(found) > 4
    return found


def test_processes(config, expected, tmp_path):
    line = ["encode", str(config), "--work", str(tmp_path), "--workers", "2"]
    assert run_application(line) == 0
    assert results(tmp_path) == expected


def test_ray(config, expected, tmp_path):
    ray = pytest.importorskip("ray")
    line = ["encode", str(config), "--work", str(tmp_path), "--executor", "ray", "--workers", "2"]
    try:
        assert run_application(line) == 0
    finally:
        ray.shutdown()
    assert results(tmp_path) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--executor", "slurm"], "There is no executor 'slurm'"),
        (["--executor", "local", "--workers", "2"], "contradict each other"),
        (["--executor", "processes", "--ray-address", "auto"], "contradict each other"),
    ],
)
def test_wrong_options_are_told(config, tmp_path, capsys, options, message):
    assert run_application(["run", str(config), "--work", str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err
