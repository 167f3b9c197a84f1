"""A finished run stays until the next one of its name is whole; a kill loses neither."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sptar.config import differences, dump_config, parse_config
from sptar.errors import WorkspaceError
from sptar.io import write_json
from sptar.pipeline import load_record, unfinished_record
from sptar.run_folders import RunFolder
from sptar.workspace import Workspace

CONFIG: dict[str, Any] = {"name": "r", "methods": ["bm25"], "data": {"source": "x"}}


def put(
    folder: Path, content: str, *, finished: bool = True, files: list[str] | None = None
) -> None:
    """A run's folder whose record and page say ``content``."""
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "name": "r",
        "finished": finished,
        "config": {"note": content},
        "methods": {},
        "steps": [],
    }
    write_json(folder / "run.json", record | ({} if files is None else {"files": files}))
    (folder / "report.html").write_text(content)


def said(workspace: Workspace) -> str:
    """What a reader of the run finds: record and page must agree."""
    record = load_record(workspace, "r")
    page = (workspace.run_folder("r") / "report.html").read_text()
    assert record.finished
    assert record.config["note"] == page
    return page


class _Killed(BaseException):
    """Stands for a kill: nothing that catches exceptions may catch it."""


def _killed_before(monkeypatch: pytest.MonkeyPatch, change: int) -> Callable[[], int]:
    """Let the process die before its change of the file system with this number."""
    made = 0

    def dying(method: Callable[..., Any]) -> Callable[..., Any]:
        def one(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            if made == change:
                raise _Killed
            made += 1
            return method(*arguments, **named)

        return one

    for name in ("rename", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(Path, name, dying(getattr(Path, name)))
    for name in ("unlink", "rmdir"):
        monkeypatch.setattr(f"os.{name}", dying(getattr(__import__("os"), name)))
    return lambda: made


@pytest.mark.parametrize("again", ["at once", "after another start"])
def test_killed_before_any_change_a_reader_finds_one_whole_run(
    again: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for change in range(100):
        workspace = Workspace(tmp_path / f"{change}")
        folder = workspace.run("r")
        put(workspace.run_folder("r"), "old", files=["report.html", "run.json"])
        (workspace.run_folder("r") / "notes.txt").write_text("mine")
        put(folder.draft, "new")
        with monkeypatch.context() as killing:
            _killed_before(killing, change)
            try:
                folder.publish()
                died = False
            except _Killed:
                died = True
        seen.append(said(workspace))
        if not died:
            break
        # The same command again: it may start anew, or find its draft whole.
        if again == "after another start":
            put(folder.begin(), "new")
        elif not folder.draft.exists():
            continue
        folder.publish()
        assert said(workspace) == "new"
        assert (workspace.run_folder("r") / "notes.txt").read_text() == "mine"
        assert sorted(path.name for path in (workspace.root / "runs").iterdir()) == ["r"]
    # Old before the renames, new after them, and never old again.
    assert seen == sorted(seen, reverse=True)
    assert {"old", "new"} == set(seen)
    assert len(seen) > 4


def test_what_a_person_put_beside_the_page_stays_and_what_a_run_wrote_goes(tmp_path: Path) -> None:
    for listed in (["comparison.csv", "report.html", "run.json"], None):
        runs = tmp_path / str(listed is None)
        folder = RunFolder(runs, "r")
        put(runs / "r", "old", files=listed)
        (runs / "r" / "comparison.csv").write_text("of the old run")
        (runs / "r" / "my notes").mkdir()
        put(folder.begin(), "new")
        folder.publish()
        assert sorted(path.name for path in (runs / "r").iterdir()) == [
            "my notes",
            "report.html",
            "run.json",
        ]


def test_a_run_under_way_hides_no_finished_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(WorkspaceError, match=r"There is no run 'r' in .* \(there: none\)"):
        load_record(workspace, "r")
    put(workspace.run("r").begin(), "first", finished=False)
    assert not load_record(workspace, "r").finished
    workspace.run("r").publish()
    put(workspace.run_folder("r"), "first")
    put(workspace.run("r").begin(), "second", finished=False)
    assert said(workspace) == "first"
    other = unfinished_record(workspace, "r")
    assert other is not None
    assert other.config["note"] == "second"
    assert workspace.run_names() == ["r"]


def test_an_unfinished_record_of_an_older_version_is_found_and_replaced(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    put(workspace.root / "runs" / "r", "older", finished=False)
    assert not load_record(workspace, "r").finished
    assert unfinished_record(workspace, "r") is not None
    put(workspace.run("r").begin(), "new")
    workspace.run("r").publish()
    assert said(workspace) == "new"
    assert unfinished_record(workspace, "r") is None


def test_a_record_that_is_none_is_said_to_be_none(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_json(workspace.root / "runs" / "r" / "run.json", {"name": "r"})
    with pytest.raises(WorkspaceError, match="is no record of a run"):
        load_record(workspace, "r")


def test_settings_in_which_two_configs_differ() -> None:
    config = parse_config({**CONFIG, "train": {"epochs": 3}})

    def changed(**values: Any) -> dict[str, Any]:
        return differences(config, parse_config({**CONFIG, "train": {"epochs": 3}, **values}))

    assert changed() == {}
    assert changed(note="other", name="other") == {}
    assert (
        changed(train={"epochs": 3, "device": "cpu", "encode_batch_size": 1})
        == {
            # Speed changes no result; that they are written out is no difference.
        }
    )
    assert changed(seed=1, train={"epochs": 4}) == {"seed": (42, 1), "train.epochs": (3, 4)}
    # The row's value may differ from the section's default: writing that out is a difference.
    assert changed(train={"epochs": 3, "towers": "shared"}) == {"train.towers": (None, "shared")}
    assert changed(split={"carve_from": "x", "carve_test_queries": 5}) == {
        "split.carve_from": (None, "x"),
        "split.carve_test_queries": (0, 5),
    }
    assert changed(llm={"name": "m"})["llm.name"] == (None, "m")
    assert dump_config(config)["train"] == {"epochs": 3}
