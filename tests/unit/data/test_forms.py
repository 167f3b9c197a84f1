"""Files as other programs write them: read where only one reading is possible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sptar.config import DataConfig, SplitConfig
from sptar.data.collection import Collection
from sptar.data.sources import convert
from sptar.data.splits import make_split
from sptar.data.validate import check
from sptar.errors import ConfigError, DataError
from sptar.io import read_jsonl, read_qrels


def read(beir: Path, tmp_path: Path) -> Collection:
    convert(DataConfig(source=str(beir)), tmp_path / "read")
    return Collection.open(tmp_path / "read")


@pytest.mark.parametrize(
    "text",
    [
        "Query-ID\tCorpus-ID\tScore\nq2\td2\t2\nq2\td3\t0\n",
        "QUERY_ID\tcorpus id\tRelevance\nq2\td2\t2\nq2\td3\t0\n",
        '"query-id"\t"corpus-id"\t"score"\n"q2"\t"d2"\t"2"\n"q2"\t"d3"\t"0"\n',
        "query-id\tcorpus-id\tscore\nq2\td2\t2.0\nq2\td3\t0.0\n",
    ],
)
def test_headers_and_cells_of_other_programs(beir: Path, tmp_path: Path, text: str) -> None:
    plain = read(beir, tmp_path).qrels
    (beir / "qrels" / "test.tsv").write_text(text)
    assert check(DataConfig(source=str(beir))).ok
    assert read(beir, tmp_path).qrels == plain


def test_a_column_with_the_usual_name_goes_before_one_that_is_only_like_it(
    beir: Path, tmp_path: Path
) -> None:
    plain = read(beir, tmp_path).qrels
    (beir / "qrels" / "test.tsv").write_text(
        "Query-ID\tquery-id\tcorpus-id\tscore\n7\tq2\td2\t2\n8\tq2\td3\t0\n"
    )
    assert read(beir, tmp_path).qrels == plain


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl"])
def test_one_json_array(beir: Path, tmp_path: Path, file: str, indent: int | None) -> None:
    plain = read(beir, tmp_path)
    rows = [row for _, row in read_jsonl(beir / file)]
    (beir / file).write_text(json.dumps(rows, indent=indent))
    found = read(beir, tmp_path)
    assert list(found.corpus) == list(plain.corpus)
    assert found.queries == plain.queries


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('[\n {"_id": "d1", "text": "a"},\n {"_id": "d2" "text"}\n]', 3, "Expecting"),
        ('[\n {"_id": "d1", "text": "a"}\n {"_id": "d2", "text": "b"}\n]', 3, "Expecting ','"),
        ('[\n {"_id": "d1", "text": "a"},\n\n  7]', 4, "object is needed, not a int"),
        ('[\n {"_id": "d1", "text": "a"}\n]\n{}', 3, "more follows"),
        ('[\n {"_id": "d1", "text": "a"}', 2, "Expecting"),
        ("[\n" + "[" * 100_000, 2, "nested too deeply"),
    ],
)
def test_a_broken_array_is_named_with_its_line(
    beir: Path, tmp_path: Path, text: str, line: int, message: str
) -> None:
    (beir / "corpus.jsonl").write_text(text)
    with pytest.raises(DataError) as caught:
        read(beir, tmp_path)
    assert (caught.value.line, caught.value.path) == (line, beir / "corpus.jsonl")
    assert message in caught.value.message


def test_ids_that_became_floats(beir: Path, tmp_path: Path) -> None:
    rows = [{"_id": float(number), "text": f"text {number}"} for number in (1, 2, 3)]
    (beir / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (beir / "queries.jsonl").write_text('{"_id": 7, "text": "a"}\n{"_id": "8.0", "text": "b"}\n')
    (beir / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n7.0\t1.0\t1\n")
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n8\t2\t1\n8.0\t3.0\t1\n")
    assert check(DataConfig(source=str(beir))).ok
    found = read(beir, tmp_path)
    assert [document.doc_id for document in found.corpus] == ["1", "2", "3"]
    assert found.qrels == {"train": {"7": {"1": 1}}, "test": {"8.0": {"2": 1, "3": 1}}}


def test_a_long_number_in_a_column_that_nobody_reads(beir: Path, tmp_path: Path) -> None:
    plain = read(beir, tmp_path)
    rows = (beir / "corpus.jsonl").read_text().splitlines(keepends=True)
    rows[1] = rows[1].rstrip("}\n") + ', "stamp": ' + "9" * 5000 + "}\n"
    (beir / "corpus.jsonl").write_text("".join(rows))
    assert check(DataConfig(source=str(beir))).ok
    assert list(read(beir, tmp_path).corpus) == list(plain.corpus)


@pytest.mark.parametrize("grade", [0, -1])
def test_a_split_without_a_positive_document(beir: Path, tmp_path: Path, grade: int) -> None:
    (beir / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\nq2\td2\t{grade}\n")
    report = check(DataConfig(source=str(beir)))
    assert [(item.reason, item.count) for item in report.problems] == [("no positive judgement", 1)]
    assert (
        f"{beir / 'qrels' / 'test.tsv'}: none of the 1 judgements"
        in (report.problems[0].examples[0])
    )
    # A run that tests on it is refused; one that uses the other split alone is not.
    collection = read(beir, tmp_path)
    with pytest.raises(ConfigError, match="'test' has no query with a document of grade 1"):
        make_split(collection, SplitConfig(train_queries=1, eval_queries=1), 0)


@pytest.mark.parametrize("grade", ["101", "-101", "99999999999", "9" * 30])
def test_judgements_of_an_earlier_conversion_are_held_to_the_bound_too(
    tmp_path: Path, grade: str
) -> None:
    (tmp_path / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\nq\td\t100\nq\te\t{grade}\n")
    with pytest.raises(DataError, match="is no grade") as caught:
        read_qrels(tmp_path / "test.tsv")
    assert caught.value.line == 3
