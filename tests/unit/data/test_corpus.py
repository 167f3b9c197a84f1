from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from sptar.data.corpus import DiskCorpus, build_index
from sptar.errors import DataError
from sptar.types import Document

ROWS = [
    {"_id": "d1", "title": "Animals", "text": "Dogs travel free."},
    {"_id": 'with"quote', "title": "", "text": "x"},
    {"_id": "größe", "title": "寸法", "text": "line\u2028separator\nand a \\ backslash"},
    {"text": "the id stands last", "_id": "z"},
]


def write(folder: Path, rows: list[dict[str, str]], end: str = "\n") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "corpus.jsonl"
    path.write_text(end.join(json.dumps(row, ensure_ascii=False) for row in rows) + end, "utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> DiskCorpus:
    assert build_index(write(tmp_path / "c", ROWS), tmp_path / "c") == 4
    return DiskCorpus.open(tmp_path / "c")


def test_every_document_comes_back(corpus: DiskCorpus) -> None:
    expected = [Document(row["_id"], row["text"], row.get("title", "")) for row in ROWS]
    assert list(corpus) == expected
    assert len(corpus) == 4
    for position, document in enumerate(expected):
        assert corpus[position] == document
        assert corpus.doc_id(position) == document.doc_id
        assert corpus.position(document.doc_id) == position
        assert corpus.get(document.doc_id) == document
        assert document.doc_id in corpus


def test_unknown_ids_and_positions(corpus: DiskCorpus) -> None:
    assert "d2" not in corpus
    assert 3 not in corpus
    with pytest.raises(KeyError):
        corpus.position("d2")
    with pytest.raises(KeyError):
        corpus.get("d2")
    for position in (-1, 4):
        with pytest.raises(IndexError):
            corpus[position]


def test_last_line_without_end_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "a", "text": "1"}\n\n{"_id": "b", "text": "2"}')
    build_index(path, tmp_path)
    assert [document.doc_id for document in DiskCorpus.open(tmp_path)] == ["a", "b"]
    assert DiskCorpus.open(tmp_path).get("b").text == "2"


@pytest.mark.parametrize("digest", [lambda text: 5, lambda text: len(text) % 3])
def test_colliding_hashes_are_resolved_by_the_id(tmp_path: Path, digest) -> None:
    rows = [{"_id": f"d{number}", "text": str(number)} for number in range(40)]
    build_index(write(tmp_path / "c", rows), tmp_path / "c", digest=digest)
    corpus = DiskCorpus(tmp_path / "c", digest=digest)
    assert [corpus.position(f"d{number}") for number in range(40)] == list(range(40))
    assert "d40" not in corpus
    assert "x" not in corpus


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [{"_id": key, "text": ""} for key in "abcb"])
    with pytest.raises(DataError, match="'b' stands twice: documents 2 and 4"):
        build_index(path, tmp_path)


def test_a_pickle_is_small_and_reopens(corpus: DiskCorpus) -> None:
    packed = pickle.dumps(corpus)
    assert len(packed) < 500
    assert list(pickle.loads(packed)) == list(corpus)


def test_lookup_equals_a_dictionary_on_a_larger_corpus(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(5000)
    build_index(
        write(tmp_path, [{"_id": f"doc-{number}", "text": f"t{number}"} for number in order]),
        tmp_path,
    )
    corpus = DiskCorpus.open(tmp_path)
    for position in range(0, 5000, 7):
        assert corpus.position(f"doc-{order[position]}") == position
        assert corpus[position].text == f"t{order[position]}"


def test_a_changed_corpus_or_missing_file_is_noticed(tmp_path: Path, corpus: DiskCorpus) -> None:
    path = tmp_path / "c" / "corpus.jsonl"
    path.write_text(path.read_text("utf-8") + "\n", "utf-8")
    with pytest.raises(DataError, match="convert the collection again"):
        DiskCorpus.open(tmp_path / "c")
    path.unlink()
    with pytest.raises(DataError, match="a file is missing"):
        DiskCorpus.open(tmp_path / "c")


def test_documents_are_not_held_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    rows = [{"_id": f"d{number}", "text": "word " * 200} for number in range(5000)]
    path = write(tmp_path, rows)
    size = path.stat().st_size
    del rows
    tracemalloc.start()
    build_index(path, tmp_path)
    corpus = DiskCorpus.open(tmp_path)
    words = sum(len(document.text) for document in corpus)
    assert corpus.position("d4999") == 4999
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert words == 5000 * 1000
    assert peak < size / 4
