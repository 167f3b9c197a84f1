"""The client against servers of every kind: sound, busy, odd, hostile, slow. All on loopback."""

from __future__ import annotations

import json
import os
import signal
import struct
import threading
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completions_server import completions_server, http_answer, raw_server
from sptar.address import masked_address
from sptar.config import LanguageModelConfig, RunConfig, dump_config, parse_config
from sptar.errors import ConfigError, ModelError
from sptar.io import to_json
from sptar.llm.hosted.answer_log import AnswerLog
from sptar.llm.hosted.answers import Completion, completion_of
from sptar.llm.hosted.completions import CompletionsClient, _delay

GOOD = {"choices": [{"text": "good", "finish_reason": "stop"}]}
TRIAL = "Document: Dogs travel free"


async def at_once(seconds: float) -> None:
    """Waits for nothing."""


def ask(url, *prompts, **settings):
    settings = {"wait": at_once, "concurrency": 1, **settings}
    return CompletionsClient(url, "m", **settings).complete([{"prompt": p} for p in prompts])


def by_prompt(odd):
    """Answers ``odd`` to the prompt "odd", well to every other."""
    return lambda path, body: odd if body["prompt"] == "odd" else GOOD


# ---- The key stays with its host


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with completions_server(lambda path, body: GOOD) as (other, stolen):
        away = {"Location": f"{other}/completions"}
        with (
            completions_server(lambda path, body: (status, b"", away)) as (url, seen),
            pytest.raises(ModelError, match=rf"{status}: a redirect to '.*not followed"),
        ):
            ask(url, "p")
    assert len(seen) == 1
    assert stolen == []


# ---- Refusals and odd answers belong to one document


@pytest.mark.parametrize("status", [400, 413, 422, 451])
def test_a_refused_document_is_asked_once_and_the_others_are_written(status):
    said = (status, {"error": {"message": "content\x1b[2J filter"}}, {})
    with completions_server(by_prompt(said)) as (url, seen):
        found = ask(url, "a", "odd", "b")
    assert [item.text for item in found] == ["good", "", "good"]
    assert found[1].refusal == f"{status}: content [2J filter"
    assert [item["body"]["prompt"] for item in seen] == ["a", "odd", "b"]


def test_whether_the_first_refusal_is_the_documents_fault_another_document_shows():
    said = (400, {"error": {"message": "no"}}, {})
    with completions_server(by_prompt(said)) as (url, seen):
        found = ask(url, "odd", "b")
    assert [item.refusal for item in found] == ["400: no", None]
    assert [item["body"]["prompt"].split(".")[0] for item in seen] == [
        "odd",
        TRIAL + " on the ferry",
        "b",
    ]
    with (
        completions_server(lambda path, body: said) as (url, _),
        pytest.raises(ModelError, match=r"no usable answer to anything \(400: no\)"),
    ):
        ask(url, "odd", "b")


def test_a_server_that_turns_bad_is_noticed_within_a_few_documents():
    asked = []

    def answer(path, body):
        asked.append(body["prompt"])
        return GOOD if len(asked) <= 3 else (400, {"message": "model unloaded"}, {})

    with completions_server(answer) as (url, _), pytest.raises(ModelError, match="unloaded"):
        ask(url, *map(str, range(100)))
    assert len(asked) == 3 + 9 + 1


