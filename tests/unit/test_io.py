"""Plain formats: round trips, no half files, errors that name the line."""

from __future__ import annotations

import gzip
import lzma
import math
from pathlib import Path

import pytest

from sptar.errors import DataError
from sptar.io import (
    atomic_path,
    atomic_write_text,
    lines,
    read_json,
    read_jsonl,
    read_qrels,
    read_sealed,
    write_json,
    write_jsonl,
    write_qrels,
    write_sealed,
)
from sptar.trec import NO_DOCUMENT, read_run, write_run


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    atomic_write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_any_changed_byte_breaks_a_seal(tmp_path: Path) -> None:
    path = tmp_path / "sealed.json"
    value = {"é": [1, 0.1, None, {"x": "y"}], "1": True}
    write_sealed(path, value)
    assert read_sealed(path) == value
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(DataError):
            read_sealed(path)
    write_json(path, value)
    with pytest.raises(DataError, match="has changed since it was written"):
        read_sealed(path)


def test_json_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_json(path)


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a") as one, atomic_path(tmp_path / "a") as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_broken_json_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"a": 1}\n' * 6 + '{"a": \n')
    with pytest.raises(DataError, match=r"corpus\.jsonl:7: not valid JSON"):
        list(read_jsonl(path))


def test_a_line_that_is_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("[1]\n")
    with pytest.raises(DataError, match=":1: a JSON object is needed, not a list"):
        list(read_jsonl(path))


def test_wrong_encoding_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"a": "x"}\n{"a": "caf\xe9"}\n')
    with pytest.raises(DataError, match=":2: not UTF-8"):
        list(read_jsonl(path))


def test_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert list(lines(path)) == [(1, "one"), (2, "two")]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_jsonl_round_trip(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": "é\u2028x", "n": 1}, {"text": "", "n": None}]
    path = tmp_path / f"rows.jsonl{suffix}"
    assert write_jsonl(path, rows) == 2
    assert [row for _, row in read_jsonl(path)] == rows
    first = path.read_bytes()
    write_jsonl(path, rows)
    assert path.read_bytes() == first


def test_xz_is_read_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"a": 1}\n'))
    assert [row for _, row in read_jsonl(path)] == [{"a": 1}]
    broken = tmp_path / "b.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-20])
    with pytest.raises(DataError, match=r"b\.jsonl\.gz.*damaged"):
        list(read_jsonl(broken))


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"loss": math.nan})
    assert not (tmp_path / "a.json").exists()


def test_json_errors_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{\n"a": }')
    with pytest.raises(DataError, match=r"a\.json:2"):
        read_json(path)


def test_qrels_of_both_kinds(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    qrels = {"q1": {"d1": 2, "d2": 0}, "q2": {"d 3": 1}}
    write_qrels(path, qrels)
    assert read_qrels(path) == qrels
    trec = tmp_path / "trec.txt"
    trec.write_text("q1 0 d1 2\nq1 0 d2 0\n")
    assert read_qrels(trec) == {"q1": {"d1": 2, "d2": 0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\tscore\nq\td\tx\n", ":2: the score 'x'"),
        ("q\td\n", ":1: 2 columns"),
        ("q\td\t1\nq\td\t2\n", ":2: .*judged twice"),
    ],
)
def test_broken_qrels(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_qrels(path)


def test_run_round_trip_keeps_every_digit_and_every_query(tmp_path: Path) -> None:
    run = {"q1": {"b": 0.1 + 0.2, "a": 0.1 + 0.3, "c": 1e-17}, "q2": {}}
    for name in ("run.trec", "run.trec.gz"):
        path = tmp_path / name
        write_run(path, run, "tag")
        assert read_run(path) == run
        assert [text.split()[2:4] for _, text in lines(path)] == [
            ["a", "1"],
            ["b", "2"],
            ["c", "3"],
            [NO_DOCUMENT, "0"],
        ]


def test_run_refuses_ids_that_the_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="white space"):
        write_run(tmp_path / "run.trec", {"q 1": {"d": 1.0}}, "tag")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 d 1 0.5\n", ":1: 5 columns"),
        ("q Q0 d 1 x t\n", ":1: the score 'x'"),
        ("q Q0 d 1 2 t\nq Q0 d 2 1 t\n", ":2: document d stands twice"),
    ],
)
def test_broken_runs(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_run(path)


@pytest.mark.parametrize("score", ["nan", "inf", "-inf", "1e999", "high"])
def test_a_score_of_a_run_is_a_finite_number(tmp_path: Path, score: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text(f"q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 {score} tag\n")
    with pytest.raises(DataError, match=rf"run\.trec:2: the score '{score}' is no number"):
        read_run(path)
