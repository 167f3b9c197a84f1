"""A process that dies before any one of its file operations: the next one ends with the same bytes.

The dying process is a real one (a fork of this one that leaves at once), so nothing is tidied up.
"""

from __future__ import annotations

import os
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sptar.blocks import JsonlBlocks
from sptar.config import DataConfig, TrainConfig
from sptar.identity import HashCache
from sptar.steps.base import Context, Output, Step, make
from sptar.steps.collection import CollectionStep, source_identity
from sptar.steps.encode import EncodeStep
from sptar.steps.recipes import ModelIdentities
from sptar.workspace import Workspace

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

DEAD = 9
OPERATIONS = ("replace", "rename", "unlink", "rmdir", "mkdir")


class Encoder:
    """Vectors that say which document they belong to."""

    dimension = 2
    block_suffix = ".npy"

    def encode_block(self, documents: Any) -> Any:
        return np.array([[len(d.text), len(d.title)] for d in documents], dtype=np.float32)

    def join_blocks(self, parts: Any) -> Any:
        return np.concatenate(parts)

    def save_block(self, path: Path, block: Any) -> None:
        np.save(path, block, allow_pickle=False)


class Rows(Step):
    """Rows in blocks, joined at the end."""

    name = "rows"

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def build(self, output: Output, inputs: Any, context: Context) -> dict[str, int]:
        blocks = JsonlBlocks.open(output.unfinished / "blocks", items=5, block_size=2)
        for block in blocks.missing():
            blocks.write(block, ({"n": n} for n in range(block.start, block.stop)))
        return {"rows": blocks.join(output.path("rows.jsonl"))}


@pytest.fixture
def encode(monkeypatch: pytest.MonkeyPatch) -> EncodeStep:
    monkeypatch.setattr("sptar.steps.encode.encoder_of", lambda *_: Encoder())
    data = DataConfig(source=str(resources.files("sptar.starter") / "toy_collection"))
    collection = CollectionStep(data=data, identity=source_identity(data, HashCache()))
    recipe = TrainConfig(start="nobody/nothing", encode_block_size=70)
    models = ModelIdentities(HashCache())
    monkeypatch.setattr(models, "of", lambda *_: "an encoder")
    return EncodeStep(collection=collection, train=None, recipe=recipe, models=models)


def dies(work: Path, step: Step, number: int) -> bool:
    """Whether a process that makes a step died before its ``number``-th file operation."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == DEAD
    done = 0

    def counted(operation: Any) -> Any:
        def operate(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            if done == number:
                os._exit(DEAD)
            done += 1
            return operation(*arguments, **named)

        return operate

    try:
        for name in OPERATIONS:
            setattr(os, name, counted(getattr(os, name)))
        make(step, Context(Workspace(work)))
    except BaseException:
        os._exit(1)
    os._exit(0)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def goes_on(work: Path, step: Step, expected: dict[str, bytes]) -> None:
    workspace = Workspace(work)
    made = make(step, Context(workspace))
    assert contents(made.artefact.folder) == expected
    assert workspace.faults(made.artefact.folder) == []


@pytest.mark.parametrize("kind", ["vectors", "rows"])
def test_a_death_before_any_file_operation(kind: str, encode: EncodeStep, tmp_path: Path) -> None:
    step = encode if kind == "vectors" else Rows()

    def workspace(name: str) -> Workspace:
        shutil.copytree(tmp_path / "inputs", tmp_path / name)
        return Workspace(tmp_path / name)

    (tmp_path / "inputs").mkdir()
    for below in step.inputs.values():
        make(below, Context(Workspace(tmp_path / "inputs")))
    expected = contents(make(step, Context(workspace("calm"))).artefact.folder)
    assert len(expected) == (3 if kind == "vectors" else 1)
    deaths = 0
    while dies(workspace(str(deaths)).root, step, deaths):
        goes_on(tmp_path / str(deaths), step, expected)
        deaths += 1
    assert deaths > 8
    assert make(step, Context(Workspace(tmp_path / str(deaths)))).reused