ODD = {
    "NaN": b'{"choices": [{"text": "x", "logprobs": {"token_logprobs": [NaN, -1]}}]}',
    "infinite": b'{"choices": [{"text": "x", "logprobs": {"token_logprobs": [-1e999]}}]}',
    "words": b'{"choices": [{"text": "x", "logprobs": {"token_logprobs": ["low"]}}]}',
    "huge": b'{"choices": [{"text": "x", "logprobs": {"token_logprobs": [1%s]}}]}' % (b"0" * 400),
    "tokens": b'{"choices": [{"text": "x"}], "usage": {"completion_tokens": "three"}}',
    "usage": b'{"choices": [{"text": "x"}], "usage": [1]}',
    "half character": rb'{"choices": [{"text": "x\ud800y"}]}',
    "number": b'{"choices": [{"text": 42}]}',
    "list": b'{"choices": [{"text": [1, 2]}]}',
    "object": b'{"choices": [{"text": {"a": 1}}]}',
    "no text": b'{"choices": [{"index": 0}]}',
    "no choice": b'{"choices": []}',
    "choice is text": b'{"choices": ["x"]}',
    "another form": b'{"other": 1}',
    "a list": b"[1]",
    "null": b"null",
    "not JSON": b"<html>gateway</html>",
    "not UTF-8": b'{"choices": [{"text": "\xff"}]}',
    "deep": b"[" * 100_000,
    "long integer": b'{"choices": [{"text": "x"}], "id": %s}' % (b"7" * 5000),
    "filtered": b'{"choices": [{"text": "half", "finish_reason": "content_filter"}]}',
    "error in 200": b'{"error": {"message": "no", "code": 400}}',
    "error of odd form": b'{"error": ["no"]}',
    "empty": b"",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_answer_never_takes_the_others_with_it(odd):
    with completions_server(by_prompt(odd)) as (url, _):
        found = ask(url, "a", "odd", "b")
    assert [item.text for item in found[::2]] == ["good", "good"]
    assert found[1].text in ("", "x", "x�y")
    assert (found[1].text == "") == (found[1].refusal is not None)
    assert found[1].log_probability is None
    to_json(vars_of(found[1])).encode()


def vars_of(completion):
    return {name: getattr(completion, name) for name in Completion.__slots__}


KEYS = (
    *("choices", "text", "message", "content", "finish_reason", "logprobs", "usage"),
    *("token_logprobs", "logprob", "completion_tokens", "refusal"),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(values, st.sampled_from(["completions", "chat"]))
def test_nothing_that_json_can_hold_is_an_error(value, interface):
    for answer in (value, {"choices": [value]}, {"choices": [{"text": "t", "message": value}]}):
        found = completion_of(json.loads(json.dumps(answer)), interface)
        to_json(vars_of(found)).encode()


def test_texts_in_parts_are_joined():
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "query"}]
    answer = {"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]}
    assert completion_of(answer, "chat").text == "a query"


# ---- Retries by kind


@pytest.mark.parametrize("wished", ["²", "-1", "nan", "1e999", "soon", "9" * 4000, "", "Mon, 99"])
def test_an_odd_wish_to_wait_is_passed_over(wished):
    assert _delay(wished, 2.0) == 2.0


def test_a_wish_to_wait_is_kept_within_bounds():
    assert _delay("7", 1.0) == 7.0
    assert _delay("0.5", 1.0) == 0.5
    assert _delay("3600", 1.0) == 60.0
    assert 5.0 < _delay(formatdate(time.time() + 10, usegmt=True), 1.0) <= 10.0
    assert _delay(formatdate(0, usegmt=True), 1.0) == 0.0


@pytest.mark.parametrize("wished", ["²", "7"])
def test_a_busy_server_is_asked_again(wished):
    answers = [(429, b"", {"Retry-After": wished}), (503, b"", {"Retry-After": wished})]
    waited = []

    async def wait(seconds):
        waited.append(seconds)

    with completions_server(lambda path, body: answers.pop(0) if answers else GOOD) as (url, seen):
        (found,) = ask(url, "p", wait=wait)
    assert found.text == "good"
    assert waited == ([7.0, 7.0] if wished == "7" else [1.0, 2.0])
    assert len(seen) == 3


def test_a_server_that_stays_busy_stops_the_run_and_a_broken_document_does_not():
    with (
        completions_server(by_prompt((429, b"slow down", {}))) as (url, seen),
        pytest.raises(ModelError, match="stays busy .429: slow down"),
    ):
        ask(url, "a", "odd")
    assert len(seen) == 1 + 6
    with completions_server(by_prompt((500, b"crash", {}))) as (url, seen):
        found = ask(url, "a", "odd", "b")
    # One at a time nothing else was answered meanwhile, so a trial shows that the server is sound.
    assert [item["body"]["prompt"][: len(TRIAL)] for item in seen] == [
        "a", *["odd"] * 6, TRIAL, "b",
    ]  # fmt: skip
    assert [item.refusal for item in found] == [None, "500: crash", None]
    with (
        completions_server(lambda path, body: (500, b"crash", {})) as (url, _),
        pytest.raises(ModelError, match="no usable answer to anything .500: crash"),
    ):
        ask(url, "a")


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (402, "402"), (404, "model")],
)
def test_what_no_other_document_would_change_stops_at_once(status, said):
    with (
        completions_server(by_prompt((status, {"message": "no"}, {}))) as (url, seen),
        pytest.raises(ModelError, match=said),
    ):
        ask(url, "a", "odd", "b")
    assert [item["body"]["prompt"] for item in seen] == ["a", "odd"]


