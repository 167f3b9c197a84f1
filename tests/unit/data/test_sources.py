from __future__ import annotations

import csv
import gzip
import json
import lzma
from pathlib import Path

import pytest

from sptar.config import DataConfig
from sptar.data.collection import Collection
from sptar.data.sources import convert
from sptar.data.validate import check
from sptar.errors import DataError
from sptar.progress import RecordedProgress
from sptar.types import Document, Query


def turn(output: Path, **settings: object) -> Collection:
    convert(DataConfig.model_validate(settings), output)
    return Collection.open(output)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_beir_folder_is_normalised(beir: Path, tmp_path: Path) -> None:
    progress = RecordedProgress()
    report = convert(DataConfig(source=str(beir)), tmp_path / "out", progress)
    collection = Collection.open(tmp_path / "out")
    assert list(collection.corpus) == [
        Document("d1", "Dogs travel free.", "Animals"),
        Document("d2", "Größe und Länge — 寸法"),
        Document("d3", "Cats sleep\nall day."),
    ]
    assert list(collection.queries.items()) == [
        ("q1", Query("q1", "do dogs pay?")),
        ("q2", Query("q2", "größe")),
    ]
    assert collection.qrels == {"test": {"q2": {"d2": 2, "d3": 0}}, "train": {"q1": {"d1": 1}}}
    assert (tmp_path / "out/qrels/train.tsv").read_text() == (
        "query-id\tcorpus-id\tscore\nq1\td1\t1\n"
    )
    assert report.ok
    # Each bar that is started is finished, and all rows are counted (documents twice: the index).
    assert len(progress.started) == progress.finished
    assert progress.advanced == 3 + 2 + 3 + 3


