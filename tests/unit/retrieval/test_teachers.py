"""Teachers: pair scores by text and place, MaxSim by loops, files that are whole or refused."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from sptar.errors import DataError, ModelError, WorkspaceError
from sptar.progress import RecordedProgress
from sptar.retrieval.late.scores import TokenVectors
from sptar.training import teachers
from sptar.training.teachers import (
    LateTeacher,
    load_pair_scores,
    pair_scores,
    save_pair_scores,
)
from sptar.types import Document, Pair, Query
from tiny import DOCUMENTS, PAIRS


def text_score(query: str, document: str) -> float:
    """A score that tells every pair of texts from every other one."""
    return (zlib.crc32(f"{query}|{document}".encode()) % 1000) / 100


class Reranker:
    def __init__(self) -> None:
        self.calls: list[int] = []

    def scores(self, queries, documents):
        assert len(queries) == len(documents)
        self.calls.append(len(queries))
        return np.array([text_score(q, d) for q, d in zip(queries, documents, strict=True)])


NEGATIVES = tuple((DOCUMENTS[(i + 3) % 12], DOCUMENTS[(i + 5) % 12]) for i in range(len(PAIRS)))


# --- pair-wise teacher --------------------------------------------------------------------------


def test_each_pair_is_scored_with_its_negatives_in_order():
    progress = RecordedProgress()
    scores = pair_scores(Reranker().scores, PAIRS, NEGATIVES, progress=progress)
    assert scores.dtype == np.float32
    expected = [
        [text_score(pair.query.text, document.full_text) for document in (pair.document, *found)]
        for pair, found in zip(PAIRS, NEGATIVES, strict=True)
    ]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert (progress.advanced, progress.finished) == (len(PAIRS), 1)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_blocks_do_not_change_the_scores(at_once, monkeypatch):
    whole = pair_scores(Reranker().scores, PAIRS, NEGATIVES)
    monkeypatch.setattr(teachers, "_PAIRS_AT_ONCE", at_once)
    reranker = Reranker()
    assert pair_scores(reranker.scores, PAIRS, NEGATIVES).tolist() == whole.tolist()
    assert max(reranker.calls) <= 3 * at_once
    parts = [pair_scores(Reranker().scores, PAIRS[i : i + 3], NEGATIVES[i : i + 3]) for i in (0, 3)]
    assert np.concatenate(parts).tolist() == whole[:6].tolist()


def test_texts_are_those_of_training():
    pair = Pair(Query("q", "  who?\n"), Document("d", " I. ", "Title"))
    seen = []

    def scores(queries, documents):
        seen.extend(zip(queries, documents, strict=True))
        return np.zeros(len(queries))

    assert pair_scores(scores, [pair], [()]).shape == (1, 1)
    assert seen == [("who?", pair.document.full_text)]


def test_no_pairs_have_no_scores():
    assert pair_scores(Reranker().scores, [], []).shape == (0, 1)


def test_scores_that_are_no_numbers_name_the_query():
    def scores(queries, documents):
        return np.array([np.nan if text == PAIRS[5].query.text else 1.0 for text in queries])

    with pytest.raises(ModelError, match=PAIRS[5].query.query_id):
        pair_scores(scores, PAIRS, NEGATIVES)
    with pytest.raises(ValueError, match="scored by an array"):
        pair_scores(lambda queries, documents: np.zeros(1), PAIRS, NEGATIVES)
    with pytest.raises(ValueError, match="different numbers"):
        pair_scores(Reranker().scores, PAIRS[:2], [NEGATIVES[0], ()])
    with pytest.raises(ValueError, match="and 2 pairs"):
        pair_scores(Reranker().scores, PAIRS[:2], [()])


def test_pair_scores_come_back_from_disk(tmp_path):
    scores = pair_scores(Reranker().scores, PAIRS, NEGATIVES)
    path = tmp_path / "new folder" / "scores.npy"
    save_pair_scores(path, scores.astype(np.float64))
    loaded = load_pair_scores(path, len(PAIRS), 2)
    assert loaded.dtype == np.float32
    assert loaded.tolist() == scores.tolist()
    assert load_pair_scores(path, len(PAIRS)).tolist() == scores.tolist()
    assert [entry.name for entry in path.parent.iterdir()] == ["scores.npy"]


def test_scores_of_other_pairs_are_refused(tmp_path):
    path = tmp_path / "scores.npy"
    save_pair_scores(path, np.zeros((4, 3)))
    with pytest.raises(DataError, match="4 pairs with 2 negatives"):
        load_pair_scores(path, 5)
    with pytest.raises(DataError, match="4 pairs with 3 negatives"):
        load_pair_scores(path, 4, 3)
    with pytest.raises(ValueError):
        save_pair_scores(path, np.zeros(4))


def test_damaged_scores_are_refused(tmp_path):
    path = tmp_path / "scores.npy"
    with pytest.raises(WorkspaceError, match="no file"):
        load_pair_scores(path, 4)
    save_pair_scores(path, np.zeros((4, 3)))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(WorkspaceError, match="damaged"):
        load_pair_scores(path, 4)
    np.save(path, np.zeros((4, 3), dtype=np.int64))
    with pytest.raises(WorkspaceError, match="int64"):
        load_pair_scores(path, 4)
    save_pair_scores(path, np.array([[np.inf, 0.0]]))
    with pytest.raises(WorkspaceError, match="numbers"):
        load_pair_scores(path, 1)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(WorkspaceError, match="damaged"):
        load_pair_scores(path, 1)


# --- late-interaction teacher -------------------------------------------------------------------


def word_vectors(text: str) -> list[np.ndarray]:
    """A unit vector for each word, told by the word alone."""
    found = []
    for word in text.split():
        vector = np.random.default_rng(zlib.crc32(word.encode())).normal(size=5)
        found.append((vector / np.linalg.norm(vector)).astype(np.float32))
    return found


class Encoder:
    """A token for each word; counts the texts that it reads."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def _tokens(self, texts):
        self.read += texts
        rows = [word_vectors(text) for text in texts]
        return TokenVectors.of([np.array(row, np.float32) for row in rows], 5)

    def encode_queries(self, queries):
        return self._tokens([f"query {query.text}" for query in queries])

    def encode_documents(self, documents):
        return self._tokens([f"document {document.full_text}" for document in documents])


