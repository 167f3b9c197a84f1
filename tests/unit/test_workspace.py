"""Artefacts: identity by causes, done by a manifest written last, one writer at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sptar.config import DataConfig
from sptar.data import sources
from sptar.errors import DataError, WorkspaceError
from sptar.io import read_sealed, write_json
from sptar.steps.base import Context, Output, Step, make
from sptar.steps.collection import CollectionStep, source_identity
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


def changed(content: bytes, place: int) -> bytes:
    flipped = bytearray(content)
    flipped[place] ^= 1
    return bytes(flipped)


def test_changed_bytes_of_equal_size_and_time_are_noticed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    below, step = Count(2), Count(1, Count(2))
    artefact = make(below, Context(workspace)).artefact
    assert artefact.path("number.txt").read_text() == "2"
    assert workspace.faults(artefact.folder) == []
    path = artefact.folder / "number.txt"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text("3")
    os.utime(path, ns=times)
    assert workspace.faults(artefact.folder) == ["'number.txt' has changed since it was written"]

    def reads(self: Count, output: Output, inputs: Any, context: Context) -> dict[str, int]:
        return {"number": int(inputs["below"].path("number.txt").read_text())}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Count, "build", reads)
        with pytest.raises(
            WorkspaceError, match=r"damaged: 'number.txt' has changed .*Remove that folder"
        ):
            make(step, Context(workspace))


@pytest.mark.parametrize("content", [b"12345", None])
def test_damage_is_noticed_when_an_artefact_is_found(tmp_path: Path, content) -> None:
    context = Context(Workspace(tmp_path))
    path = make(Count(1), context).artefact.folder / "number.txt"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(WorkspaceError, match=r"damaged: 'number.txt'.*Remove that folder"):
        make(Count(1), context)


def test_every_byte_of_a_manifest_counts(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    step = Count(1)
    folder = make(step, Context(workspace)).artefact.folder
    path = folder / "manifest.json"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(changed(content, place))
        assert workspace.faults(folder) == [f"The manifest of {folder} is damaged."]
        with pytest.raises(WorkspaceError, match=r"manifest of .* is damaged"):
            workspace.find("count", step.fingerprint)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"hashes": {}}', b"3"])
def test_a_damaged_manifest_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    context = Context(Workspace(tmp_path))
    (make(Count(1), context).artefact.folder / "manifest.json").write_bytes(content)
    with pytest.raises(WorkspaceError, match=r"manifest of .* is damaged. Remove that folder"):
        make(Count(1), context)


def test_an_artefact_under_another_ones_name(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first, second = (make(Count(n), Context(workspace)).artefact.folder for n in (1, 2))
    shutil.rmtree(second)
    shutil.copytree(first, second)
    assert workspace.faults(first) == []
    assert workspace.faults(second) == ["'manifest.json' belongs to another artefact"]
    with pytest.raises(WorkspaceError, match="belongs to another artefact"):
        make(Count(2), Context(workspace))


def test_a_file_that_does_not_belong(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = make(Count(1), Context(workspace)).artefact.folder
    (folder / ".DS_Store").write_text("")  # what other programs leave everywhere
    assert workspace.faults(folder) == []
    (folder / "more.txt").write_text("")
    assert workspace.faults(folder) == ["'more.txt' does not belong to it"]


def test_a_manifest_without_hashes_serves_and_cannot_be_verified(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = make(Count(1), Context(workspace)).artefact.folder
    value = read_sealed(folder / "manifest.json")
    del value["hashes"]
    write_json(folder / "manifest.json", value)
    made = make(Count(1), Context(workspace))
    assert made.reused
    assert made.artefact.path("number.txt").read_text() == "1"
    assert workspace.faults(folder)[0].startswith("cannot be verified")


def test_a_kill_before_the_manifest_loses_no_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined files are cleared away by the next run; the blocks must be there then."""

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    workspace = Workspace(tmp_path)
    folder = workspace.folder("count", Count(1).fingerprint)
    with monkeypatch.context() as patched:
        patched.setattr("sptar.workspace.write_sealed", killed)
        with pytest.raises(KeyboardInterrupt):
            make(Count(1), Context(workspace))
    assert (folder / "unfinished" / "scratch").exists()
    # And one right after it has finished all the same.
    with monkeypatch.context() as patched:
        patched.setattr("sptar.workspace.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            make(Count(1), Context(workspace))
    assert make(Count(1), Context(workspace)).reused
    assert workspace.faults(folder) == []


def test_what_a_step_keeps_is_no_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Count, "kept", ("blocks",))
    workspace = Workspace(tmp_path)
    folder = workspace.begin("count", Count(1).fingerprint)
    for name in ("blocks", "other"):
        (folder / name).mkdir()
        (folder / name / "block-1").write_text("whole")
        (folder / name / ".7-ab.unfinished.block-2").write_text("ha")
    made = make(Count(1), Context(workspace)).artefact
    assert set(made.manifest.files) == {"number.txt", "blocks/block-1"}
    assert not list(folder.rglob(".*"))