def test_converting_again_gives_the_same_bytes_and_drops_stale_splits(
    beir: Path, tmp_path: Path
) -> None:
    convert(DataConfig(source=str(beir)), tmp_path / "out")
    before = snapshot(tmp_path / "out")
    (tmp_path / "out/qrels/old.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    convert(DataConfig(source=str(tmp_path / "out")), tmp_path / "twice")
    assert snapshot(tmp_path / "twice").keys() - before.keys() == {"qrels/old.tsv"}
    convert(DataConfig(source=str(beir)), tmp_path / "out")
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_folders(beir: Path, tmp_path: Path, suffix: str, pack) -> None:
    plain = turn(tmp_path / "plain", source=str(beir))
    for path in [*beir.glob("*.jsonl"), *beir.glob("qrels/*.tsv")]:
        path.with_name(path.name + suffix).write_bytes(pack(path.read_bytes()))
        path.unlink()
    turn(tmp_path / "packed", source=str(beir))
    assert snapshot(tmp_path / "packed") == snapshot(plain.corpus.folder)


def test_byte_order_mark_crlf_and_blank_lines(beir: Path, tmp_path: Path) -> None:
    convert(DataConfig(source=str(beir)), tmp_path / "plain")
    for path in [*beir.glob("*.jsonl"), *beir.glob("qrels/*.tsv")]:
        text = path.read_bytes().replace(b"\n", b"\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text + b"\r\n")
    convert(DataConfig(source=str(beir)), tmp_path / "windows")
    assert snapshot(tmp_path / "windows") == snapshot(tmp_path / "plain")


def test_numbers_as_ids_and_whole_floats_as_grades(beir: Path, tmp_path: Path) -> None:
    (beir / "corpus.jsonl").write_text('{"_id": 17, "text": "x"}\n{"_id": "017", "text": "y"}\n')
    (beir / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t17\t1.0\n")
    (beir / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq2\t017\t-1\n")
    collection = turn(tmp_path / "out", source=str(beir))
    assert collection.corpus.get("17").text == "x"
    assert collection.qrels == {"train": {"q1": {"17": 1}}, "test": {"q2": {"017": -1}}}


# Single files ------------------------------------------------------------------------------------

ROWS = [("x1", "Tariff", 'Dogs, "free"\nof charge'), ("x2", "", "Cats — 寸法")]


def files(folder: Path, kind: str) -> dict[str, object]:
    folder.mkdir(exist_ok=True)
    corpus = [{"pid": a, "head": b, "body": c} for a, b, c in ROWS]
    queries = [{"qid": "q7", "question": "dogs?"}, {"qid": "q8", "question": "cats?"}]
    judgements = [
        {"qid": "q7", "doc": "x1", "grade": 1},
        {"qid": "q8", "doc": "x2", "grade": 2},
    ]
    paths = {}
    for name, rows in (("corpus", corpus), ("queries", queries), ("train", judgements)):
        path = folder / f"{name}.{kind}"
        paths[name] = str(path)
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif kind == "parquet":
            arrow = pytest.importorskip("pyarrow")
            from pyarrow import parquet

            parquet.write_table(arrow.Table.from_pylist(rows), path)
        else:
            if kind == "tsv":  # no line breaks inside a cell
                rows = [{k: str(v).replace("\n", " ") for k, v in row.items()} for row in rows]
            with path.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(
                    stream,
                    list(rows[0]),
                    delimiter="\t" if kind == "tsv" else ",",
                    quoting=csv.QUOTE_NONE if kind == "tsv" else csv.QUOTE_MINIMAL,
                    quotechar=None if kind == "tsv" else '"',
                )
                writer.writeheader()
                writer.writerows(rows)
    return {
        "corpus": paths["corpus"],
        "queries": paths["queries"],
        "qrels": {"train": paths["train"]},
        "columns": {"doc_id": "pid", "title": "head", "text": "body", "score": "grade"},
    }


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_named_columns(tmp_path: Path, kind: str) -> None:
    settings = files(tmp_path / "in", kind)
    # The id of a document has another name in the judgements, found among the usual ones.
    path = Path(str(settings["qrels"]["train"]))  # type: ignore[index]
    if kind != "parquet":
        path.write_text(path.read_text().replace("doc", "doc_id"))
    else:
        settings["columns"] = {**settings["columns"], "doc_id": "pid"}  # type: ignore[dict-item]
        import pyarrow.parquet as parquet

        parquet.write_table(
            parquet.read_table(path).rename_columns(["qid", "doc_id", "grade"]), path
        )
    collection = turn(tmp_path / "out", **settings)
    text = ROWS[0][2].replace("\n", " ") if kind == "tsv" else ROWS[0][2]
    assert list(collection.corpus) == [
        Document("x1", text, "Tariff"),
        Document("x2", "Cats — 寸法"),
    ]
    assert [query.text for query in collection.queries.values()] == ["dogs?", "cats?"]
    assert collection.qrels == {"train": {"q7": {"x1": 1}, "q8": {"x2": 2}}}


def test_rows_without_ids_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("text\nfirst\nsecond\nthird\n")
    (tmp_path / "q.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "j.csv").write_text("query_id,doc_id\n1,2\n0,0\n")
    collection = turn(
        tmp_path / "out",
        corpus=str(tmp_path / "c.csv"),
        queries=str(tmp_path / "q.jsonl"),
        qrels={"test": str(tmp_path / "j.csv")},
    )
    assert [(d.doc_id, d.text) for d in collection.corpus] == [
        ("0", "first"),
        ("1", "second"),
        ("2", "third"),
    ]
    assert list(collection.queries) == ["q0", "q1"]
    assert collection.qrels == {"test": {"q1": {"2": 1}, "q0": {"0": 1}}}


def test_a_skipped_row_does_not_move_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("text,x\nfirst,1\nbroken\nthird,3\n")
    (tmp_path / "j.csv").write_text("query,doc_id\nthe third?,2\n")
    collection = turn(
        tmp_path / "out",
        corpus=str(tmp_path / "c.csv"),
        qrels={"test": str(tmp_path / "j.csv")},
        on_error="skip",
    )
    assert [d.doc_id for d in collection.corpus] == ["0", "2"]
    assert collection.qrels["test"] == {"q0": {"2": 1}}


def test_queries_inside_the_judgements(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("id\ttext\nd1\ta\nd2\tb\n")
    (tmp_path / "train.tsv").write_text("query\tdoc_id\nhow?\td1\nwhy?\td2\nhow?\td2\n")
    (tmp_path / "test.tsv").write_text("query\tdoc_id\twhy not\n who? \td1\t-\nwhy?\td1\t-\n")
    settings = {
        "corpus": str(tmp_path / "c.tsv"),
        "qrels": {"train": str(tmp_path / "train.tsv"), "test": str(tmp_path / "test.tsv")},
    }
    collection = turn(tmp_path / "out", **settings)
    assert {key: query.text for key, query in collection.queries.items()} == {
        "q0": "how?",
        "q1": "why?",
        "q2": "who?",
    }
    assert collection.qrels["train"] == {"q0": {"d1": 1, "d2": 1}, "q1": {"d2": 1}}
    assert collection.qrels["test"] == {"q2": {"d1": 1}, "q1": {"d1": 1}}
    report = check(DataConfig.model_validate(settings))
    assert report.queries == 3
    assert report.queries_in_several_splits == 1
    assert report.ignored_columns == ("judgements: why not",)


def test_queries_inside_the_judgements_with_ids(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("id\ttext\nd1\ta\nd2\tb\n")
    path = tmp_path / "t.tsv"
    path.write_text("qid\tquery\tdoc_id\n7\thow?\td1\n7\thow?\td2\n")
    settings = {"corpus": str(tmp_path / "c.tsv"), "qrels": {"test": str(path)}}
    collection = turn(tmp_path / "out", **settings)
    assert collection.queries == {"7": Query("7", "how?")}
    path.write_text("qid\tquery\tdoc_id\n7\thow?\td1\n7\twho?\td2\n")
    with pytest.raises(DataError, match=r"t\.tsv:3: query '7' had another text before"):
        turn(tmp_path / "out2", **settings)


def test_trec_judgements(tmp_path: Path, beir: Path) -> None:
    (tmp_path / "dl19.trec").write_text("q1 0 d3 3\nq2 0 d1 0\n")
    collection = turn(
        tmp_path / "out", source=str(beir), qrels={"dl19": str(tmp_path / "dl19.trec")}
    )
    assert collection.qrels == {"dl19": {"q1": {"d3": 3}, "q2": {"d1": 0}}}


def test_a_failed_conversion_leaves_the_folder_as_it_was(beir: Path, tmp_path: Path) -> None:
    convert(DataConfig(source=str(beir)), tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with (beir / "qrels/test.tsv").open("a") as stream:
        stream.write("q1\tnothing\t1\n")
    with pytest.raises(DataError):
        convert(DataConfig(source=str(beir)), tmp_path / "out")
    assert snapshot(tmp_path / "out") == before


def test_a_killed_conversion_leaves_no_index_of_other_rows(
    beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new corpus has as many bytes as the old one: its old index would seem to fit."""
    convert(DataConfig(source=str(beir)), tmp_path / "out")
    corpus = beir / "corpus.jsonl"
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join(reversed(lines)))

    def killed(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr("sptar.data.sources.build_index", killed)
        with pytest.raises(KeyboardInterrupt):
            convert(DataConfig(source=str(beir)), tmp_path / "out")
    with pytest.raises(DataError, match="the corpus is not complete"):
        Collection.open(tmp_path / "out")


def test_many_documents_stream(tmp_path: Path) -> None:
    import tracemalloc

    with (tmp_path / "c.jsonl").open("w") as stream:
        for number in range(2000):
            stream.write(json.dumps({"id": f"d{number}", "text": f"{number} " * 500}) + "\n")
    (tmp_path / "j.tsv").write_text("query\tdoc_id\nwhich?\td1999\n")
    size = (tmp_path / "c.jsonl").stat().st_size
    tracemalloc.start()
    report = convert(
        DataConfig(corpus=str(tmp_path / "c.jsonl"), qrels={"test": str(tmp_path / "j.tsv")}),
        tmp_path / "out",
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.documents == 2000
    assert peak < size / 3
