"""The first answer of a trial is the one that everybody takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sptar import trials
from sptar.errors import DataError
from sptar.steps.base import Context
from sptar.workspace import Workspace


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_known", {})


class Counted:
    """A trial whose answers are 1, 2, 3 …"""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> dict[str, Any]:
        self.made += 1
        return {"answer": self.made}


def test_a_work_folder_keeps_the_first_answer(tmp_path: Path) -> None:
    trial = Counted()
    Context(Workspace(tmp_path / "one"))
    assert [trials.kept("speed", trial) for _ in range(3)] == [{"answer": 1}] * 3
    assert json.loads((tmp_path / "one" / "trials" / "speed.json").read_text()) == {"answer": 1}
    Context(Workspace(tmp_path / "two"))
    assert trials.kept("speed", trial) == {"answer": 2}
    # Another process in the first folder, later.
    trials._known.clear()
    Context(Workspace(tmp_path / "one"))
    assert trials.kept("speed", trial) == {"answer": 1}
    assert trials.kept("size", trial) == {"answer": 3}
    assert sorted(path.name for path in (tmp_path / "one" / "trials").iterdir()) == [
        "size.json",
        "speed.json",
    ]


def test_processes_that_are_started_take_the_answer(tmp_path: Path) -> None:
    Context(Workspace(tmp_path))
    trials.kept("speed", lambda: {"answer": "first"})
    code = "from sptar import trials; print(trials.kept('speed', dict))"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said == "{'answer': 'first'}\n"


def test_of_two_that_try_at_once_the_first_to_be_done_decides(tmp_path: Path) -> None:
    trials.keep_in(tmp_path)

    def slow() -> dict[str, Any]:
        (tmp_path / "speed.json").write_text('{"answer": "of the other"}')
        return {"answer": "mine"}

    assert trials.kept("speed", slow) == {"answer": "of the other"}
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


def test_without_a_folder_the_answer_holds_as_long_as_the_process() -> None:
    trial = Counted()
    assert [trials.kept("speed", trial) for _ in range(3)] == [{"answer": 1}] * 3


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trials.keep_in(tmp_path / "file" / "trials")
    assert trials.kept("speed", Counted()) == {"answer": 1}


def test_a_damaged_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text("{")
    trials.keep_in(tmp_path)
    with pytest.raises(DataError, match=r"speed\.json"):
        trials.kept("speed", Counted())
