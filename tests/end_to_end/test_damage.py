"""One byte changed in any file of a run: `sptar verify` tells, and so does the step that reads it.

Size and times of the file stay as they were.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sptar.cli.app import run_application
from sptar.config import load_config
from sptar.graph.methods import build_graph
from sptar.workspace import Workspace

MakeConfig = Callable[..., Path]

READ_BY = {
    ("collection", "collection/corpus.jsonl"): "bm25_index",
    ("collection", "collection/corpus.offsets.npy"): "bm25_index",
    ("collection", "collection/queries.jsonl"): "split",
    ("collection", "collection/qrels/*.tsv"): "split",
    ("bm25_index", "index/*"): "rank",
    ("split", "split/*"): "select",
    ("tune", "adapter/*.safetensors"): "select",
    ("select", "selection.json"): "augment",
    ("augment", "weak_queries.jsonl"): "rank",
    ("rank", "ranked.jsonl"): "filter",
    ("filter", "decisions.jsonl"): "pairs",
    ("pairs", "pairs.jsonl"): "mine",
    ("mine", "negatives.jsonl"): "train",
    ("train", "model/**/*.safetensors"): "encode",
    ("train", "model/**/*.json"): "encode",
    ("encode", "vectors/*"): "search",
    ("search", "run.trec.gz"): "evaluate",
    ("evaluate", "scores.json"): "compare",
}
"""(step, its files) → a step that reads them."""


@pytest.fixture(scope="module")
def config(make_config: MakeConfig) -> Path:
    return make_config("damage", methods=["bm25", "sptar"], train={"negatives": "bm25"})


@pytest.fixture(scope="module")
def work(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    assert run_application(["run", str(config), "--work", str(folder)]) == 0
    return folder


@contextmanager
def one_byte_changed(path: Path) -> Iterator[None]:
    before, times = path.read_bytes(), path.stat()
    changed = bytearray(before)
    changed[len(changed) // 2] ^= 1
    path.write_bytes(bytes(changed))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    yield
    path.write_bytes(before)


def files_of(work: Path) -> list[Path]:
    return [path for path in sorted((work / "artefacts").rglob("*")) if path.is_file()]


def test_verify_tells_of_every_file(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_application(["verify", "--work", str(work)]) == 0
    assert "are as they were written" in capsys.readouterr().out
    files = files_of(work)
    steps = {path.relative_to(work / "artefacts").parts[0].partition("-")[0] for path in files}
    assert {step for step, _ in READ_BY} | {"compare", "bm25_search"} == steps
    unnoticed = []
    for path in files:
        if path.stat().st_size == 0:
            continue
        with one_byte_changed(path):
            code = run_application(["verify", "--json", "--work", str(work)])
            found = json.loads(capsys.readouterr().out)
        artefact = path.relative_to(work / "artefacts").parts[0]
        if code != 1 or list(found["faults"]) != [artefact] or len(found["faults"][artefact]) != 1:
            unnoticed.append(path)
    assert unnoticed == []
    assert run_application(["verify", "--work", str(work)]) == 0


@pytest.mark.parametrize(("artefact", "pattern"), READ_BY)
def test_the_step_that_reads_it_refuses(
    artefact: str,
    pattern: str,
    config: Path,
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader = READ_BY[artefact, pattern]
    folder = next((work / "artefacts").glob(f"{artefact}-*"))
    files = [path for path in folder.glob(pattern) if path.is_file()]
    assert files
    fingerprint = folder.name.partition("-")[2]
    for dependent in (work / "artefacts").glob(f"{reader}-*"):
        manifest = json.loads((dependent / "manifest.json").read_text())
        if fingerprint in manifest["inputs"].values():
            dependent.rename(tmp_path / dependent.name)
    assert list(tmp_path.iterdir())
    try:
        for path in files:
            with one_byte_changed(path):
                assert run_application(["run", str(config), "--work", str(work)]) == 2
            said = capsys.readouterr().err
            assert f"is damaged: '{path.relative_to(folder).as_posix()}' has changed" in said
            assert "Remove that folder and run again" in said
    finally:
        for dependent in tmp_path.iterdir():
            shutil.rmtree(work / "artefacts" / dependent.name, ignore_errors=True)
            dependent.rename(work / "artefacts" / dependent.name)


def test_steps_look_again_at_the_models_that_they_read(
    config: Path, tmp_path: Path, tiny_models: dict[str, Path], tiny_encoder: Path
) -> None:
    steps = build_graph(load_config(config), Workspace(tmp_path)).steps()
    named = {step.name: set(step.outside) for step in steps}
    for name in ("tune", "select", "augment"):
        assert str(tiny_models["llama"]) in named[name]
    assert str(tiny_encoder) in named["train"]
    assert named["encode"] == set()  # the trained one is an artefact
    (zero_shot,) = (
        step
        for step in build_graph(
            load_config(config, ["methods=[zero_shot]"]), Workspace(tmp_path)
        ).steps()
        if step.name == "encode"
    )
    assert str(tiny_encoder) in zero_shot.outside


def test_verify_of_nothing_is_a_users_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(["verify", "--work", str(tmp_path / "no")]) == 2
    assert "There is no work folder" in capsys.readouterr().err
