"""Hard negatives are never known answers, and hang on nothing but their pair."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.config import TrainConfig
from sptar.errors import DataError
from sptar.progress import RecordedProgress
from sptar.retrieval.lexical.bm25 import Bm25Index
from sptar.retrieval.ranking import ListedIds
from sptar.training import negatives as module
from sptar.training.negatives import (
    MinedNegatives,
    MiningTotals,
    load_negatives,
    mine_negatives,
    save_negatives,
)
from sptar.types import Document, Pair, Query
from tiny import DOCUMENTS, PAIRS


class Listed(ListedIds):
    """A corpus in memory."""

    def __init__(self, documents):
        super().__init__(documents)
        self.documents = list(documents)

    def __getitem__(self, position):
        return self.documents[position]

    def __iter__(self):
        return iter(self.documents)

    def get(self, doc_id):
        return self.documents[self.position(doc_id)]


class Ranked:
    """A searcher with rankings made by hand: query text → ids, best first, scores n … 1."""

    def __init__(self, rankings, scores=None):
        self.rankings = rankings
        self.scores = scores
        self.searches = []

    def search(self, queries, top_k):
        assert len({query.query_id for query in queries}) == len(queries)
        self.searches.append([query.query_id for query in queries])
        run = {}
        for query in queries:
            ids = [i for i in self.rankings[query.text] if i != query.query_id]
            scores = self.scores or range(len(ids), 0, -1)
            run[query.query_id] = {
                doc_id: float(score) for doc_id, score in zip(ids, scores, strict=False)
            }
            run[query.query_id] = dict(list(run[query.query_id].items())[:top_k])
        return run


def corpus_of(count, **texts):
    """d0, d1 … with texts of their own, except for those that are given."""
    return Listed([Document(f"d{i}", texts.get(f"d{i}", f"text number {i}")) for i in range(count)])


CORPUS = corpus_of(40)
QUERY = Query("q", "which number")


def pair_of(doc_id, query=QUERY, corpus=CORPUS):
    return Pair(query, corpus.get(doc_id))


def recipe(**settings):
    return TrainConfig(
        **{"negatives": "bm25", "negatives_per_pair": 2, "mine_margin": 0.0} | settings
    )


def mine(ranking, config, pair=None, corpus=CORPUS, scores=None, seed=1, known=None):
    pair = pair or pair_of("d0", corpus=corpus)
    searcher = Ranked({pair.query.text: ranking}, scores)
    (found,) = mine_negatives([pair], corpus, config, seed, searcher=searcher, known=known or {})
    return found


def test_only_what_stands_below_the_own_document_is_taken():
    found = mine(["d1", "d0", "d2", "d3"], recipe())
    assert sorted(found.doc_ids) == ["d2", "d3"]
    assert found == MinedNegatives(found.doc_ids, mined=2, known=1, above_margin=1)


def test_the_margin_is_a_share_of_the_own_documents_score():
    # 10 - 5 % is 9.5: a document at 9.5 is kept, one above is not.
    config = recipe(mine_margin=0.05)
    found = mine(["d0", "d1", "d2", "d3"], config, scores=[10.0, 9.51, 9.5, 9.4])
    assert sorted(found.doc_ids) == ["d2", "d3"]
    assert found.above_margin == 1


def test_the_margin_lies_below_a_negative_score_too():
    # -10 - 5 % of 10 is -10.5. (1 - 0.05) times -10 would be above the own document.
    config = recipe(mine_margin=0.05)
    found = mine(["d1", "d0", "d2", "d3", "d4"], config, scores=[-9.4, -10, -10.4, -10.5, -11])
    assert sorted(found.doc_ids) == ["d3", "d4"]
    assert found.above_margin == 2


def test_the_best_are_skipped_and_the_depth_is_kept():
    config = recipe(mine_skip=3, mine_depth=6)
    ranking = [f"d{i}" for i in (0, 1, 2, 3, 4, 5, 6, 7)]
    for seed in range(20):
        found = mine(ranking, config, seed=seed)
        assert set(found.doc_ids) <= {"d3", "d4", "d5"}
        assert (found.mined, found.known, found.skipped) == (2, 1, 2)


def test_documents_known_to_answer_are_never_taken():
    """Those of other pairs with the same query text, and those that the caller names."""
    ranking = ["d0", "d1", "d2", "d3", "d4", "d5"]
    again = Query("weak", "  which number ")
    found = mine_negatives(
        [pair_of("d0"), pair_of("d1", again)],
        CORPUS,
        recipe(negatives_per_pair=1),
        3,
        searcher=Ranked({"which number": ranking}),
        known={"which number": {"d2", "d3"}, "another": {"d4", "d5"}, " which number": {"gone"}},
    )
    assert all(set(item.doc_ids) <= {"d4", "d5"} for item in found)
    assert [item.known for item in found] == [4, 4]


def test_copies_of_an_answer_are_never_taken():
    corpus = corpus_of(8, d1="text number 0", d2="text number 7")
    ranking = ["d0", "d1", "d2", "d3", "d4"]
    for seed in range(20):
        found = mine(ranking, recipe(), corpus=corpus, seed=seed, known={QUERY.text: {"d7"}})
        assert sorted(found.doc_ids) == ["d3", "d4"]
        assert found.equal_text <= 2
    # As many as there are: each copy was met, and counted once.
    found = mine(ranking, recipe(negatives_per_pair=4), corpus=corpus, known={QUERY.text: {"d7"}})
    assert sorted(found.doc_ids) == ["d3", "d4", "d5", "d6"]
    assert (found.mined, found.equal_text) == (2, 2)


def test_an_own_document_that_is_not_found_scores_below_all_that_is():
    ranking = ["d1", "d2", "d3"]
    found = mine(ranking, recipe(negatives_per_pair=4))
    assert not set(found.doc_ids) & set(ranking)
    assert (found.mined, found.above_margin, found.own_unranked) == (0, 3, 1)


def test_a_ranking_that_gives_too_few_is_filled_from_the_corpus():
    found = mine(["d1", "d0", "d2"], recipe(negatives_per_pair=5))
    assert found.doc_ids[0] == "d2"
    assert (found.mined, len(set(found.doc_ids)), found.readmitted) == (1, 5, 0)
    assert not {"d0", "d1"} & set(found.doc_ids)


def test_what_was_left_out_as_too_good_comes_back_only_when_nothing_else_is_left():
    corpus = corpus_of(6)
    ranking = ["d1", "d2", "d0", "d3"]
    found = mine(ranking, recipe(negatives_per_pair=4), corpus=corpus)
    assert found.doc_ids[0] == "d3"
    assert set(found.doc_ids[1:3]) == {"d4", "d5"}
    assert found.doc_ids[3] in {"d1", "d2"}
    assert (found.mined, found.readmitted) == (1, 1)


def test_a_corpus_without_enough_other_documents_is_an_error():
    message = r"^Query q and its document d0 need 3 negatives, and the corpus has only 2 documents"
    for config in (recipe(negatives_per_pair=3), recipe(negatives="random", negatives_per_pair=3)):
        with pytest.raises(DataError, match=message):
            mine(["d0", "d1"], config, corpus=corpus_of(4, d3="text number 0"))


def test_random_negatives_need_no_searcher_and_come_from_everywhere():
    config = recipe(negatives="random", negatives_per_pair=4)
    seen = Counter()
    for number in range(400):
        pair = pair_of("d0", Query(f"q{number}", f"query {number}"))
        (found,) = mine_negatives([pair], CORPUS, config, 5, searcher=None)
        assert (len(set(found.doc_ids)), found.mined, found.own_unranked) == (4, 0, 0)
        seen.update(found.doc_ids)
    # 1600 draws over 39 documents: 41 each, and six standard deviations (of 6.1) around it.
    assert set(seen) == {f"d{i}" for i in range(1, 40)}
    assert all(5 <= count <= 78 for count in seen.values())


def test_mined_negatives_are_drawn_not_taken_from_the_top():
    ranking = [f"d{i}" for i in range(21)]
    seen = Counter()
    for number in range(400):
        query = Query(f"q{number}", f"query {number}")
        found = mine(ranking, recipe(), pair=pair_of("d0", query))
        seen.update(found.doc_ids)
    # 800 draws over 20 documents: 40 each, standard deviation 6.
    assert set(seen) == set(ranking[1:])
    assert all(4 <= count <= 76 for count in seen.values())


def test_the_seed_the_query_and_the_document_name_the_draw():
    ranking = [f"d{i}" for i in range(30)]
    draws = {
        mine(ranking, recipe(negatives_per_pair=5), pair=pair, seed=seed).doc_ids
        for pair in (pair_of("d0"), pair_of("d0", Query("q", "other words")))
        for seed in (1, 2)
    }
    assert len(draws) == 4
    pairs = [pair_of("d0"), pair_of("d1")]
    first, second = mine_negatives(
        pairs, CORPUS, recipe(negatives_per_pair=5), 1, searcher=Ranked({QUERY.text: ranking})
    )
    assert first.doc_ids != second.doc_ids


def test_a_document_with_the_id_of_the_query_is_no_negative():
    query = Query("d3", "which number")
    config = recipe(negatives="random", negatives_per_pair=38)
    (found,) = mine_negatives([pair_of("d0", query)], CORPUS, config, 1, searcher=None)
    assert set(found.doc_ids) == {f"d{i}" for i in range(40)} - {"d0", "d3"}


def test_queries_with_one_id_and_two_texts_are_searched_apart():
    pairs = [pair_of("d0", Query("q", "one")), pair_of("d1", Query("q", "two"))]
    searcher = Ranked({"one": ["d0", "d5"], "two": ["d1", "d6"]})
    found = mine_negatives(pairs, CORPUS, recipe(negatives_per_pair=1), 1, searcher=searcher)
    assert [item.doc_ids for item in found] == [("d5",), ("d6",)]


def test_a_query_of_several_pairs_is_searched_once(monkeypatch):
    monkeypatch.setattr(module, "_QUERIES_AT_ONCE", 2)
    queries = [Query(f"q{i}", f"text {i}") for i in range(5)]
    pairs = [pair_of(f"d{j}", query) for j in range(3) for query in queries]
    searcher = Ranked({query.text: [f"d{i}" for i in range(20)] for query in queries})
    progress = RecordedProgress()
    mine_negatives(pairs, CORPUS, recipe(), 1, searcher=searcher, progress=progress)
    assert searcher.searches == [["q0", "q1"], ["q2", "q3"], ["q4"]]
    assert (progress.advanced, progress.finished) == (15, 1)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_answer_is_ever_returned_and_the_order_of_the_pairs_changes_nothing(data):
    texts = st.sampled_from(["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"])
    corpus = Listed([Document(f"d{i}", data.draw(texts)) for i in range(25)])
    all_ids = [document.doc_id for document in corpus]
    asked = ["one", "two", "three"]
    numbers = st.integers(0, 24)
    pairs = [
        pair_of(f"d{data.draw(numbers)}", Query(f"q{data.draw(numbers)}", text), corpus)
        for text in data.draw(st.lists(st.sampled_from(asked), min_size=1, max_size=6))
    ]
    known = {text: set(data.draw(st.lists(st.sampled_from(all_ids), max_size=3))) for text in asked}
    rankings = {text: data.draw(st.permutations(all_ids))[:15] for text in asked}
    config = recipe(
        negatives=data.draw(st.sampled_from(["bm25", "random"])),
        mine_depth=data.draw(st.integers(5, 15)),
        mine_skip=data.draw(st.integers(0, 4)),
        mine_margin=data.draw(st.sampled_from([0.0, 0.3])),
    )

    def mined(order):
        return mine_negatives(order, corpus, config, 7, searcher=Ranked(rankings), known=known)

    try:
        found = mined(pairs)
    except DataError:
        # The texts of the answers then really leave fewer than two documents for some pair.
        assert any(len(_others(pair, pairs, known, corpus)) < 2 for pair in pairs)
        return
    for pair, item in zip(pairs, found, strict=True):
        assert len(set(item.doc_ids)) == 2
        assert set(item.doc_ids) <= _others(pair, pairs, known, corpus)
        assert set(item.doc_ids[: item.mined]) <= set(rankings[pair.query.text])
    places = data.draw(st.permutations(range(len(pairs))))
    again = mined([pairs[place] for place in places])
    assert again == [found[place] for place in places]


def _others(pair, pairs, known, corpus):
    """The slow way: ids of the documents that may be this pair's negatives."""
    answers = known[pair.query.text] | {
        other.document.doc_id for other in pairs if other.query.text == pair.query.text
    }
    texts = {corpus.get(doc_id).text for doc_id in answers}
    return {
        document.doc_id
        for document in corpus
        if document.text not in texts and document.doc_id != pair.query.query_id
    }


