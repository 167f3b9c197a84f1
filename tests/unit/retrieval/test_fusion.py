"""Fusion of runs: by hand, against the formulas written out, and what must not matter."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptar.errors import DataError
from sptar.retrieval.fusion import reciprocal_rank_fusion, score_fusion
from sptar.trec import read_run, write_run

KINDS = (reciprocal_rank_fusion, score_fusion)

rankings = st.dictionaries(
    st.sampled_from([f"d{number}" for number in range(8)]), st.integers(-5, 5).map(float)
)
runs = st.dictionaries(st.sampled_from(["q1", "q2", "d3"]), rankings, max_size=3)
several = st.lists(runs, min_size=1, max_size=4)


def turned_around(run):
    """The same run with every dictionary filled in the opposite order."""
    return {
        query_id: dict(reversed(list(scores.items())))
        for query_id, scores in reversed(list(run.items()))
    }


def in_order(run):
    """Rankings as lists: what the order of a result's entries says counts too."""
    return {query_id: list(scores.items()) for query_id, scores in run.items()}


def rrf_by_fractions(given_runs, k, weights):
    """The formula with exact fractions, ranks found by counting."""
    fused = {}
    for query_id in {query_id for run in given_runs for query_id in run}:
        sums = {}
        for weight, run in zip(weights, given_runs, strict=True):
            scores = {d: s for d, s in run.get(query_id, {}).items() if d != query_id}
            for doc_id, score in scores.items():
                better = sum(
                    other > score or (other == score and other_id < doc_id)
                    for other_id, other in scores.items()
                )
                sums[doc_id] = sums.get(doc_id, 0) + Fraction(weight) / (k + 1 + better)
        fused[query_id] = sums
    return fused


def test_reciprocal_ranks_by_hand():
    """Three runs with a tie, a missing document and a missing query."""
    first = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    second = {"q": {"c": 5.0, "b": 5.0}}
    third = {"q": {"d": 0.1}, "r": {"a": 1.0}}
    found = reciprocal_rank_fusion([first, second, third], 10, k=1)
    # b and c tie in the second run: b stands first there.
    assert found["q"] == pytest.approx(
        {"b": 1 / 3 + 1 / 2, "c": 1 / 4 + 1 / 3, "a": 1 / 2, "d": 1 / 2}
    )
    assert list(found["q"]) == ["b", "c", "a", "d"]
    assert found["r"] == {"a": 0.5}


def test_scores_by_hand():
    first = {"q": {"a": 10.0, "b": 5.0, "c": 0.0}}
    second = {"q": {"b": -1.0, "d": -3.0}}
    found = score_fusion([first, second], 10, weights=[0.25, 0.75])
    assert found == {"q": {"b": 0.25 * 0.5 + 0.75, "a": 0.25, "c": 0.0, "d": 0.0}}
    assert list(found["q"]) == ["b", "a", "c", "d"]


def test_equal_scores_and_a_single_document_count_as_one():
    assert score_fusion([{"q": {"a": 7.0}}, {"q": {"b": 2.0, "c": 2.0}}], 10) == {
        "q": {"a": 0.5, "b": 0.5, "c": 0.5}
    }


@pytest.mark.parametrize("fuse", KINDS)
def test_a_document_that_is_the_query_is_left_out_before_ranks_are_counted(fuse):
    with_itself = {"d1": {"d1": 9.0, "d2": 2.0, "d3": 1.0}}
    without = {"d1": {"d2": 2.0, "d3": 1.0}}
    other = {"d1": {"d3": 4.0, "d4": 3.0}}
    assert fuse([with_itself, other], 10) == fuse([without, other], 10)
    kept = fuse([with_itself, other], 10, separate_ids=True)
    renamed = fuse([{"q": run["d1"]} for run in (with_itself, other)], 10)
    assert kept["d1"] == renamed["q"]


@pytest.mark.parametrize("fuse", KINDS)
def test_ties_are_broken_by_id_at_the_cut_off_too(fuse):
    first, second = {"q": {"b": 2.0, "a": 1.0}}, {"q": {"a": 2.0, "b": 1.0}}
    assert list(fuse([first, second], 10)["q"]) == ["a", "b"]
    assert list(fuse([first, second], 1)["q"]) == ["a"]


@pytest.mark.parametrize("fuse", KINDS)
def test_queries_of_one_run_only_are_kept(fuse):
    found = fuse([{"q": {"a": 1.0}, "nothing": {}}, {"r": {"b": 1.0}}], 10)
    assert {query_id: list(scores) for query_id, scores in found.items()} == {
        "q": ["a"],
        "nothing": [],
        "r": ["b"],
    }