class CountOutside(Count):
    """Reads a file outside the work folder."""

    def __init__(self, file: Path, during: str) -> None:
        super().__init__(1)
        self.file, self.during = file, during

    @property
    def outside(self) -> list[str]:
        return [str(self.file)]

    def build(self, output: Output, inputs: Any, context: Context) -> dict[str, int]:
        self.file.write_text(self.during)
        return super().build(output, inputs, context)


def test_what_changes_while_a_step_reads_it_is_not_kept(tmp_path: Path) -> None:
    file, workspace = tmp_path / "source.txt", Workspace(tmp_path / "work")
    file.write_text("a")
    workspace.hashes.content(file)
    with pytest.raises(DataError, match=r"source.txt: this has changed since the run began"):
        make(CountOutside(file, "b"), Context(workspace))
    assert not list((tmp_path / "work" / "artefacts").iterdir())
    # Before the step too, and then it is not begun.
    CountOutside.built = 0
    with pytest.raises(DataError, match="this has changed"):
        make(CountOutside(file, "a"), Context(workspace))
    assert CountOutside.built == 0
    assert make(CountOutside(file, "b"), Context(Workspace(tmp_path / "work"))).artefact


def test_links_inside_the_work_folder_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "file").write_text("precious")
    step = Count(1)

    def refused(work: Path) -> None:
        with pytest.raises(WorkspaceError, match="is a symbolic link"):
            make(step, Context(Workspace(work)))
        assert [path.name for path in outside.iterdir()] == ["file"]
        assert (outside / "file").read_text() == "precious"

    name = f"count-{step.fingerprint}"
    for number, (place, target) in enumerate(
        [
            (f"artefacts/{name}", outside),
            (f"artefacts/{name}/unfinished", outside),
            ("artefacts", outside),
            (f"locks/{name}.lock", outside / "file"),
            (f"locks/{name}.workers.lock", outside / "file"),
            ("locks", outside),
        ]
    ):
        link = tmp_path / f"work-{number}" / place
        link.parent.mkdir(parents=True)
        link.symlink_to(target)
        refused(tmp_path / f"work-{number}")
    # A whole work folder may lie elsewhere.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "work").symlink_to(tmp_path / "elsewhere")
    assert make(step, Context(Workspace(tmp_path / "work"))).artefact


def test_a_finished_artefact_behind_a_link_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    folder = make(Count(1), Context(workspace)).artefact.folder
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    with pytest.raises(WorkspaceError, match="is a symbolic link"):
        make(Count(1), Context(workspace))
    assert "is a symbolic link" in workspace.faults(folder)[0]


def test_a_lock_is_not_free_while_a_worker_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sptar.locks._PATIENCE", 0.2)
    workspace = Workspace(tmp_path)
    folder = workspace.folder("count", "abc")
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom sptar.locks import work_along\n"
        f"work_along(Path({str(folder)!r}))\nprint('held', flush=True); time.sleep(60)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline().strip() == "held"
        with (
            pytest.raises(WorkspaceError, match="Workers of an earlier run are still making"),
            workspace.lock("count", "abc"),
        ):
            pass
    finally:
        worker.kill()
        worker.wait()
    with workspace.lock("count", "abc"):  # and its own workers are welcome
        worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        assert worker.stdout.readline().strip() == "held"
    # A worker ends when nobody holds the artefact any more.
    assert worker.wait(30) == 1


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


def test_a_source_that_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit of equal size between two looks, and a file that appears."""
    source = tmp_path / "source"
    shutil.copytree(str(resources.files("sptar.starter") / "toy_collection"), source)
    data = DataConfig(source=str(source))

    def edited(name: str, content: bytes) -> None:
        workspace = Workspace(tmp_path / "work")
        step = CollectionStep(data=data, identity=source_identity(data, workspace.hashes))
        with monkeypatch.context() as patched:
            plain = sources.convert

            def while_edited(*arguments: Any, **named: Any) -> Any:
                found = plain(*arguments, **named)
                (source / name).write_bytes(content)
                return found

            patched.setattr(sources, "convert", while_edited)
            with pytest.raises(DataError, match=r"source: this has changed since the run began"):
                make(step, Context(workspace))
        assert not list((tmp_path / "work" / "artefacts").iterdir())

    corpus = source / "corpus.jsonl"
    content = corpus.read_bytes()
    edited("corpus.jsonl", content.replace(b" the ", b" eht "))
    edited("qrels/another.tsv", (source / "qrels" / "test.tsv").read_bytes())
    workspace = Workspace(tmp_path / "work")
    assert make(
        CollectionStep(data=data, identity=source_identity(data, workspace.hashes)),
        Context(workspace),
    )


class Private(Count):
    """Writes a file that its owner alone may read, as safetensors does."""

    def build(self, output: Output, inputs: Any, context: Context) -> dict[str, int]:
        found = super().build(output, inputs, context)
        output.path("number.txt").chmod(0o600)
        return found


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_who_may_look_into_an_artefact_may_read_its_files(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            made = make(Private(1), Context(Workspace(tmp_path / f"{mask}")))
        finally:
            os.umask(before)
        assert (made.artefact.folder / "number.txt").stat().st_mode & 0o777 == mode
