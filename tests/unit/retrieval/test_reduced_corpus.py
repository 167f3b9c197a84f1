"""The reduced dev corpus: all answers, the right number of others, never an answer among them."""

from __future__ import annotations

import pytest

from sptar.errors import DataError
from sptar.retrieval.ranking import ListedIds
from sptar.training.dev_set import reduced_dev_set
from sptar.types import Document, Query


class MemoryCorpus(ListedIds):
    def __init__(self, documents):
        super().__init__(documents)
        self._documents = documents

    def __getitem__(self, position):
        return self._documents[position]

    def __iter__(self):
        return iter(self._documents)

    def get(self, doc_id):
        return self._documents[self.position(doc_id)]


CORPUS = MemoryCorpus([Document(f"d{i}", f"text {i}") for i in range(200)])
QUERIES = [Query("q1", "one"), Query("q2", "two"), Query("q3", "unlabelled")]
QRELS = {"q1": {"d5": 1, "d6": 2, "d7": 0}, "q2": {"d9": 1}, "q3": {"d8": 0}, "other": {"d1": 1}}


def ranking(query, number):
    """d0, d1, d2 … for every query: the answers d5, d6 and d9 stand among the best."""
    return [f"d{i}" for i in range(number)]


def test_counts_order_and_no_answer_among_the_negatives():
    dev = reduced_dev_set(QUERIES, QRELS, CORPUS, 20, ranking, seed=1)
    assert [query.query_id for query in dev.queries] == ["q1", "q2"]
    assert dev.qrels == {"q1": QRELS["q1"], "q2": QRELS["q2"]}
    ids = [document.doc_id for document in dev.documents]
    positions = [CORPUS.position(doc_id) for doc_id in ids]
    assert positions == sorted(set(positions))
    assert {"d5", "d6", "d9"} <= set(ids)
    # q1 has two labelled documents: 20 hard ones; q2's 10 are the same ones, so 40 are drawn.
    assert dev.hard_negatives == 20
    assert dev.random_negatives == 40
    assert len(ids) == 3 + 60
    hard = [f"d{i}" for i in range(23) if i not in (5, 6, 9)]
    assert set(hard) <= set(ids)


def test_the_same_seed_draws_the_same_documents_and_another_one_others():
    def ids(seed):
        dev = reduced_dev_set(QUERIES, QRELS, CORPUS, 20, ranking, seed)
        return [document.doc_id for document in dev.documents]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_a_small_collection_is_taken_whole():
    small = MemoryCorpus([CORPUS[i] for i in range(12)])
    dev = reduced_dev_set(QUERIES, QRELS, small, 20, ranking_of(small), seed=1)
    assert [document.doc_id for document in dev.documents] == [f"d{i}" for i in range(12)]


def ranking_of(corpus):
    return lambda query, number: [corpus.doc_id(i) for i in range(min(number, len(corpus)))]


def test_random_documents_stand_in_for_missing_hard_ones():
    dev = reduced_dev_set(QUERIES, QRELS, CORPUS, 20, lambda query, number: [], seed=1)
    assert (dev.hard_negatives, dev.random_negatives) == (0, 60)
    assert len(dev.documents) == 63


def test_without_negatives_only_the_answers_remain():
    def never(query, number):
        raise AssertionError("no ranking is needed")

    dev = reduced_dev_set(QUERIES, QRELS, CORPUS, 0, never, seed=1)
    assert [document.doc_id for document in dev.documents] == ["d5", "d6", "d9"]


def test_a_labelled_document_that_is_missing_is_named():
    with pytest.raises(DataError, match=r"q1 .* d999"):
        reduced_dev_set(QUERIES, {"q1": {"d999": 1}}, CORPUS, 1, ranking, seed=1)
