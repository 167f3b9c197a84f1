from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from sptar.config import DataConfig
from sptar.data.collection import Collection
from sptar.data.sources import convert
from sptar.data.summary import CollectionReport, LengthSummary
from sptar.data.validate import check
from sptar.errors import ConfigError, DataError


def put_line(path: Path, number: int, line: bytes) -> None:
    """Make ``line`` the line ``number`` of a file, with correct lines before it if needed."""
    found = path.read_bytes().splitlines(keepends=True)
    while len(found) < number - 1:
        found.append(b'{"_id": "filler%d", "text": "filler"}\n' % len(found))
    found.insert(number - 1, line + b"\n")
    path.write_bytes(b"".join(found))


ROW_PROBLEMS = [
    ("corpus.jsonl", 7, b'{"_id": "x", "text": ', "broken JSON", "not valid JSON"),
    ("corpus.jsonl", 2, b'["x", "y"]', "broken JSON", "JSON object is needed, not a list"),
    ("corpus.jsonl", 2, b"[" * 100_000, "broken JSON", "nested too deeply"),
    ("corpus.jsonl", 2, b'{"id": "x", "text": "y"}', "missing id", "the row has: id, text"),
    ("corpus.jsonl", 3, b'{"_id": null, "text": "y"}', "bad id", "not null"),
    ("corpus.jsonl", 3, b'{"_id": "a b", "text": "y"}', "bad id", "white space inside, not 'a b'"),
    ("corpus.jsonl", 3, b'{"_id": "", "text": "y"}', "bad id", "not ''"),
    ("corpus.jsonl", 3, b'{"_id": "x"}', "missing text", "there is no 'text'"),
    ("corpus.jsonl", 3, b'{"_id": "x", "text": 3}', "not text", "must be a string, not a number"),
    ("corpus.jsonl", 3, b'{"_id": "x", "text": ["y"]}', "not text", "string, not a list"),
    ("corpus.jsonl", 3, b'{"_id": "x", "title": 1, "text": "y"}', "not text", "'title' must"),
    ("corpus.jsonl", 4, b'{"_id": "d2", "text": "z"}', "duplicate document id", "in line 2"),
    ("corpus.jsonl", 2, b'{"_id": "x", "text": "caf\xe9"}', "encoding", "not UTF-8"),
    ("corpus.jsonl", 2, b'{"_id": "x", "text": "\\ud800"}', "encoding", "half a character"),
    ("queries.jsonl", 3, b'{"_id": "q2", "text": "z"}', "duplicate query id", "in line 2"),
    ("queries.jsonl", 1, b'{"_id": "x"}', "missing query", "there is no 'text'"),
    ("qrels/train.tsv", 3, b"q1\td9\t1", "unknown document", "'d9'"),
    ("qrels/train.tsv", 2, b"q9\td1\t1", "unknown query", "'q9'"),
    ("qrels/train.tsv", 3, b"q1\td2\t0.5", "score", "'0.5' is no whole number"),
    ("qrels/train.tsv", 3, b"q1\td2\thigh", "score", "'high'"),
    ("qrels/train.tsv", 3, b"q1\td2\t101", "score", "'101' is no grade"),
    ("qrels/train.tsv", 3, b"q1\td2\t1700000000.0", "score", "grades lie between -100 and 100"),
    ("qrels/train.tsv", 3, b"q1\td2\t-99999999999", "score", "'-99999999999' is no grade"),
    ("qrels/train.tsv", 3, b"q1\td2\t" + b"9" * 5000, "score", "(5,002 characters) is no whole"),
    ("corpus.jsonl", 3, b'{"_id": ' + b"9" * 5000 + b', "text": "y"}', "bad id", "5,000 digits"),
    ("corpus.jsonl", 3, b'{"_id": "x", "text": ' + b"9" * 5000 + b"}", "not text", "5,000 digits"),
    ("corpus.jsonl", 3, b'{"_id": 1.5, "text": "y"}', "bad id", "not 1.5"),
    ("corpus.jsonl", 3, b'{"_id": "x\\u0000", "text": "y"}', "bad id", "character (U+0000)"),
    ("queries.jsonl", 3, b'{"_id": "x\\u001fy", "text": "y"}', "bad id", "holds a control"),
    ("queries.jsonl", 3, b'{"_id": "\\u00e9\\u0085x", "text": "y"}', "bad id", "(U+0085)"),
    ("qrels/train.tsv", 3, b"q1\td\x072\t1", "bad id", "character (U+0007)"),
    ("qrels/train.tsv", 3, b"q1\td2", "number of columns", "2 cells where the header has 3"),
    ("qrels/train.tsv", 3, b"q1\td1\t2", "judged twice", "judged 1 before, and are judged 2"),
    ("qrels/train.tsv", 3, b"q\xff\td1\t2", "encoding", "not UTF-8"),
]


