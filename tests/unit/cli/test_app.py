"""The command line's manners: exit codes, one sentence for an error, no traceback, clean output."""

from __future__ import annotations

import json
import os
import signal
import time
from importlib import resources
from pathlib import Path

import pytest

from sptar.cli.app import run_application
from sptar.cli.options import WORK

TOY = str(resources.files("sptar.starter") / "toy_collection")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["data", "check", "-h"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_application(arguments) == 0
    assert "Usage: sptar" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run"], "Missing argument"),
        (["run", "a.yaml", "--no-such"], "No such option"),
        (["run", "no.yaml"], "There is no config file no.yaml"),
        (["status", "nothing", "--work", "nowhere"], "There is no run 'nothing'"),
        (["search", "x", "--work", "nowhere"], "There is no run in nowhere"),
        (["search", " ", "--work", "nowhere"], "The question is empty"),
        (["report", "x", "--work", "nowhere"], "There is no run 'x'"),
        (["data", "check", TOY, "--on-error", "maybe"], "choose `report`, `stop` or `skip`"),
    ],
)
def test_a_users_error_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(arguments) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_a_wrong_setting_and_a_missing_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {{source: {TOY}}}\nllm: {{name: /no/model}}\ntune: {{epoch: 1}}\n")
    assert run_application(["run", str(config)]) == 2
    assert "did you mean 'epochs'" in capsys.readouterr().err
    config.write_text(f"data: {{source: {TOY}}}\nllm: {{name: /no/model}}\n")
    assert run_application(["run", str(config), "--work", str(tmp_path / "work")]) == 2
    assert "There is no model folder '/no/model'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["mine", "train", "encode", "evaluate"])
def test_an_unknown_retriever_is_refused_before_anything_is_read(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {{source: {TOY}}}\nmethods: [bm25, no_augmentation]\n")
    work = str(tmp_path / "work")
    arguments = [verb, str(config), "--retriever", "dpr", "--retriever", "colbrt", "--work", work]
    assert run_application(arguments) == 2
    assert "there is no retriever 'colbrt'; did you mean 'colbert'?" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    for arguments in (["--debug", "run", "no.yaml"], ["run", "no.yaml", "--debug"]):
        with pytest.raises(Exception, match="no config file"):
            run_application(arguments)


def test_an_unexpected_error_is_called_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("sptar.workspace.Workspace.run_names", broken)
    assert run_application(["status"]) == 1
    shown = capsys.readouterr().err
    assert "this should not have happened (ZeroDivisionError: oh)" in shown
    assert "--debug" in shown


def test_an_interrupt_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sptar.workspace.Workspace.run_names", interrupted)
    assert run_application(["status"]) == 130
    assert "go on where it stopped" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_is_an_interrupt(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = getattr(signal, name)
    cleaned = []

    def asked_to_end(*_: object) -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), number)  # a second one does not disturb the cleaning up
            cleaned.append(True)

    monkeypatch.setattr("sptar.workspace.Workspace.run_names", asked_to_end)
    # Whoever started the tests may have had the signal ignored, as nohup does.
    found = signal.signal(number, signal.SIG_DFL)
    try:
        assert run_application(["status"]) == code
        assert cleaned
        assert "go on where it stopped" in capsys.readouterr().err
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, found)


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    monkeypatch.setattr(
        "sptar.workspace.Workspace.run_names", lambda *_: os.kill(os.getpid(), signal.SIGHUP) or []
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_application(["status"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_broken_pipe_that_is_not_the_output_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sptar.workspace.Workspace.run_names", broken)
    assert run_application(["status"]) == 2
    assert "Broken pipe" in capsys.readouterr().err


def test_data_check_prints_json_alone_on_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_application(["data", "check", TOY, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["documents"] > 100


def test_data_check_reports_every_problem_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "text": "a"}\n{"_id": "1", "text": "b"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "a"}\n{\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t9\t1\nq\t1\t1\n")
    for mode, code in (("report", 2), ("skip", 0), ("stop", 2)):
        assert run_application(["data", "check", str(tmp_path), "--on-error", mode]) == code
        shown = capsys.readouterr()
        if mode == "stop":
            assert "corpus.jsonl:2" in shown.err
        else:
            for place in ("corpus.jsonl:2", "queries.jsonl:2", "test.tsv:2"):
                assert place in shown.out.replace("\n", "").replace("│", "").replace(" ", "")


def test_the_work_folder_has_a_name_of_its_own() -> None:
    assert Path("sptar-work") == WORK


@pytest.mark.parametrize(
    "options",
    [
        ["--k", "1" + "0" * 400],
        ["--weight", "inf", "--weight", "1"],
        ["--weight", "1e400", "--weight", "1"],
        ["--weight", "nan", "--weight", "1"],
    ],
)
def test_numbers_beyond_all_bounds_are_a_users_error(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a.trec"
    run.write_text("q1 Q0 d1 1 2.0 t\n")
    out = tmp_path / "out.trec"
    assert run_application(["fuse", str(run), str(run), "--out", str(out), *options]) == 2
    assert "should not have happened" not in capsys.readouterr().err
    assert not out.exists()
    command = ["compare", "--runs", "a", "--work", str(tmp_path), "--bootstrap-samples"]
    assert run_application([*command, "1" + "0" * 30]) == 2
    assert "from 100 to 1,000,000" in capsys.readouterr().err


def test_a_method_of_any_name_and_a_file_of_any_name_reach_the_config_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {{source: {TOY}}}\nmethods: [bm25]\n")
    arguments = [str(tmp_path / "it's {odd}: [a\\b].jsonl"), str(config), "--method", "x: [y"]
    assert run_application(["import-weak", *arguments]) == 2
    assert "'x: [y' in `weak_queries` is not a plain name" in capsys.readouterr().err
    arguments[-1] = "mine"
    assert run_application(["import-weak", *arguments, "--work", str(tmp_path / "work")]) == 2
    assert "it's {odd}: [a\\b].jsonl: there is no such file" in capsys.readouterr().err


def test_a_tilde_in_the_name_of_a_work_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work" / "runs" / "one").mkdir(parents=True)
    (tmp_path / "work" / "runs" / "one" / "run.json").write_text(
        '{"name": "one", "finished": true, "config": {}, "methods": {}, "steps": []}'
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_application(["status", "--json", "--work=~/work"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["one"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["data", "check", ""], "The source is empty."),
        (["doctor", "model", " "], "The model's name is empty."),
        (["doctor", "model", "", "--retriever", "dpr"], "The model's name is empty."),
        (["plan", "."], "is a folder; a config is a YAML file."),
        (["compare", "my-run"], "A finished run is named behind --runs"),
    ],
)
def test_a_name_that_is_none_is_told(
    line: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(line) == 2
    assert said in capsys.readouterr().err