def test_bm25_gives_documents_that_share_words_with_the_query():
    """On a real index, whatever the searches are cut into."""
    corpus = Listed(DOCUMENTS)
    index = Bm25Index.build(corpus)
    config = recipe(negatives_per_pair=1, mine_margin=0.05)
    found = mine_negatives(PAIRS, corpus, config, 1, searcher=index)
    for pair, item in zip(PAIRS, found, strict=True):
        ranking = index.search([pair.query], 100)[pair.query.query_id]
        bound = 0.95 * ranking[pair.document.doc_id]
        below = {doc_id for doc_id, score in ranking.items() if score <= bound}
        assert item.mined == min(1, len(below))
        assert set(item.doc_ids) <= (below or {document.doc_id for document in corpus})
        assert pair.document.doc_id not in item.doc_ids
        (alone,) = mine_negatives([pair], corpus, config, 1, searcher=index)
        assert alone == item
    assert 0 < sum(item.mined for item in found) < len(PAIRS)


def test_a_recipe_without_negatives_or_a_source_without_searcher_is_a_mistake():
    with pytest.raises(ValueError, match="no hard negatives"):
        mine_negatives([], CORPUS, TrainConfig(), 1, searcher=None)
    with pytest.raises(ValueError, match="need a searcher"):
        mine_negatives([], CORPUS, recipe(), 1, searcher=None)