def test_a_weight_of_zero_leaves_the_other_run_in_charge():
    first, second = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"c": 2.0, "b": 1.0}}
    for fuse in KINDS:
        assert next(iter(fuse([first, second], 10, weights=[1.0, 0.0])["q"])) == "a"
        assert next(iter(fuse([first, second], 10, weights=[0.0, 1.0])["q"])) == "c"


@pytest.mark.parametrize("fuse", KINDS)
def test_what_makes_no_sense_is_refused(fuse):
    run = {"q": {"a": 1.0}}
    for runs, top_k, weights in (
        ([], 10, None),
        ([run], 0, None),
        ([run, run], 10, [1.0]),
        ([run, run], 10, [1.0, -1.0]),
        ([run, run], 10, [1.0, math.nan]),
    ):
        with pytest.raises(ValueError):
            fuse(runs, top_k, weights=weights)
    with pytest.raises(ValueError):
        reciprocal_rank_fusion([run], 10, k=-1)
    for bad in (math.nan, math.inf):
        with pytest.raises(DataError, match="document a for query q"):
            fuse([{"q": {"a": bad}}], 10)


@given(several, st.integers(0, 80), st.data())
def test_reciprocal_ranks_are_the_formula(given_runs, k, data):
    weights = data.draw(
        st.lists(st.integers(0, 3), min_size=len(given_runs), max_size=len(given_runs))
    )
    found = reciprocal_rank_fusion(given_runs, 100, k=k, weights=weights)
    expected = rrf_by_fractions(given_runs, k, weights)
    assert found.keys() == expected.keys()
    for query_id, sums in expected.items():
        assert found[query_id] == pytest.approx({d: float(s) for d, s in sums.items()}, rel=1e-12)


@pytest.mark.parametrize("fuse", KINDS)
@given(given_runs=several, top_k=st.integers(1, 9))
def test_the_order_of_entries_and_of_runs_does_not_matter(fuse, given_runs, top_k):
    expected = in_order(fuse(given_runs, top_k))
    assert in_order(fuse([turned_around(run) for run in given_runs], top_k)) == expected
    assert in_order(fuse(given_runs[::-1], top_k)) == expected


@pytest.mark.parametrize("fuse", KINDS)
@given(run=runs, copies=st.integers(1, 4))
def test_a_run_fused_with_itself_keeps_its_order(fuse, run, copies):
    for query_id, scores in fuse([run] * copies, 100).items():
        own = [doc_id for doc_id in run[query_id] if doc_id != query_id]
        assert list(scores) == sorted(own, key=lambda doc_id: (-run[query_id][doc_id], doc_id))


@pytest.mark.parametrize("fuse", KINDS)
@given(given_runs=several, top_k=st.integers(1, 9))
def test_a_cut_is_the_beginning_of_the_whole(fuse, given_runs, top_k):
    whole = in_order(fuse(given_runs, 100))
    cut = in_order(fuse(given_runs, top_k))
    assert cut == {query_id: scores[:top_k] for query_id, scores in whole.items()}


@given(first=rankings, second=rankings, data=st.data())
def test_a_document_that_rises_in_one_run_does_not_fall(first, second, data):
    """By ranks: what it passes falls, what it does not pass stays."""
    if not first:
        return
    doc_id = data.draw(st.sampled_from(sorted(first)))
    raised = {**first, doc_id: first[doc_id] + data.draw(st.integers(1, 5))}
    place = [
        list(reciprocal_rank_fusion([{"q": one}, {"q": second}], 100)["q"]).index(doc_id)
        for one in (first, raised)
    ]
    assert place[1] <= place[0]


def test_what_tied_ties_after_it_was_written_and_read(tmp_path):
    """A TREC run tells ties apart by the smallest step there is: that step must not count."""
    runs = [
        {"q": {"a": 12.5, "b": 12.5, "c": 12.5}, "r": {"a": 0.0, "b": 0.0}},
        {"q": {"c": 0.9, "d": 0.5}, "r": {"b": -3.0, "c": -4.0}},
    ]
    read = []
    for number, run in enumerate(runs):
        write_run(tmp_path / f"{number}.trec", run, "tag")
        read.append(read_run(tmp_path / f"{number}.trec"))
    assert read != runs
    assert score_fusion(read, 10) == score_fusion(runs, 10)