@pytest.mark.parametrize(("file", "line", "content", "reason", "message"), ROW_PROBLEMS)
def test_a_broken_row(
    beir: Path, tmp_path: Path, file: str, line: int, content: bytes, reason: str, message: str
) -> None:
    convert(DataConfig(source=str(beir)), tmp_path / "clean")
    put_line(beir / file, line, content)

    # stop: file, line, what, what to do
    with pytest.raises(DataError) as caught:
        convert(DataConfig(source=str(beir)), tmp_path / "stopped")
    assert caught.value.path == beir / file
    assert caught.value.line == line
    assert message in caught.value.message
    assert "on_error: skip" in str(caught.value.hint)
    assert not list((tmp_path / "stopped").rglob("*.jsonl"))

    # skip: the row is gone, counted and named; all others are there
    report = convert(DataConfig(source=str(beir), on_error="skip"), tmp_path / "skipped")
    assert [(item.reason, item.count) for item in report.problems] == [(reason, 1)]
    assert report.skipped == 1
    assert f"{beir / file}:{line}: " in report.problems[0].examples[0]
    skipped, clean = Collection.open(tmp_path / "skipped"), Collection.open(tmp_path / "clean")
    there = [document for document in skipped.corpus if not document.doc_id.startswith("filler")]
    assert there == list(clean.corpus)
    assert skipped.queries == clean.queries
    assert skipped.qrels == clean.qrels

    # check: the same findings, whatever on_error says
    assert check(DataConfig(source=str(beir))) == report


def test_check_reports_everything_at_once(beir: Path) -> None:
    for file, line, content, _, _ in ROW_PROBLEMS:
        put_line(beir / file, line, content)
    report = check(DataConfig(source=str(beir)))
    reasons = {problem.reason for problem in report.problems}
    assert reasons == {reason for _, _, _, reason, _ in ROW_PROBLEMS}
    assert not report.ok


def test_only_the_first_examples_are_kept(beir: Path) -> None:
    with (beir / "corpus.jsonl").open("a") as stream:
        stream.write("{\n" * 100)
    problem = check(DataConfig(source=str(beir))).problems[0]
    assert problem.count == 100
    assert [example.split(":")[1] for example in problem.examples] == ["4", "5", "6"]


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file(beir: Path, tmp_path: Path, file: str, content: bytes) -> None:
    (beir / file).write_bytes(content)
    with pytest.raises(DataError, match="the file holds no") as caught:
        convert(DataConfig(source=str(beir)), tmp_path / "out")
    assert caught.value.path == beir / file
    report = check(DataConfig(source=str(beir)))
    assert report.count_of("empty file") == 1
    # One problem: the judgements do not each complain about the file that is empty.
    assert report.skipped == 1
    skip = DataConfig(source=str(beir), on_error="skip")
    if file.startswith("qrels"):
        convert(skip, tmp_path / "out")
        assert list(Collection.open(tmp_path / "out").qrels) == ["train"]
    else:
        with pytest.raises(DataError, match="the file holds no"):
            convert(skip, tmp_path / "out")


