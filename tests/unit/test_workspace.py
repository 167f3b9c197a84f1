"""Artefacts: identity by causes, done by a manifest written last, one writer at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sptar.errors import WorkspaceError
from sptar.steps.base import Context, Output, Step, make
from sptar.workspace import Workspace


class Count(Step):
    """Writes its number; counts how often it was built."""

    name = "count"
    built = 0

    def __init__(self, number: int, below: Step | None = None) -> None:
        self.number = number
        self.below = below

    @property
    def settings(self) -> dict[str, Any]:
        return {"number": self.number}

    @property
    def inputs(self) -> dict[str, Step]:
        return {} if self.below is None else {"below": self.below}

    def build(self, output: Output, inputs: Any, context: Context) -> dict[str, int]:
        type(self).built += 1
        output.unfinished.joinpath("scratch").write_text("x")
        output.path("number.txt").write_text(str(self.number))
        return {"number": self.number}


def test_fingerprint_follows_causes_not_objects() -> None:
    assert Count(1).fingerprint == Count(1).fingerprint
    assert Count(1).fingerprint != Count(2).fingerprint
    assert Count(1, Count(1)).fingerprint != Count(1, Count(2)).fingerprint


def test_made_once_then_reused(tmp_path: Path) -> None:
    context = Context(Workspace(tmp_path))
    Count.built = 0
    first, second = make(Count(1), context), make(Count(1), context)
    assert (first.reused, second.reused, Count.built) == (False, True, 1)
    assert second.artefact.manifest.summary == {"number": 1}
    assert not (first.artefact.folder / "unfinished").exists()


def test_unfinished_work_is_no_artefact_and_leftovers_go(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    step = Count(1)
    folder = workspace.folder("count", step.fingerprint)
    (folder / "unfinished").mkdir(parents=True)
    (folder / "half.txt").write_text("half")
    assert workspace.find("count", step.fingerprint) is None
    assert workspace.started("count", step.fingerprint)
    made = make(step, Context(workspace))
    assert made.artefact.manifest.resumed
    assert set(made.artefact.manifest.files) == {"number.txt"}


def test_damage_is_noticed(tmp_path: Path) -> None:
    context = Context(Workspace(tmp_path))
    artefact = make(Count(1), context).artefact
    (artefact.folder / "number.txt").write_text("12345")
    with pytest.raises(WorkspaceError, match=r"damaged: 'number.txt'.*Remove that folder"):
        make(Count(1), context)


def test_two_writers_cannot_meet(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    code = (
        "import sys, time\nfrom sptar.workspace import Workspace\n"
        f"with Workspace({str(tmp_path)!r}).lock('count', 'abc'):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "held"
        with (
            pytest.raises(WorkspaceError, match=f"Another process \\({other.pid}\\)"),
            workspace.lock("count", "abc"),
        ):
            pass
    finally:
        other.kill()
        other.wait()
    with workspace.lock("count", "abc"):  # freed by the system with its owner
        pass


def test_a_missing_input_says_which_verb_makes_it(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="sptar count CONFIG"):
        make(Count(1, Count(2)), Context(Workspace(tmp_path)))