def half_a_body(connection, prompt):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{")


def broken_chunk(connection, prompt):
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n")


def bad_status(connection, prompt):
    connection.sendall(b"HTP/9 maybe\r\n\r\n")


def no_word(connection, prompt):
    connection.sendall(b"")


def reset(connection, prompt):
    import socket

    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def packed(connection, prompt):
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b"
    )


BROKEN = [half_a_body, broken_chunk, bad_status, no_word, reset, packed]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_connection_that_breaks_off_is_one_document(broken):
    asked = []

    def respond(connection, prompt):
        asked.append(prompt)
        if prompt == "odd":
            broken(connection, prompt)
        else:
            connection.sendall(http_answer("good"))

    with raw_server(respond) as url:
        found = ask(url, "a", "odd", "b")
    assert [item.text for item in found] == ["good", "", "good"]
    assert found[1].refusal
    assert asked.count("odd") == (1 if broken is packed else 6)


@pytest.mark.parametrize("broken", BROKEN[:-1], ids=lambda broken: broken.__name__)
def test_a_connection_that_breaks_off_once_is_tried_again(broken):
    asked = []

    def respond(connection, prompt):
        asked.append(prompt)
        if len(asked) == 1:
            broken(connection, prompt)
        else:
            connection.sendall(http_answer("good"))

    with raw_server(respond) as url:
        (found,) = ask(url, "p")
    assert (found.text, found.refusal, len(asked)) == ("good", None, 2)


# ---- Bounds on size and time


@pytest.mark.parametrize("status", [b"200 OK", b"500 No"])
def test_an_endless_answer_is_left_after_some_megabytes(status):
    sent = []

    def respond(connection, prompt):
        if prompt != "odd":
            connection.sendall(http_answer("good"))
            return
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        block = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        while len(sent) < 4000:
            connection.sendall(block)
            sent.append(len(block))

    with raw_server(respond) as url:
        found = ask(url, "a", "odd", "b")
    assert [item.text for item in found] == ["good", "", "good"]
    assert found[1].refusal
    # The client reads 8 MB of an answer and 64 KB of an error; the rest lies in the system's
    # buffers, some megabytes a connection.
    assert sum(sent) < 64 << 20


def drips_a_body(connection, prompt):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    drips(connection, b'{"')


def drips_its_headers(connection, prompt):
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    drips(connection, b"x")


def drips(connection, what):
    for _ in range(600):
        connection.sendall(what)
        time.sleep(0.05)


@pytest.mark.parametrize("slow", [drips_a_body, drips_its_headers])
def test_an_answer_has_a_time_from_the_first_byte_to_the_last(slow):
    def respond(connection, prompt):
        slow(connection, prompt) if prompt == "odd" else connection.sendall(http_answer("good"))

    begin = time.monotonic()
    with raw_server(respond) as url:
        found = ask(url, "a", "odd", "b", timeout=1.0)
    # Two tries of a second each; thirty seconds is how long the server would go on.
    assert time.monotonic() - begin < 10
    assert [item.refusal for item in found] == [None, "no whole answer within 1 seconds", None]


@pytest.mark.parametrize("waiting", [True, False], ids=["between tries", "for answers"])
def test_an_interrupt_ends_everything_within_two_seconds(waiting):
    release = threading.Event()
    interrupted = []

    def answer(path, body):
        if not waiting:
            release.wait(30)
        return (503, b"", {"Retry-After": "60"})

    def interrupt():
        time.sleep(0.5)
        interrupted.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    with completions_server(answer) as (url, _):
        client = CompletionsClient(url, "m")
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            client.complete([{"prompt": str(number)} for number in range(50)])
        took = time.monotonic() - interrupted[0]
        release.set()
    # Two seconds, and what a busy machine needs on top. Who waited would take thirty or sixty.
    assert took < 2 + 10


def test_a_client_works_where_a_loop_is_running_already():
    import asyncio

    async def notebook(url):
        return ask(url, "p")

    with completions_server(lambda path, body: GOOD) as (url, _):
        (found,) = asyncio.run(notebook(url))
    assert found.text == "good"


# ---- Answers are kept


def test_an_answer_is_on_disk_before_the_next_one_is_asked_for(tmp_path):
    file = tmp_path / "answers.jsonl"
    lines = []

    def answer(path, body):
        lines.append(file.read_bytes().count(b"\n"))
        return GOOD

    log = AnswerLog()
    with completions_server(answer) as (url, _), log.open(file):
        ask(url, *"abc", log=log)
    assert lines == [0, 1, 2]