def test_a_file_with_only_a_header(beir: Path, tmp_path: Path) -> None:
    (beir / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(DataError, match="holds no judgements"):
        convert(DataConfig(source=str(beir)), tmp_path / "out")


@pytest.mark.parametrize("first", ["q2\td2\t2", "1\t1\t1", "q2\td2\t1.0"])
def test_a_missing_header(beir: Path, tmp_path: Path, first: str) -> None:
    if first.startswith("1"):
        put_line(beir / "corpus.jsonl", 1, b'{"_id": 1, "text": "x"}')
        put_line(beir / "queries.jsonl", 1, b'{"_id": 1, "text": "x"}')
    (beir / "qrels/test.tsv").write_text(f"{first}\nq2\td3\t0\n")
    with pytest.raises(DataError, match="header line is missing") as caught:
        convert(DataConfig(source=str(beir)), tmp_path / "out")
    assert caught.value.line == 1
    assert "query-id<TAB>corpus-id<TAB>score" in str(caught.value.hint)
    report = convert(DataConfig(source=str(beir), on_error="skip"), tmp_path / "out")
    assert report.count_of("missing header") == 1
    query_id, doc_id, grade = first.split("\t")
    assert Collection.open(tmp_path / "out").qrels["test"][query_id][doc_id] == float(grade)
    assert report.split("test").judgements == 2


def test_a_missing_column_lists_the_columns(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("pid,passages\nd1,x\n")
    (tmp_path / "j.csv").write_text("query,doc_id\nwhy?,d1\n")
    settings = {"corpus": str(tmp_path / "c.csv"), "qrels": {"test": str(tmp_path / "j.csv")}}
    for columns, message in (
        ({"text": "passage"}, "no column 'passage' .given as `data.columns.text`."),
        ({}, "no column for text"),
    ):
        for policy in ("stop", "skip"):
            config = DataConfig.model_validate({**settings, "columns": columns, "on_error": policy})
            with pytest.raises(DataError, match=message) as caught:
                convert(config, tmp_path / "out")
            assert "pid, passages" in caught.value.message
        report = check(config)
        assert report.count_of("missing column") == 1
        assert report.split("test").judgements == 1
    assert "Did you mean 'passages'?" in str(
        check(DataConfig.model_validate({**settings, "columns": {"text": "passage"}}))
        .problems[0]
        .examples[0]
    )


def test_csv_with_broken_quotes_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(
        b'id,text\nd1,"two\nlines"\nd2,"a"b\nd3,caf\xe9\nd4,"x\ny\xff"\nd5,fine\nd6,"open\nd7,z\n'
    )
    (tmp_path / "j.csv").write_text("query,doc_id\nwhy?,d1\nwhere?,d5\n")
    config = DataConfig(
        corpus=str(tmp_path / "c.csv"), qrels={"t": str(tmp_path / "j.csv")}, on_error="skip"
    )
    report = convert(config, tmp_path / "out")
    assert [document.doc_id for document in Collection.open(tmp_path / "out").corpus] == [
        "d1",
        "d5",
    ]
    assert report.count_of("broken CSV") == 2
    assert report.count_of("encoding") == 2
    lines = [example.split(":")[1] for problem in report.problems for example in problem.examples]
    assert sorted(map(int, lines)) == [4, 5, 6, 9]


def test_damaged_compressed_file(beir: Path, tmp_path: Path) -> None:
    packed = gzip.compress(b'{"_id": "d1", "text": "x"}\n' * 1)
    (beir / "corpus.jsonl").unlink()
    (beir / "corpus.jsonl.gz").write_bytes(packed[:-6])
    with pytest.raises(DataError, match="damaged"):
        convert(DataConfig(source=str(beir)), tmp_path / "out")
    assert check(DataConfig(source=str(beir))).count_of("unreadable file") == 1


def test_missing_files_say_what_is_there(beir: Path, tmp_path: Path) -> None:
    (beir / "corpus.jsonl").rename(beir / "docs.jsonl")
    with pytest.raises(DataError, match=r"no corpus.jsonl.*It holds: docs.jsonl, qrels, queries"):
        convert(DataConfig(source=str(beir)), tmp_path / "out")
    assert check(DataConfig(source=str(beir))).count_of("missing file") == 1
    with pytest.raises(DataError, match=r"no such folder.*hf:NAME"):
        convert(DataConfig(source=str(tmp_path / "nothing")), tmp_path / "out")
    report = check(DataConfig(source=str(tmp_path / "nothing")))
    assert report.documents == 0
    assert not report.ok
    config = DataConfig(corpus=str(beir / "doc.jsonl"), qrels={"t": str(beir / "x.pdf")})
    with pytest.raises(DataError, match=r"no such file.*holds: docs.jsonl"):
        convert(config, tmp_path / "out")
    (beir / "x.pdf").write_text("?")
    assert "format of this file is unknown" in str(check(config).to_rows())


def test_no_judgements_at_all(beir: Path, tmp_path: Path) -> None:
    for path in (beir / "qrels").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="there are no judgements"):
        convert(DataConfig(source=str(beir)), tmp_path / "out")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden"])
def test_split_names_stay_in_the_folder(beir: Path, tmp_path: Path, name: str) -> None:
    config = DataConfig(source=str(beir), qrels={name: str(beir / "qrels/test.tsv")})
    with pytest.raises(DataError, match="cannot be the name of a split"):
        convert(config, tmp_path / "out")


def test_queries_with_a_named_data_set_contradict() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(ConfigError, match="contradict"):
        check(DataConfig(source="hf:x", queries="y.jsonl"))


def test_counts_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / "hand"
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": "a", "title": "One", "text": "two three"},
        {"_id": "b", "title": "", "text": "One two three"},  # the same text as one field
        {"_id": "c", "title": " ", "text": "\n"},
        {"_id": "d", "text": ""},
        {"_id": "q1", "text": "x", "url": "http://example.org"},
    ]
    queries = [
        {"_id": "q1", "text": "x"},
        {"_id": "q2", "text": "x "},
        {"_id": "q3", "text": " "},
        {"_id": "q4", "text": "one two three four"},
    ]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels/test.tsv").write_text(
        head + "q1\ta\t2\nq1\tb\t1\nq1\tq1\t1\nq2\ta\t0\nq1\ta\t2\n"
    )
    (folder / "qrels/dev.tsv").write_text(head + "q2\ta\t1\n")
    report = check(DataConfig(source=str(folder)))
    assert report.ok
    assert (report.documents, report.queries) == (5, 4)
    assert (report.empty_documents, report.duplicate_documents) == (2, 1)
    assert (report.empty_queries, report.duplicate_queries) == (1, 1)
    assert report.unjudged_queries == 2
    assert report.queries_in_several_splits == 1
    assert report.repeated_judgements == 1
    assert (report.shared_ids, report.self_judgements) == (1, 1)
    assert report.document_words == LengthSummary(0, 1.0, 1.4, 3.0, 3)
    assert report.query_words == LengthSummary(0, 1.0, 1.5, 3.55, 4)
    test = report.split("test")
    assert (test.judgements, test.positives, test.queries) == (4, 3, 2)
    assert (test.queries_without_positive, test.documents) == (1, 3)
    assert test.positives_per_query == 1.5
    rows = dict(report.to_rows())
    assert rows["documents"] == "5"
    assert rows["query ids that are document ids"] == "1 (1 judged for their own id)"
    assert rows["problems"] == "none"
    assert CollectionReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_report_with_problems_survives_json(beir: Path) -> None:
    put_line(beir / "corpus.jsonl", 2, b"{")
    report = check(DataConfig(source=str(beir)))
    assert CollectionReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert ("problem: broken JSON", "1") in report.to_rows()