def test_totals_are_sums():
    totals = MiningTotals.of(
        [
            MinedNegatives(("a", "b"), mined=2, known=1, above_margin=4),
            MinedNegatives(("c", "d"), mined=1, skipped=2, own_unranked=1, readmitted=1),
        ]
    )
    assert totals == MiningTotals(
        pairs=2,
        mined=3,
        random=1,
        known=1,
        skipped=2,
        above_margin=4,
        equal_text=0,
        own_unranked=1,
        readmitted=1,
    )


def test_they_are_saved_one_row_for_each_pair(tmp_path):
    path = tmp_path / "negatives.jsonl"
    pairs = [pair_of("d0"), pair_of("d1", Query("é", "…"))]
    found = [
        MinedNegatives(("d2", "d3"), mined=1, known=2),
        MinedNegatives(("d4", "d5"), above_margin=3),
    ]
    save_negatives(path, pairs, found)
    assert load_negatives(path) == found
    assert load_negatives(path, pairs) == found
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(row["query_id"], row["doc_id"], row["negatives"]) for row in rows] == [
        ("q", "d0", ["d2", "d3"]),
        ("é", "d1", ["d4", "d5"]),
    ]
    assert rows[0]["mined"] == 1
    with pytest.raises(DataError, match=r"negatives\.jsonl:1: these negatives belong to another"):
        load_negatives(path, pairs[::-1])
    with pytest.raises(DataError, match="negatives of 2 pairs, and 3 pairs"):
        load_negatives(path, [*pairs, pairs[0]])
    with pytest.raises(DataError, match=r"negatives\.jsonl:2: these negatives belong to another"):
        load_negatives(path, pairs[:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negatives": "d1"}, "no list of document ids"),
        ({"negatives": ["d1", 2]}, "no list of document ids"),
        ({"mined": None}, "'mined' is no whole number"),
        ({"known": True}, "'known' is no whole number"),
    ],
)
def test_a_broken_row_is_named(tmp_path, change, message):
    path = tmp_path / "negatives.jsonl"
    save_negatives(path, [pair_of("d0")], [MinedNegatives(("d1",))])
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=rf"negatives\.jsonl:1: .*{message}"):
        load_negatives(path)
