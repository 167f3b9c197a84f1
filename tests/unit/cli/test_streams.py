"""Output of another alphabet, closed, full or read by nobody: no crash, and JSON stays JSON."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import sptar
from sptar.cli.app import run_application
from sptar.cli.output import TerminalProgress
from sptar.errors import ConfigError
from sptar.workspace import Workspace

TOY = resources.files("sptar.starter") / "toy_collection"
FOREIGN = "Überführung → 橋 …"


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection whose check prints characters that few encodings have."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text(f'{{"_id": "1", "text": "a", "{FOREIGN}": 1}}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "a"}\n')
    (folder / "qrels" / "test.tsv").write_text(
        f"query-id\tcorpus-id\tscore\nq\t1\t1\nq\t{FOREIGN}\t1\n"
    )
    return folder


def started(arguments: list[str], **more: object) -> subprocess.CompletedProcess[bytes]:
    settings = dict(more.pop("env", {}))  # type: ignore[call-overload]
    environment = {**os.environ, **settings}
    command = [sys.executable, "-m", "sptar", *arguments]
    return subprocess.run(command, env=environment, check=False, timeout=120, **more)  # type: ignore[call-overload]


ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp1252"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("settings", ENCODINGS, ids=lambda value: "".join(value.values()))
def test_characters_that_cannot_be_written_are_escaped(
    settings: dict[str, str], collection: Path
) -> None:
    found = started(["data", "check", str(collection)], env=settings, capture_output=True)
    assert found.returncode == 2
    assert b"Traceback" not in found.stderr
    assert b"\\u6a4b" in found.stdout
    found = started(["data", "check", str(collection), "--json"], env=settings, capture_output=True)
    (problem,) = json.loads(found.stdout)["problems"]
    assert FOREIGN in problem["examples"][0]
    found = started(["run", f"{FOREIGN}.yaml"], env=settings, capture_output=True)
    assert found.returncode == 2
    assert b"There is no config file" in found.stderr
    # Where file names are bytes to Python, it is these that are escaped.
    assert b"\\u6a4b" in found.stderr or b"\\udce6\\udca9\\udc8b" in found.stderr


@pytest.mark.parametrize("arguments", [["status", "--json"], ["status"], ["--help"], ["data"]])
def test_nobody_reads_the_output(arguments: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    for stream in ("stdout", "stderr"):
        other = {"stdout", "stderr"} - {stream}
        found = started([*arguments], **{stream: write, other.pop(): subprocess.PIPE}, cwd=tmp_path)
        said = (found.stdout or b"") + (found.stderr or b"")
        assert found.returncode in (0, 2), said
        assert b"Traceback" not in said
        assert b"Exception ignored" not in said
        assert b"should not have happened" not in said
    os.close(write)


def test_an_error_that_nobody_reads_is_still_an_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    assert started(["run", "no.yaml"], stderr=write, stdout=write, cwd=tmp_path).returncode == 2
    os.close(write)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_results_that_a_full_disk_refuses_are_an_error(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        found = started(["status"], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr.startswith(b"Error: ")
    assert found.stderr.count(b"\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell is needed")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_streams_that_are_closed_from_the_start(closed: str, tmp_path: Path) -> None:
    for arguments, code in (("status", 0), ("run no.yaml", 2), ("search -", 2)):
        command = f"'{sys.executable}' -m sptar {arguments} {closed}"
        found = subprocess.run(
            command, shell=True, check=False, capture_output=True, cwd=tmp_path, timeout=120
        )
        assert found.returncode == code, found
        assert b"Traceback" not in found.stdout + found.stderr


def test_a_run_goes_on_when_nobody_reads_its_progress() -> None:
    script = (
        "import os\n"
        "from sptar.cli.output import TerminalProgress, prepare_streams\n"
        "prepare_streams()\n"
        "progress = TerminalProgress()\n"
        "for _ in range(3):\n"
        "    progress.message('x' * 100_000)\n"
        "    progress.start('y', 3, 'z')\n"
        "    progress.advance()\n"
        "    progress.finish()\n"
        "print('made')\n"
    )
    read, write = os.pipe()
    os.close(read)
    found = subprocess.run(
        [sys.executable, "-c", script], stderr=write, stdout=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (found.returncode, found.stdout) == (0, b"made\n")


def test_progress_still_reaches_who_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    TerminalProgress().message("[3/4] [bold]train")
    assert capsys.readouterr().err == "[3/4] [bold]train\n"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_application(["--version"]) == 0
    assert capsys.readouterr().out == f"sptar {sptar.__version__}\n"


def test_a_question_may_come_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: list[str] = []

    def remembered(_: Workspace, text: str, **__: object) -> None:
        asked.append(text)
        raise ConfigError("enough.")

    monkeypatch.setattr("sptar.serve.answer.answer", remembered)
    work = ["--work", str(tmp_path)]
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO("how to fix a \u6a4b\n".encode()))
    )
    assert run_application(["search", "-", *work]) == 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    assert run_application(["search", "-", *work]) == 2
    assert "no UTF-8 text (byte 4)" in capsys.readouterr().err
    assert run_application(["search", "a - b", *work]) == 2
    assert asked == ["how to fix a \u6a4b\n", "a - b"]


def test_a_question_that_is_no_text_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_application(["search", "caf\udce9", "--work", str(tmp_path)]) == 2
    assert "The question is no UTF-8 text" in capsys.readouterr().err


def test_a_source_that_is_not_there_is_one_line_and_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in ("nosuch", str(tmp_path)):
        assert run_application(["data", "check", source]) == 2
        printed = capsys.readouterr().out
        assert printed.startswith(f"{source}: ")
        assert "│" not in printed
        assert " 0 " not in printed
    assert run_application(["data", "check", "nosuch", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["documents"] == 0
