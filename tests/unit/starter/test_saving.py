"""Folders that are replaced whole: at no moment is there less than one of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sptar.starter.saving import whole_folder


def write(folder: Path, text: str) -> None:
    with whole_folder(folder) as unfinished:
        (unfinished / "file").write_text(text)


def test_a_new_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write(tmp_path / "model", text)
        assert (tmp_path / "model" / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failure_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "model", "old")
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "model"):
        raise RuntimeError
    assert (tmp_path / "model" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("at", range(4))
def test_a_kill_leaves_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Before each renaming and removal; what a kill leaves is put right by the next writer."""
    write(tmp_path / "model", "old")
    done = 0

    def counted(operation):
        def operate(*arguments, **named):
            nonlocal done
            done += 1
            if done > at:  # dead: nothing more is done, the tidying up neither
                raise KeyboardInterrupt
            return operation(*arguments, **named)

        return operate

    with monkeypatch.context() as dying:
        dying.setattr("sptar.starter.saving.Path.rename", counted(Path.rename))
        dying.setattr("sptar.starter.saving.shutil.rmtree", counted(shutil.rmtree))
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "model", "new")
    left = {path.read_text() for path in tmp_path.rglob("file")}
    assert left & {"old", "new"}
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "model"):
        assert (tmp_path / "model" / "file").read_text() in ("old", "new")
        raise RuntimeError
    write(tmp_path / "model", "newer")
    assert (tmp_path / "model" / "file").read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
