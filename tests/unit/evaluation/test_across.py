"""Runs of several seeds and collections: means by query, spread, refusals."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sptar.errors import DataError
from sptar.evaluation.across import SeededRun, join_runs, mean_over_seeds
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.family import compare_systems
from sptar.evaluation.measures import parse_measures


def scores_of(values: dict[str, float], measure: str = "nDCG@10", level: int = 1) -> Scores:
    ids = tuple(sorted(values))
    return Scores(parse_measures([measure]), ids, (tuple(values[q] for q in ids),), level)


def drawn(seed: int, shift: float = 0.0, queries: int = 20) -> Scores:
    generator = np.random.default_rng(seed)
    values = generator.uniform(0.2, 0.7, queries) + shift
    return scores_of({f"q{number:02d}": float(value) for number, value in enumerate(values)})


def run_of(
    systems: dict[str, Scores],
    *,
    name: str = "run",
    collection: str = "aaaaaaaa",
    title: str = "toy",
    source: str | None = None,
    judgements: str = "the split 'test'",
    seed: int = 1,
    settings: dict[str, str] | None = None,
) -> SeededRun:
    place = source or f"data/{title}"
    return SeededRun(name, collection, title, place, judgements, seed, systems, settings or {})


def pair(seed: int, retriever: str = "dpr", shift: float = 0.05) -> dict[str, Scores]:
    return {
        "bm25": drawn(0),
        f"zero_shot/{retriever}": drawn(100 + seed),
        f"sptar/{retriever}": drawn(200 + seed, shift),
    }


# --- means over seeds ---------------------------------------------------------------------------


def test_means_by_hand() -> None:
    means = mean_over_seeds(
        {
            1: {"bm25": scores_of({"a": 0.0, "b": 1.0}), "sptar": scores_of({"a": 0.2, "b": 0.4})},
            2: {"bm25": scores_of({"a": 0.0, "b": 1.0}), "sptar": scores_of({"a": 0.4, "b": 0.8})},
        }
    )
    assert means.scores["sptar"].per_query("nDCG@10") == pytest.approx({"a": 0.3, "b": 0.6})
    assert means.scores["bm25"].per_query("nDCG@10") == {"a": 0.0, "b": 1.0}
    # Means of the seeds: 0.3 and 0.6; their standard deviation with n - 1 is 0.3 / √2.
    assert means.spread["sptar"] == (pytest.approx(0.3 / math.sqrt(2)),)
    assert means.spread["bm25"] == (0.0,)
    assert means.notes == ()


def test_one_seed_changes_nothing() -> None:
    scores = drawn(3)
    means = mean_over_seeds({7: {"sptar": scores}})
    assert means.scores["sptar"].values == scores.values
    assert means.spread["sptar"] == (None,)


def test_test_sets_that_differ_between_seeds() -> None:
    """b is a test query with both seeds, a and c with one each: they count with that one."""
    means = mean_over_seeds(
        {
            1: {"sptar": scores_of({"a": 0.1, "b": 0.3}), "bm25": scores_of({"a": 0.0, "b": 0.0})},
            2: {"sptar": scores_of({"b": 0.5, "c": 0.7}), "bm25": scores_of({"b": 0.2, "c": 0.0})},
        }
    )
    assert means.scores["sptar"].per_query("nDCG@10") == pytest.approx(
        {"a": 0.1, "b": 0.4, "c": 0.7}
    )
    assert means.scores["bm25"].per_query("nDCG@10") == pytest.approx({"a": 0.0, "b": 0.1, "c": 0})
    assert means.spread["sptar"] == (pytest.approx(statistics.stdev([0.2, 0.6])),)
    (note,) = means.notes
    assert "1 of 3 were test queries with all 2 seeds" in note


def test_queries_that_a_system_lacks_are_left_out_and_counted() -> None:
    means = mean_over_seeds(
        {
            1: {
                "bm25": scores_of({"a": 0.0, "b": 0.0, "c": 0.0}),
                "sptar": scores_of({"a": 0.1, "b": 0.3}),
            }
        }
    )
    assert means.scores["bm25"].query_ids == ("a", "b")
    assert means.notes == (
        "Seed 1: 1 queries left out, because not every system was scored on them.",
    )
    with pytest.raises(DataError, match="With seed 1 the systems have no test query in common"):
        mean_over_seeds({1: {"bm25": scores_of({"a": 0.0}), "sptar": scores_of({"b": 0.0})}})


def test_systems_that_a_seed_lacks_are_left_out_and_named() -> None:
    means = mean_over_seeds(
        {1: {"bm25": drawn(0), "sptar": drawn(1), "inpars": drawn(2)}, 2: {"bm25": drawn(0)}}
    )
    assert list(means.scores) == ["bm25"]
    assert means.notes == ("Left out, because not every seed has them (2): sptar, inpars.",)
    with pytest.raises(DataError, match=r"No system was scored with every seed \(1, 2\)"):
        mean_over_seeds({1: {"bm25": drawn(0)}, 2: {"sptar": drawn(0)}})


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 5),
        st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    )
)
def test_means_are_those_of_a_slow_loop(by_seed: dict[int, dict[str, float]]) -> None:
    means = mean_over_seeds({seed: {"x": scores_of(row)} for seed, row in by_seed.items()})
    expected = {}
    for query_id in sorted({query_id for row in by_seed.values() for query_id in row}):
        found = [row[query_id] for row in by_seed.values() if query_id in row]
        expected[query_id] = sum(found) / len(found)
    assert means.scores["x"].per_query("nDCG@10") == pytest.approx(expected)


# --- joined runs --------------------------------------------------------------------------------


def test_the_test_is_on_the_means_of_the_queries() -> None:
    runs = [run_of(pair(seed), name=f"run-{seed}", seed=seed) for seed in (1, 2, 3)]
    joint = join_runs(runs, bootstrap_samples=100)
    (found,) = joint.collections
    assert found.seeds == (1, 2, 3)
    assert found.runs == ("run-1", "run-2", "run-3")
    assert list(found.scores) == ["bm25", "zero_shot", "sptar"], "one retriever needs no name"
    sptar, other = (
        np.mean([pair(seed)[name].row("nDCG@10") for seed in (1, 2, 3)], axis=0)
        for name in ("sptar/dpr", "zero_shot/dpr")
    )
    (comparison,) = found.family.comparisons
    item = comparison.find("zero_shot", "nDCG@10")
    assert item.p_value == pytest.approx(stats.ttest_rel(sptar, other).pvalue)
    assert item.queries == 20, "tests go over queries, not over queries times seeds"
    assert item.difference == pytest.approx(float((sptar - other).mean()))


def test_one_run_alone_is_its_own_comparison() -> None:
    systems = pair(1) | {"sptar/colbert": drawn(9)}
    joint = join_runs([run_of(systems)], bootstrap_samples=100, seed=4)
    assert joint.collections[0].family == compare_systems(systems, bootstrap_samples=100, seed=4)


def test_runs_with_one_retriever_each_become_blocks() -> None:
    runs = [
        run_of(pair(1, "dpr"), name="a"),
        run_of(pair(2, "colbert"), name="b"),
    ]
    (found,) = join_runs(runs, bootstrap_samples=100).collections
    assert [item.target for item in found.family.comparisons] == ["sptar/dpr", "sptar/colbert"]
    assert found.family.size == 4
    assert found.seeds == (1,)
    assert found.runs == ("a", "b")


def test_collections_are_families_of_their_own() -> None:
    runs = [
        run_of(pair(1), name="a", title="first"),
        run_of(pair(2, shift=0.1), name="b", title="second", collection="bbbbbbbb"),
        run_of(pair(3), name="c", title="first", seed=2),
    ]
    joint = join_runs(runs, bootstrap_samples=100)
    assert [item.title for item in joint.collections] == ["first", "second"]
    assert [item.runs for item in joint.collections] == [("a", "c"), ("b",)]
    assert [item.family.size for item in joint.collections] == [2, 2]
    means = [item.scores["sptar"].mean("nDCG@10") for item in joint.collections]
    assert joint.average("sptar", "nDCG@10") == pytest.approx(sum(means) / 2)
    assert joint.systems == ("bm25", "zero_shot", "sptar")


def test_a_system_that_a_collection_lacks_has_no_average() -> None:
    runs = [
        run_of(pair(1) | {"inpars/dpr": drawn(5)}, name="a"),
        run_of(pair(2), name="b", title="other", collection="bbbbbbbb"),
    ]
    joint = join_runs(runs, bootstrap_samples=100)
    assert joint.average("inpars", "nDCG@10") is None
    assert joint.average("bm25", "nDCG@10") is not None


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(4)))
def test_the_order_of_the_runs_changes_no_value(order: list[int]) -> None:
    runs = [
        run_of(pair(seed, retriever), name=f"{seed}{retriever}", seed=seed)
        for seed in (1, 2)
        for retriever in ("dpr", "colbert")
    ]
    first = join_runs(runs, bootstrap_samples=100).collections[0]
    second = join_runs([runs[place] for place in order], bootstrap_samples=100).collections[0]
    assert dict(first.scores) == dict(second.scores)
    assert dict(first.spread) == dict(second.spread)
    for retriever in ("dpr", "colbert"):
        one, two = first.family.of(retriever), second.family.of(retriever)
        assert one is not None
        assert two is not None
        for item in one.differences:
            assert two.find(item.other, item.measure) == item


def test_measures_in_another_order_are_the_same_measures() -> None:
    ids = ("a", "b", "c")
    one = Scores(parse_measures(["nDCG@10", "RR@10"]), ids, ((0.1, 0.2, 0.4), (0.9, 0.8, 0.7)))
    two = Scores(parse_measures(["RR@10", "nDCG@10"]), ids, ((0.9, 0.8, 0.7), (0.1, 0.2, 0.4)))
    joint = join_runs([run_of({"x/dpr": one}), run_of({"x/dpr": two}, seed=2)])
    assert joint.collections[0].scores["x"].values == one.values
    assert joint.collections[0].spread["x"] == (0.0, 0.0)


# --- refusals -----------------------------------------------------------------------------------


def test_other_measures_are_refused() -> None:
    other = {"sptar/dpr": scores_of({"a": 0.1}, "RR@10")}
    with pytest.raises(DataError, match=r"'a' and 'b' .* measures: nDCG@10 against RR@10"):
        join_runs([run_of(pair(1), name="a"), run_of(other, name="b", seed=2)])
    level = {"sptar/dpr": scores_of({"a": 0.1}, level=2)}
    with pytest.raises(DataError, match="relevance levels: 1 against 2"):
        join_runs([run_of(pair(1), name="a"), run_of(level, name="b", seed=2)])


def test_other_judgements_are_refused() -> None:
    runs = [
        run_of(pair(1), name="a"),
        run_of(pair(2), name="b", seed=2, judgements="the split 'dev'"),
    ]
    with pytest.raises(DataError, match=r"different qrels of 'toy': the split 'test' against"):
        join_runs(runs)
    changed = [
        run_of(pair(1), name="a"),
        run_of(pair(2), name="b", seed=2, collection="bbbbbbbb"),
    ]
    with pytest.raises(DataError, match="different versions of the collection 'toy'"):
        join_runs(changed)


def test_collections_of_one_name_are_told_apart() -> None:
    runs = [
        run_of(pair(1), source="here/toy"),
        run_of(pair(2), source="there/toy", collection="bbbbbbbbbb"),
    ]
    titles = [item.title for item in join_runs(runs, bootstrap_samples=100).collections]
    assert titles == ["toy (aaaaaa)", "toy (bbbbbb)"]


def test_two_scores_of_one_system_are_refused() -> None:
    with pytest.raises(DataError, match=r"'a' and 'b' both hold 'sptar' with seed 1 on 'toy'"):
        join_runs([run_of(pair(1), name="a"), run_of(pair(1, shift=0.2), name="b")])
    same = join_runs([run_of(pair(1), name="a"), run_of(pair(1), name="b")], bootstrap_samples=100)
    assert same.collections[0].seeds == (1,)


def test_runs_that_differ_in_more_than_the_seed_are_averaged_only_when_asked() -> None:
    runs = [
        run_of(pair(1), name="a", settings={"split.train_queries": "10", "llm.name": "x"}),
        run_of(
            pair(2),
            name="b",
            seed=2,
            settings={"split.train_queries": "50", "llm.name": "x", "only.here": "1"},
        ),
        run_of(pair(3), name="c", seed=3, settings={"split.train_queries": "50"}),
    ]
    with pytest.raises(
        DataError,
        match=r"differ in settings other than the seed \(1\): split\.train_queries is 10 in a, "
        r"50 in b, c\. Compare runs of the same settings, or add --mixed",
    ):
        join_runs(runs, bootstrap_samples=100)
    # Alone, and with one that has the same settings, each may be compared.
    assert join_runs(runs[:1], bootstrap_samples=100).collections[0].notes == ()
    assert join_runs(runs[1:], bootstrap_samples=100).collections[0].seeds == (2, 3)
    (found,) = join_runs(runs, bootstrap_samples=100, mixed=True).collections
    assert found.notes == (
        "These runs differ in settings other than the seed (1): split.train_queries.",
    )


def test_what_differs_between_collections_is_no_difference() -> None:
    runs = [
        run_of(pair(1), settings={"split.train_queries": "10"}),
        run_of(pair(2), source="other", collection="b", settings={"split.train_queries": "50"}),
    ]
    assert len(join_runs(runs, bootstrap_samples=100).collections) == 2


def test_nothing_to_compare() -> None:
    with pytest.raises(DataError, match="no run to compare"):
        join_runs([])
    with pytest.raises(DataError, match="no scores of 'nobody'"):
        join_runs([run_of(pair(1))], target="nobody")