def slow_max_sim(pair: Pair, other: Pair) -> float:
    query = word_vectors(f"query {pair.query.text}")
    document = word_vectors(f"document {other.document.full_text}")
    total = 0.0
    for left in query:
        total += max(
            sum(float(a) * float(b) for a, b in zip(left, right, strict=True)) for right in document
        )
    return total


@pytest.mark.parametrize("numbers", [[0], [3, 1], [7, 6, 5, 4, 3, 2, 1, 0], [2, 2, 5]])
def test_scores_are_max_sim_by_loops(tmp_path, numbers):
    teacher = LateTeacher.build(Encoder(), PAIRS, tmp_path)
    scores = teacher.scores(numbers)
    assert scores.dtype == np.float32
    expected = [[slow_max_sim(PAIRS[i], PAIRS[j]) for j in numbers] for i in numbers]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_max_sim_by_hand(tmp_path):
    class Fixed:
        def encode_queries(self, queries):
            # Query a: (1, 0) and (0, 1); query b: (1, 1).
            return TokenVectors.of([np.array([[1, 0], [0, 1]]), np.array([[1, 1]])], 2)

        def encode_documents(self, documents):
            # Document x: (2, -1); document y: (-3, -2) and (-1, -4).
            return TokenVectors.of([np.array([[2, -1]]), np.array([[-3, -2], [-1, -4]])], 2)

    pairs = [
        Pair(Query("1", "a"), Document("1", "x")),
        Pair(Query("2", "b"), Document("2", "y")),
    ]
    teacher = LateTeacher.build(Fixed(), pairs, tmp_path)
    # a, x: 2 - 1. a, y: -1 - 2: a missing token would be worth 0, which is more. b: 1 and -5.
    assert teacher.scores([0, 1]).tolist() == [[1.0, -3.0], [1.0, -5.0]]


