"""Candidates in the order of a cross-encoder's scores, ties by document id."""

from __future__ import annotations

import numpy as np
import pytest
from crossencoder_models import config_of

from rounding import rounding
from sptar.errors import DataError
from sptar.retrieval.cross.reranker import load_cross_encoder
from sptar.retrieval.ranking import ListedIds
from sptar.types import Document, Query
from tiny import DOCUMENTS, QUERIES


class Listed(ListedIds):
    """A corpus in memory."""

    def __init__(self, documents):
        super().__init__(documents)
        self._by_id = {document.doc_id: document for document in documents}

    def get(self, doc_id):
        return self._by_id[doc_id]


CORPUS = Listed(
    [Document(name, f"text of {name}") for name in "abcde"] + [Document("q1", "its own text")]
)


@pytest.fixture
def by_table(classifier, monkeypatch):
    """A reranker whose scores are looked up by hand: the letter of the document."""
    table = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 3.0, "e": -1.0, "t": 9.0}
    reranker = load_cross_encoder(None, config_of(classifier))
    monkeypatch.setattr(
        reranker,
        "scores",
        lambda queries, documents: np.array([table[text[-1]] for text in documents], np.float32),
    )
    return reranker


def test_candidates_are_ordered_by_score_then_id(by_table):
    queries = [Query("q1", "x"), Query("q2", "y"), Query("q3", "z")]
    candidates = {
        "q1": {"e": 5.0, "d": 4.0, "q1": 3.5, "c": 3.0, "b": 2.0},
        "q3": {"a": 1.0},
        "unasked": {"b": 1.0},
    }
    run = by_table.rerank(queries, candidates, CORPUS, 3)
    assert {query_id: list(found.items()) for query_id, found in run.items()} == {
        "q1": [("b", 3.0), ("d", 3.0), ("c", 2.0)],
        "q2": [],
        "q3": [("a", 1.0)],
    }
    assert list(by_table.rerank(queries, candidates, CORPUS, 1)["q1"]) == ["b"]


def test_candidates_that_are_not_there_and_queries_twice_are_refused(by_table):
    with pytest.raises(DataError, match=r"^Document z is to be reranked, and the corpus"):
        by_table.rerank([Query("q1", "x")], {"q1": {"z": 1.0}}, CORPUS, 3)
    with pytest.raises(ValueError, match="twice"):
        by_table.rerank([Query("q", "x"), Query("q", "y")], {}, CORPUS, 3)
    with pytest.raises(ValueError, match="top_k"):
        by_table.rerank([], {}, CORPUS, 0)


def test_reranking_in_pieces_gives_the_whole(classifier, monkeypatch):
    reranker = load_cross_encoder(None, config_of(classifier))
    corpus = Listed(DOCUMENTS)
    candidates = {
        query.query_id: dict.fromkeys([document.doc_id for document in DOCUMENTS[number:]], 0.0)
        for number, query in enumerate(QUERIES)
    }
    whole = reranker.rerank(QUERIES, candidates, corpus, 5)
    monkeypatch.setattr("sptar.retrieval.cross.reranker._PAIRS_AT_ONCE", 7)
    cut = reranker.rerank(QUERIES, candidates, corpus, 5)
    assert list(cut) == list(whole)
    for query_id, found in whole.items():
        assert len(found) == 5
        assert list(cut[query_id]) == list(found)
        np.testing.assert_allclose(
            list(cut[query_id].values()), list(found.values()), atol=rounding(size=2.0)
        )
