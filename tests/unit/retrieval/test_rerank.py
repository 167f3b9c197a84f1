"""Candidates get the scores of a full search, whatever lies in which block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.config import TrainConfig
from sptar.errors import DataError, ModelError
from sptar.retrieval.dense.encoder import load_encoder
from sptar.retrieval.dense.index import DenseIndex
from sptar.retrieval.dense.rerank import VectorReranker, restrict
from sptar.retrieval.ranking import ListedIds
from sptar.types import Document, Query
from tiny import DOCUMENTS, QUERIES


class Listed:
    """An encoder that looks its query vectors up."""

    def __init__(self, vectors):
        self.vectors = vectors

    def encode_queries(self, queries):
        return np.array([self.vectors[query.query_id] for query in queries], dtype=np.float32)


def ids_of(*doc_ids):
    return ListedIds([Document(doc_id, "") for doc_id in doc_ids])


VECTORS = np.array([[1, 0], [0, 1], [2, 0], [1, 1], [2, 0]], dtype=np.float32)
IDS = ids_of("a", "b", "d", "e", "c")


def rerank(queries, candidates, top_k=10, blocks=(VECTORS,), ids=IDS, vectors=None):
    vectors = vectors or {"q": [3, 1], "other": [0, 1], "b": [0, 1]}
    return VectorReranker(Listed(vectors), blocks, ids).rerank(queries, candidates, None, top_k)


def listed(run):
    """Rankings with their order."""
    return {query_id: list(found.items()) for query_id, found in run.items()}


def test_candidates_are_ordered_by_their_dot_product_and_nothing_else_is_returned():
    # By hand, with (3, 1): a 3, b 1, d 6, e 4, c 6.
    run = rerank([Query("q", "")], {"q": {"a": 9.0, "b": 8.0, "c": 1.0, "d": 2.0}})
    assert listed(run) == {"q": [("c", 6.0), ("d", 6.0), ("a", 3.0), ("b", 1.0)]}


def test_ties_at_the_cut_go_to_the_smaller_id():
    assert listed(rerank([Query("q", "")], {"q": {"d": 2.0, "e": 1.0, "c": 0.0}}, top_k=1)) == {
        "q": [("c", 6.0)]
    }


def test_a_document_with_the_id_of_the_query_is_left_out():
    run = rerank([Query("b", "")], {"b": {"a": 1.0, "b": 1.0, "e": 1.0}})
    assert listed(run) == {"b": [("e", 1.0), ("a", 0.0)]}


def test_every_query_is_in_the_run_and_no_other():
    run = rerank([Query("q", ""), Query("other", "")], {"q": {"a": 1.0}, "unasked": {"b": 1.0}})
    assert run == {"q": {"a": 3.0}, "other": {}}


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match=r"^Document z is to be reranked, and it has no vector\."):
        rerank([Query("q", "")], {"q": {"z": 1.0}})
    with pytest.raises(ValueError, match="4 vectors for 5 documents"):
        rerank([], {}, blocks=[VECTORS[:4]])
    with pytest.raises(ValueError, match="twice"):
        rerank([Query("q", "x"), Query("q", "y")], {})
    with pytest.raises(ValueError, match="top_k"):
        rerank([], {}, top_k=0)
    with pytest.raises(ModelError, match="no numbers"):
        rerank([Query("q", "")], {"q": {"a": 1.0}}, vectors={"q": [np.nan, 0]})


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_scores_and_order_are_those_of_a_search_of_everything(data, tmp_path_factory):
    """However the vectors are cut into arrays and files, and whatever the candidates scored."""
    count, dimension = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    # Few different values: many ties.
    vectors = generator.integers(-1, 2, (count, dimension)).astype(np.float32)
    names = [f"d{number}" for number in generator.permutation(count)]
    queries = [Query("d0", "its own document"), Query("q1", "")]
    asked = {query.query_id: generator.standard_normal(dimension) for query in queries}
    ids = ids_of(*names)
    full = DenseIndex(vectors, ids).search(
        Listed(asked).encode_queries(queries), queries, count + 1
    )
    candidates = {
        query.query_id: dict.fromkeys(
            data.draw(st.permutations(names))[: data.draw(st.integers(0, count))], 0.0
        )
        for query in queries
    }
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    blocks = []
    folder = tmp_path_factory.mktemp("blocks")
    for first, last in zip([0, *cuts], [*cuts, count], strict=True):
        block = vectors[first:last]
        if data.draw(st.booleans()):
            np.save(folder / f"{len(blocks)}.npy", block)
            block = folder / f"{len(blocks)}.npy"
        blocks.append(block)
    top_k = data.draw(st.integers(1, count))
    found = rerank(queries, candidates, top_k, blocks, ids, asked)
    expected = {
        query_id: [item for item in ranking.items() if item[0] in candidates[query_id]][:top_k]
        for query_id, ranking in full.items()
    }
    assert listed(found) == expected


def test_a_trained_encoders_candidates_are_scored_as_it_searches(tiny_encoder, tmp_path):
    encoder = load_encoder(tiny_encoder, TrainConfig())
    np.save(tmp_path / "first.npy", encoder.encode_documents(DOCUMENTS[:5]))
    rest = encoder.encode_documents(DOCUMENTS[5:])
    ids = ListedIds(DOCUMENTS)
    vectors = np.concatenate([np.load(tmp_path / "first.npy"), rest])
    full = DenseIndex(vectors, ids).search(encoder.encode_queries(QUERIES), QUERIES, 12)
    candidates = {query.query_id: {"d03": 1.0, "d07": 5.0, "d12": 2.0} for query in QUERIES}
    found = VectorReranker(encoder, [tmp_path / "first.npy", rest], ids).rerank(
        QUERIES, candidates, None, 2
    )
    for query in QUERIES:
        kept = [item for item in full[query.query_id].items() if item[0] in candidates["q01"]]
        assert list(found[query.query_id].items()) == kept[:2]


def test_a_searcher_that_reranks_by_itself_does_so():
    class Searcher:
        def rerank(self, queries, candidates, corpus, top_k):
            return {"told": {queries[0].query_id: float(top_k), **candidates["c"]}}

    class Encoder:
        def searcher(self, blocks, ids):
            assert blocks == ["a block"]
            return Searcher()

    reranker = VectorReranker(Encoder(), ["a block"], IDS)
    found = reranker.rerank([Query("q", "")], {"c": {"d": 2.0}}, None, 7)
    assert found == {"told": {"q": 7.0, "d": 2.0}}


def test_restrict_keeps_the_best_of_each_query():
    run = {"q": {"b": 1.0, "c": 2.0, "a": 1.0}, "few": {"x": 0.5}, "none": {}}
    assert listed(restrict(run, 2)) == {
        "q": [("c", 2.0), ("a", 1.0)],
        "few": [("x", 0.5)],
        "none": [],
    }
    assert run["q"] == {"b": 1.0, "c": 2.0, "a": 1.0}
    with pytest.raises(ValueError, match="depth"):
        restrict(run, 0)