def test_scores_do_not_depend_on_the_batch_or_on_files(tmp_path, monkeypatch):
    teacher = LateTeacher.build(Encoder(), PAIRS, tmp_path / "whole")
    whole = teacher.scores(range(len(PAIRS)))
    for i in range(len(PAIRS)):
        for j in range(len(PAIRS)):
            assert teacher.scores([i, j])[0, 1] == whole[i, j]
    for size in (1, 3, len(PAIRS)):
        monkeypatch.setattr(teachers, "_TEXTS_IN_FILE", size)
        pieces = LateTeacher.build(Encoder(), PAIRS, tmp_path / str(size))
        assert pieces.scores(range(len(PAIRS))).tolist() == whole.tolist()
        files = sorted(path.name for path in (tmp_path / str(size)).glob("documents-*"))
        assert len(files) == -(-len(PAIRS) // size)
    # How texts lie in files is part of the folder, not of the code that reads it.
    assert (
        LateTeacher.load(tmp_path / "3").scores([7, 0]).tolist()
        == whole[[7, 0]][:, [7, 0]].tolist()
    )


def test_a_built_teacher_is_loaded_from_disk(tmp_path):
    built = LateTeacher.build(Encoder(), PAIRS, tmp_path / "teacher")
    loaded = LateTeacher.load(tmp_path / "teacher")
    assert len(loaded) == len(built) == len(PAIRS)
    assert loaded.scores([4, 2, 0]).tolist() == built.scores([4, 2, 0]).tolist()
    assert loaded.scores([]).shape == (0, 0)


def test_equal_texts_are_read_and_kept_once(tmp_path):
    again = Pair(Query("other", f" {PAIRS[0].query.text}\n"), Document("copy", DOCUMENTS[1].text))
    same = Pair(PAIRS[2].query, Document("copy2", f"{DOCUMENTS[4].full_text}"))
    pairs = (*PAIRS, again, same)
    encoder, progress = Encoder(), RecordedProgress()
    teacher = LateTeacher.build(encoder, pairs, tmp_path, progress)
    queries = {pair.query.text.strip() for pair in pairs}
    documents = {pair.document.full_text for pair in pairs}
    assert len(encoder.read) == len(queries) + len(documents) == progress.advanced
    numbers = list(range(len(pairs)))
    expected = [[slow_max_sim(pairs[i], pairs[j]) for j in numbers] for i in numbers]
    np.testing.assert_allclose(teacher.scores(numbers), expected, rtol=1e-5)


def test_an_unfinished_teacher_is_not_taken_for_a_finished_one(tmp_path):
    class Dies(Encoder):
        def encode_documents(self, documents):
            raise KeyboardInterrupt

    LateTeacher.build(Encoder(), PAIRS[:3], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        LateTeacher.build(Dies(), PAIRS, tmp_path)
    with pytest.raises(WorkspaceError, match="no finished"):
        LateTeacher.load(tmp_path)
    assert len(LateTeacher.build(Encoder(), PAIRS, tmp_path)) == len(PAIRS)


def test_damaged_teachers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "_TEXTS_IN_FILE", 5)
    with pytest.raises(WorkspaceError, match="no finished"):
        LateTeacher.load(tmp_path / "nowhere")

    def refused(match):
        with pytest.raises(WorkspaceError, match=match):
            LateTeacher.load(tmp_path)
        LateTeacher.build(Encoder(), PAIRS, tmp_path)
        assert len(LateTeacher.load(tmp_path)) == len(PAIRS)

    LateTeacher.build(Encoder(), PAIRS, tmp_path)
    part = tmp_path / "documents-00001.safetensors"
    part.write_bytes(part.read_bytes()[:-20])
    refused("documents-00001")
    part.unlink()
    refused("no file")
    TokenVectors.of([np.zeros((1, 5))] * 2, 5).save(part)
    refused("do not belong together")
    TokenVectors.of([np.zeros((1, 4))] * 3, 4).save(part)
    refused("do not belong together")
    np.save(tmp_path / "pairs.npy", np.full((len(PAIRS), 2), 99, dtype=np.int64))
    refused("do not belong together")
    np.save(tmp_path / "pairs.npy", np.full((len(PAIRS), 2), -1, dtype=np.int64))
    refused("do not belong together")
    np.save(tmp_path / "pairs.npy", np.zeros((len(PAIRS), 3), dtype=np.int64))
    refused("do not belong together")
    np.save(tmp_path / "pairs.npy", np.zeros((3, 2), dtype=np.int64))
    refused("do not belong together")
    (tmp_path / "teacher.json").write_text('{"format": 1, "pairs": 8}')
    refused("do not belong together")
    (tmp_path / "teacher.json").write_text("{")
    refused("do not belong together")
    (tmp_path / "teacher.json").write_text("[]")
    refused("do not belong together")


def test_broken_vectors_and_lost_texts_are_refused(tmp_path):
    class NoNumbers(Encoder):
        def encode_queries(self, queries):
            tokens = super().encode_queries(queries)
            tokens.vectors[3, 2] = np.nan
            return tokens

    class Forgets(Encoder):
        def encode_documents(self, documents):
            return super().encode_documents(documents[1:])

    with pytest.raises(ModelError, match="in-batch teacher's query vectors .* no numbers"):
        LateTeacher.build(NoNumbers(), PAIRS, tmp_path)
    with pytest.raises(ValueError, match="encoded as 7"):
        LateTeacher.build(Forgets(), PAIRS, tmp_path)
    with pytest.raises(ValueError, match="one pair"):
        LateTeacher.build(Encoder(), [], tmp_path)
    with pytest.raises(WorkspaceError, match="no finished"):
        LateTeacher.load(tmp_path)


def test_vectors_stay_on_disk(tmp_path):
    LateTeacher.build(Encoder(), PAIRS, tmp_path)
    loaded = LateTeacher.load(tmp_path)
    (documents,) = loaded._documents
    assert isinstance(documents.vectors.base, np.memmap) or isinstance(documents.vectors, np.memmap)
    texts = list(dict.fromkeys(pair.document.full_text for pair in PAIRS))
    assert documents.lengths.tolist() == [1 + len(text.split()) for text in texts]
