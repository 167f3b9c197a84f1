"""Weak queries from a server: nothing is paid twice, nothing odd ends a run, no secret is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from completions_server import completions_server
from sptar.cli.app import run_application
from sptar.io import read_jsonl

MakeConfig = Callable[..., Path]
DOCUMENTS = 24
LOAD = 20.0
"""Seconds that a machine under load may need on top, to schedule and end a process: with seven
processes for each core 3.4 were seen. Who waited for the answers would take sixty."""


def server(url: str) -> list[str]:
    return [
        *("--set", "llm.name=some-model", "--set", "llm.backend=openai"),
        *("--set", f"llm.base_url={url}"),
    ]


def rows_of(work: Path) -> list[dict]:
    (folder,) = (work / "artefacts").glob("augment-*")
    return [row for _, row in read_jsonl(folder / "weak_queries.jsonl")]


def answer_to(body: dict) -> dict:
    text = f"query {body['seed']} about {len(body['prompt'])} letters"
    return {"choices": [{"text": text, "finish_reason": "stop"}]}


@pytest.mark.parametrize(("workers", "moments"), [(1, [5, 10, 15]), (2, [8])])
def test_a_kill_makes_nobody_pay_twice(
    make_config: MakeConfig, tmp_path: Path, workers: int, moments: list[int]
):
    """Killed again and again in the middle of blocks: only what was under way is asked again."""
    config = str(make_config("killed", methods=["inpars"], augment={"block_size": 9}))
    concurrency = 2
    asked: Counter[int] = Counter()
    lock = threading.Lock()

    def answer(path, body):
        time.sleep(0.1)
        with lock:
            asked[body["seed"]] += 1
        return answer_to(body)

    command = [sys.executable, "-m", "sptar", "augment", config, "--work"]
    kills = 0
    with completions_server(answer) as (url, _):
        settings = [*server(url), "--set", f"llm.concurrency={concurrency}"]
        if workers > 1:
            settings += ["--workers", str(workers)]
        for moment in moments:
            process = subprocess.Popen(
                [*command, str(tmp_path / "stormy"), *settings],
                start_new_session=True,
                stderr=subprocess.DEVNULL,
            )
            while process.poll() is None and sum(asked.values()) < moment:
                time.sleep(0.01)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
            process.wait()
        line = ["augment", config, *settings, "--work"]
        assert run_application([*line, str(tmp_path / "stormy")]) == 0
        paid = sum(asked.values())
        assert run_application([*line, str(tmp_path / "calm")]) == 0
    assert kills == len(moments)
    # A request may reach the server while its process dies: so many are under way at most.
    assert DOCUMENTS <= paid <= DOCUMENTS + kills * concurrency * workers
    assert rows_of(tmp_path / "stormy") == rows_of(tmp_path / "calm")
    assert len(rows_of(tmp_path / "calm")) == DOCUMENTS


def test_odd_answers_and_refusals_are_rows_with_their_reasons(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = str(make_config("odd", methods=["inpars"]))
    odd = [
        (400, {"error": {"message": "content policy"}}, {}),
        (400, {"error": {"message": "content policy"}}, {}),
        {"choices": [{"text": 42}]},
        {"choices": [{"text": ["a"]}]},
        {"other": 1},
        {"choices": [{"text": "cut", "finish_reason": "content_filter"}]},
        b'{"choices": [{"text": "half \\ud800 query"}]}',
        b'{"choices": [{"text": "a query", "logprobs": {"token_logprobs": [NaN]}}]}',
    ]
    waiting = iter(odd)

    def answer(path, body):
        # Every third document gets an odd answer, for every try of it.
        if len(seen) % 3 == 1 and (given := next(waiting, None)) is not None:
            return given
        return answer_to(body)

    with completions_server(answer) as (url, seen):
        line = [config, "--work", str(tmp_path), *server(url), "--set", "llm.concurrency=1"]
        assert run_application(["augment", *line]) == 0
        told = capsys.readouterr().err
        assert run_application(["filter", *line]) == 0
    rows = rows_of(tmp_path)
    assert len(rows) == DOCUMENTS
    assert len({row["doc_id"] for row in rows}) == DOCUMENTS
    refusals = Counter(row["refusal"] for row in rows if "refusal" in row)
    assert refusals == {
        "400: content policy": 2,
        "the answer's text is a number": 1,
        "the answer's text is a list": 1,
        "the answer has another form than expected: it holds no 'choices'": 1,
        "the server's content filter": 1,
    }
    assert "half � query" in {row["text"] for row in rows}
    assert all(row["log_probability"] is None for row in rows)
    assert "wrote nothing for 6 of 24 rows; 2 times it said: 400: content policy" in told
    assert "refused by the server 6" in capsys.readouterr().err
    (folder,) = (tmp_path / "artefacts").glob("filter-*")
    assert json.loads((folder / "manifest.json").read_text())["summary"]["funnel"]["refused"] == 6


def test_what_stops_a_run_is_one_sentence_and_keeps_what_is_written(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = str(make_config("stopped", methods=["inpars"]))
    broken = True

    def answer(path, body):
        return (401, {"message": "expired"}, {}) if broken and len(seen) > 10 else answer_to(body)

    with completions_server(answer) as (url, seen):
        line = ["augment", config, "--work", str(tmp_path), *server(url)]
        assert run_application([*line, "--set", "llm.concurrency=1"]) == 2
        said = capsys.readouterr().err
        assert "refuses the request (401: expired)" in said
        assert "OPENAI_API_KEY" in said
        assert len(seen) == 11
        broken = False
        assert run_application(line) == 0
        assert len(seen) == 11 + DOCUMENTS - 10
    assert all(row["text"] for row in rows_of(tmp_path))


def test_no_secret_is_written_anywhere(
    make_config: MakeConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    secrets = ["hunter2", "sk-my-own-key", "query-secret"]
    monkeypatch.setenv("THE_KEY", secrets[1])
    config = str(make_config("secret", methods=["inpars"]))

    def answer(path, body):
        if len(seen) % 4 == 0:
            return (400, {"message": f"no: {' '.join(secrets)} {headers(seen)}"}, {})
        return answer_to(body) if len(seen) < 20 or calm else (403, f"{secrets}".encode(), {})

    def headers(seen):
        return seen[-1]["headers"].get("Authorization", "")

    with completions_server(answer) as (url, seen):
        address = url.replace("http://", f"http://me:{secrets[0]}@") + f"?api-key={secrets[2]}"
        line = [config, "--work", str(tmp_path), *server(address)]
        line += ["--set", "llm.api_key_variable=THE_KEY"]
        calm = False
        assert run_application(["run", *line]) == 2
        calm = True
        assert run_application(["run", *line]) == 0
        assert run_application(["plan", *line, "--json"]) == 0
    output = capsys.readouterr()
    held = [output.out.encode(), output.err.encode()]
    held += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"refused" in content for content in held)
    authorization = seen[-1]["headers"]["Authorization"].split()[1]
    for secret in (*secrets, authorization):
        assert not any(secret.encode() in content for content in held), secret
    record = json.loads((tmp_path / "runs" / "secret" / "run.json").read_text())
    assert record["config"]["llm"]["base_url"].startswith("http://***@127.0.0.1:")


def test_a_server_without_an_address_is_refused_before_anything_runs(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = str(make_config("nowhere", methods=["inpars"]))
    line = ["run", config, "--work", str(tmp_path / "work"), "--set", "llm.backend=openai"]
    assert run_application(line) == 2
    assert "needs `llm.base_url`" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_ends_a_run_that_waits_for_answers(
    make_config: MakeConfig, tmp_path: Path, workers: int
):
    config = str(make_config("interrupted", methods=["inpars"], augment={"block_size": 12}))
    release = threading.Event()

    def answer(path, body):
        release.wait(60)
        return answer_to(body)

    with completions_server(answer) as (url, seen):
        command = [sys.executable, "-m", "sptar", "augment", config, "--work", str(tmp_path)]
        command += server(url)
        if workers > 1:
            command += ["--workers", str(workers)]
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
        # Eight requests of each process are under way, and none is answered.
        while process.poll() is None and len(seen) < 8 * workers:
            time.sleep(0.05)
        begin = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
        took = time.monotonic() - begin
        release.set()
    assert process.returncode == 130
    assert b"go on where it stopped" in told
    assert took < 2 + LOAD