def test_a_kept_answer_is_not_asked_for_again_and_a_torn_one_is(tmp_path):
    file = tmp_path / "answers.jsonl"
    said = {
        "choices": [{"text": "é", "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.1]}}],
        "usage": {"completion_tokens": 1},
    }
    log = AnswerLog()
    with completions_server(lambda path, body: said) as (url, _), log.open(file):
        before = ask(url, *"abc", log=log)
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    told = []
    with completions_server(lambda path, body: said) as (url, seen), log.open(file):
        client = CompletionsClient(url, "m", log=log)
        after = client.complete([{"prompt": p} for p in "cba"], told.append)
    assert [item["body"]["prompt"] for item in seen] == ["c"]
    assert after == before[::-1]
    assert sorted(told) == [0, 1, 2]
    assert file.read_bytes() == whole


def test_a_question_that_differs_in_anything_is_another_question(tmp_path):
    log = AnswerLog()
    with completions_server(lambda path, body: GOOD) as (url, seen):
        client = CompletionsClient(url, "m", log=log)
        for body in ({"prompt": "p", "seed": 1}, {"seed": 1, "prompt": "p"}, {"prompt": "p"}):
            with log.open(tmp_path / "answers.jsonl"):
                client.complete([body])
    assert [item["body"].get("seed") for item in seen] == [1, None]


# ---- Secrets


@pytest.mark.parametrize("key", ["sk-verysecret"])
def test_what_a_server_says_is_shown_without_the_secrets(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)

    def answer(path, body):
        return (401, {"error": {"message": f"wrong: {key}, bWU6aHVudGVyMg== hunter2 q-secret"}}, {})

    with completions_server(answer) as (url, seen):
        address = url.replace("http://", "http://me:hunter2@") + "?token=q-secret"
        with pytest.raises(ModelError) as caught:
            ask(address, "p")
    said = str(caught.value)
    assert "401" in said
    assert not any(secret in said for secret in (key, "hunter2", "bWU6aHVudGVyMg", "q-secret"))
    assert seen[0]["path"] == "/v1/completions?token=q-secret"


def test_a_config_is_written_down_without_the_secrets():
    values = {
        "data": {"source": "x"},
        "methods": ["bm25"],
        "llm": {"name": "m", "base_url": "https://me:hunter2@host:1/v1?key=abc"},
    }
    config = parse_config(values)
    assert config.llm is not None
    assert config.llm.base_url == values["llm"]["base_url"]
    dumped = dump_config(config)
    assert dumped["llm"]["base_url"] == "https://***@host:1/v1?key=***"
    assert "hunter2" not in repr(config)
    assert isinstance(parse_config(dumped), RunConfig)
    assert masked_address("http://[broken") == "***"


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "https://me:hun ter2@h/v1", "https://me:hunter2@", "host/v1",
     "https://me:hunter2@h:99999/v1", "https://me:hun@ter2@h/v1", "http://[hunter2/v1"],
)  # fmt: skip
def test_a_wrong_address_is_refused_at_once_and_not_quoted(address):
    values = {"data": {"source": "x"}, "llm": {"name": "m", "base_url": address}}
    with pytest.raises(ConfigError, match="no address of a server") as caught:
        parse_config(values)
    assert "ter2" not in str(caught.value)
    with pytest.raises(ModelError, match="no address of a server") as raised:
        CompletionsClient(address, "m")
    assert "ter2" not in str(raised.value)


@pytest.mark.parametrize("key", ["sk-proj-abc", "gsk_A1b2C3d4E5f6G7h8I9j0", "two words", ""])
def test_a_key_in_the_place_of_its_variables_name_is_refused_and_not_quoted(key):
    with pytest.raises(ConfigError, match="never the key itself") as caught:
        parse_config({"data": {"source": "x"}, "llm": {"name": "m", "api_key_variable": key}})
    assert not key or key not in str(caught.value)
    assert LanguageModelConfig(name="m", api_key_variable="MY_KEY_2").api_key_variable == "MY_KEY_2"


def test_a_key_that_no_header_can_carry_is_told_without_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-“quoted”")
    with pytest.raises(ModelError, match="OPENAI_API_KEY holds signs") as caught:
        ask("http://127.0.0.1:1/v1", "p")
    assert "quoted" not in str(caught.value)
