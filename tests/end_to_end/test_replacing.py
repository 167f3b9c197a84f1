"""A run of the same name as a finished one: what stays, what is asked, what takes whose place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sptar.cli.app import run_application
from sptar.steps.evaluate import EvaluateStep
from sptar.workspace import Workspace

SOURCE = str(Path(__file__).parents[2] / "src" / "sptar" / "starter" / "toy_collection")


def config_of(folder: Path, **changes: Any) -> str:
    values = {
        "name": "mine",
        "methods": ["bm25"],
        "data": {"source": SOURCE},
        "split": {"train_queries": 4, "eval_queries": 4, "eval_from": "dev"},
        **changes,
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def state(work: Path) -> dict[str, bytes]:
    """Every file of the finished run."""
    folder = work / "runs" / "mine"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert run_application([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder with a finished run."""
    work = tmp_path / "work"
    assert run_application(["run", config_of(tmp_path), "--work", str(work)]) == 0
    assert set(state(work)) >= {"config.yaml", "run.json", "report.html", "scores.csv"}
    return work


def test_other_settings_under_an_old_name_are_asked_about(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(work)
    command = ["run", config_of(tmp_path), "--work", str(work), "--set", "filter.k1=1.2"]
    planned = shown(capsys, "plan", *command[1:], "--no-probe")
    assert run_application(command) == 2
    said = capsys.readouterr().err
    assert "A run 'mine' with other settings is finished" in said
    assert "filter.k1 was 0.9 and is 1.2" in said
    assert "--replace" in said
    assert planned["refused"] in said
    assert state(work) == before
    assert [path.name for path in (work / "runs").iterdir()] == ["mine"]
    assert run_application([*command, "--replace"]) == 0
    assert "stays as it is until this one takes its place" in capsys.readouterr().err
    assert state(work)["report.html"] != before["report.html"]
    assert b"k1: 1.2" in state(work)["config.yaml"]
    # And back again, the other way round: now the first settings are the other ones.
    assert run_application(["run", config_of(tmp_path), "--work", str(work)]) == 2


def test_what_loses_no_score_is_not_asked_about(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path, note="a sentence")
    assert run_application(["run", config, "--work", str(work)]) == 0
    assert b"a sentence" in state(work)["report.html"]
    assert run_application(["run", config, "--work", str(work), "--set", "train.device=cpu"]) == 0
    # Another level is another verdict.
    assert run_application(["run", config, "--work", str(work), "--set", "evaluate.alpha=0.1"]) == 2
    assert "evaluate.alpha was 0.05 and is 0.1" in capsys.readouterr().err


def test_a_run_that_fails_leaves_the_finished_one_readable(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(work)

    def fails(*_: object) -> None:
        raise OSError("the disk is gone")

    config = config_of(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(EvaluateStep, "build", fails)
        arguments = [config, "--work", str(work), "--set", "filter.k1=1.2"]
        assert run_application(["run", *arguments, "--replace"]) == 2
        assert run_application(["evaluate", *arguments]) == 2
    assert state(work) == before
    both = shown(capsys, "status", "mine", "--work", str(work))
    assert (both["state"], both["unfinished"]["state"]) == ("finished", "not finished")
    assert both["unfinished"]["config"]["filter"]["k1"] == 1.2
    assert [step["name"] for step in both["unfinished"]["steps"]] == [
        "collection",
        "split",
        "bm25_index",
        "bm25_search",
    ]
    assert run_application(["status", "--work", str(work)]) == 0
    table = capsys.readouterr().out
    assert table.count("mine") == 2
    assert "not finished" in table
    for arguments in (["report", "mine"], ["search", "bus"], ["compare", "--runs", "mine"]):
        assert run_application([*arguments, "--work", str(work)]) == 0
    assert state(work)["report.html"] == before["report.html"]


def test_a_single_step_with_other_settings_takes_nobodys_place(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(work)
    arguments = [config_of(tmp_path), "--work", str(work)]
    assert run_application(["evaluate", *arguments]) == 0
    assert "unfinished" not in shown(capsys, "status", "mine", "--work", str(work))
    assert run_application(["evaluate", *arguments, "--set", "filter.k1=1.2"]) == 0
    assert "keeps its record" in capsys.readouterr().err
    assert shown(capsys, "status", "mine", "--work", str(work))["unfinished"]["state"] == (
        "not finished"
    )
    assert state(work) == before


def test_two_runs_of_one_name_at_once_are_refused_and_status_says_which_is_under_way(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [config_of(tmp_path), "--work", str(work)]
    with Workspace(work).lock("run", "mine"):
        assert run_application(["run", *arguments]) == 2
        assert "Another process" in capsys.readouterr().err
        # A single step may go on beside it; the draft belongs to the run.
        assert run_application(["evaluate", *arguments, "--set", "filter.k1=1.2"]) == 0
        assert not Workspace(work).run("mine").draft.exists()
        Workspace(work).run("mine").draft.mkdir()
        (Workspace(work).run("mine").draft / "run.json").write_bytes(state(work)["run.json"])
        both = shown(capsys, "status", "mine", "--work", str(work))
        assert both["unfinished"]["state"] == "under way"
