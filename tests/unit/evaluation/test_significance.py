"""Tests, intervals and corrections against hand numbers, scipy and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sptar.errors import DataError
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.measures import parse_measures
from sptar.evaluation.significance import (
    bootstrap_intervals,
    choose_target,
    compare,
    detectable_difference,
    holm,
    paired_test,
)
from sptar.evaluation.verdict import headline, sentence, verdict

MEASURES = ("nDCG@10", "RR@10")


def _scores(*rows: list[float], names: tuple[str, ...] = MEASURES, level: int = 1) -> Scores:
    return Scores(
        measures=parse_measures(names[: len(rows)]),
        query_ids=tuple(f"q{number:04d}" for number in range(len(rows[0]))),
        values=tuple(tuple(map(float, row)) for row in rows),
        relevance_level=level,
    )


def _systems(seed: int, count: int = 4, queries: int = 30) -> dict[str, Scores]:
    generator = np.random.default_rng(seed)
    names = ["bm25", "zero_shot", "inpars", "sptar", "mine"][:count]
    return {
        name: _scores(
            *np.clip(generator.normal(0.4 + 0.05 * position, 0.2, (2, queries)), 0, 1).tolist()
        )
        for position, name in enumerate(names)
    }


# --- Holm ---------------------------------------------------------------------------------------


def _slow_holm(p_values: list[float]) -> list[float]:
    """The definition: adjusted p of rank i = max over j ≤ i of min(1, (m - j) p_(j))."""
    ordered = sorted(p_values)
    count = len(ordered)
    adjusted = [max(min(1.0, (count - j) * ordered[j]) for j in range(i + 1)) for i in range(count)]
    return [adjusted[ordered.index(p)] for p in p_values]


def test_holm_by_hand() -> None:
    """Sorted: .005·4 = .02, .01·3 = .03, .03·2 = .06, .04·1 = .04 → .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_properties(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert corrected == pytest.approx(_slow_holm(p_values))
    for raw, after in zip(p_values, corrected, strict=True):
        assert raw <= after <= min(1.0, raw * len(p_values)) + 1e-15
    for (p1, c1), (p2, c2) in itertools.combinations(zip(p_values, corrected, strict=True), 2):
        if p1 < p2:
            assert c1 <= c2
        if p1 == p2:
            assert c1 == pytest.approx(c2)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_rejects(p_values: list[float], alpha: float) -> None:
    """Step down by hand: stop at the first p above alpha / (hypotheses left)."""
    rejected = set()
    for step, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if (len(p_values) - step) * p_values[position] > alpha:
            break
        rejected.add(position)
    assert {i for i, p in enumerate(holm(p_values)) if p <= alpha} == rejected


# --- t-test -------------------------------------------------------------------------------------


def test_paired_test_by_hand() -> None:
    """1, 2, 3: mean 2, sd 1, t = 2·√3 = 3.4641, 2 degrees of freedom: p = 0.0742."""
    two_sided, one_sided = paired_test(np.array([1.0, 2.0, 3.0]))
    assert two_sided == pytest.approx(0.07418, abs=1e-5)
    assert one_sided == pytest.approx(0.03709, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_paired_test_is_scipys(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.uniform(0, 1, (2, 25))
    two_sided, one_sided = paired_test(a - b)
    assert two_sided == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert one_sided == pytest.approx(stats.ttest_rel(a, b, alternative="greater").pvalue)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("value", [0.25, -0.25])
def test_equal_differences_by_flipping_every_sign(count: int, value: float) -> None:
    """All 2^n sign patterns, counted: the exact test that the degenerate case falls back on."""
    sums = [sum(signs) * value for signs in itertools.product([1, -1], repeat=count)]
    observed = count * value
    expected_two = sum(abs(total) >= abs(observed) for total in sums) / len(sums)
    expected_one = sum(total >= observed for total in sums) / len(sums)
    assert paired_test(np.full(count, value)) == (expected_two, expected_one)


def test_rounding_is_no_variance() -> None:
    """0.3 - 0.2 and 0.4 - 0.3 differ in their last digits only."""
    differences = np.array([0.3, 0.4, 0.9]) - np.array([0.2, 0.3, 0.8])
    assert len(set(differences)) > 1
    assert paired_test(differences) == (0.25, 0.125)
    assert detectable_difference(differences, 0.05) is None
    assert paired_test(np.array([1e-17, 0.0, -1e-17])) == (1.0, 1.0)


def test_detectable_difference_is_found_with_80_percent_power() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.2, 40)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * 0.2
    size = detectable_difference(noise, 0.05)
    assert size is not None
    draws = generator.normal(size, 0.2, (4000, 40))
    p_values = stats.ttest_1samp(draws, 0.0, axis=1).pvalue
    assert (p_values <= 0.05).mean() == pytest.approx(0.80, abs=0.025)
    assert detectable_difference(noise, 0.01) > size  # type: ignore[operator]
    assert detectable_difference(np.array([0.1]), 0.05) is None


# --- bootstrap ----------------------------------------------------------------------------------


def test_bootstrap_against_a_plain_loop() -> None:
    generator = np.random.default_rng(5)
    column = generator.normal(0.05, 0.2, 50)
    ((low, high),) = bootstrap_intervals([column], 4000, seed=1)
    lot = np.random.default_rng(99)
    means = [lot.choice(column, size=50).mean() for _ in range(4000)]
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.006)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.006)


def test_bootstrap_does_not_depend_on_its_neighbours() -> None:
    generator = np.random.default_rng(5)
    a, b, c = generator.normal(0, 0.2, (3, 37))
    together = bootstrap_intervals([a, b, c], 300, seed=4)
    assert bootstrap_intervals([c, a], 300, seed=4) == [together[2], together[0]]
    assert bootstrap_intervals([a], 300, seed=5) != [together[0]]
    assert bootstrap_intervals([], 300, seed=4) == []


def test_bootstrap_of_many_queries_goes_in_parts() -> None:
    """More draws than one part holds: still every sample is filled."""
    column = np.full(30_001, 0.25)
    assert bootstrap_intervals([column], 150, seed=0) == [pytest.approx((0.25, 0.25))]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=40),
    st.integers(0, 1000),
)
def test_interval_contains_the_mean(values: list[float], seed: int) -> None:
    column = np.array(values)
    ((low, high),) = bootstrap_intervals([column], 400, seed)
    assert low - 1e-12 <= column.mean() <= high + 1e-12


# --- compare ------------------------------------------------------------------------------------


def test_compare_by_hand() -> None:
    systems = {
        "bm25": _scores([0.0, 0.0, 0.0], names=("RR@10",)),
        "sptar": _scores([0.1, 0.2, 0.3], names=("RR@10",)),
        "same": _scores([0.1, 0.2, 0.3], names=("RR@10",)),
    }
    result = compare(systems, bootstrap_samples=200)
    assert result.target == "sptar"
    assert result.others == ("bm25", "same")
    against = result.find("bm25", "MRR@10")
    assert against.difference == pytest.approx(0.2)
    assert against.target_mean == pytest.approx(0.2)
    assert against.other_mean == 0.0
    assert against.p_value == pytest.approx(0.07418, abs=1e-5)
    assert against.p_holm == pytest.approx(2 * 0.07418, abs=2e-5)
    assert against.p_one_sided_holm == pytest.approx(0.07418, abs=1e-5)
    # (t[1 - .025/2] + t[.8]) · 0.1 / √3 with 2 degrees of freedom and a family of two
    expected = (stats.t.ppf(1 - 0.0125, 2) + stats.t.ppf(0.8, 2)) * 0.1 / 3**0.5
    assert against.detectable == pytest.approx(expected)
    same = result.find("same", "RR@10")
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)
    assert (same.p_value, same.p_holm, same.detectable) == (1.0, 1.0, None)
    with pytest.raises(KeyError):
        result.find("bm25", "nDCG@10")


def test_the_family_is_methods_times_measures() -> None:
    result = compare(_systems(0), bootstrap_samples=100)
    assert len(result.differences) == 3 * 2
    raw = [item.p_value for item in result.differences]
    assert [item.p_holm for item in result.differences] == pytest.approx(_slow_holm(raw))
    one = [item.p_one_sided for item in result.differences]
    assert [item.p_one_sided_holm for item in result.differences] == pytest.approx(_slow_holm(one))
    fewer = compare(_systems(0), measures=["nDCG@10"], bootstrap_samples=100)
    assert len(fewer.differences) == 3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(5)))
def test_order_of_the_systems_does_not_matter(seed: int, order: list[int]) -> None:
    systems = _systems(seed, count=5)
    names = list(systems)
    permuted = {names[position]: systems[names[position]] for position in order}
    first = compare(systems, bootstrap_samples=100, seed=3)
    second = compare(permuted, bootstrap_samples=100, seed=3)
    for item in first.differences:
        assert second.find(item.other, item.measure) == item


def test_swapping_the_sides_mirrors_the_result() -> None:
    systems = _systems(1, count=2)
    there = compare(systems, target="zero_shot", bootstrap_samples=100).differences[0]
    back = compare(systems, target="bm25", bootstrap_samples=100).differences[0]
    assert there.difference == -back.difference
    assert there.p_value == back.p_value
    assert there.p_one_sided == pytest.approx(1 - back.p_one_sided)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_one_query() -> None:
    result = compare({"bm25": _scores([0.2]), "sptar": _scores([0.9])}, bootstrap_samples=100)
    (item,) = result.differences
    assert item.p_value == item.p_holm == 1.0
    assert (item.low, item.high) == pytest.approx((0.7, 0.7))
    assert "no detectable difference" in sentence(result, item)
    assert "with 1 query no smallest" in sentence(result, item)


def test_one_system_alone() -> None:
    result = compare({"bm25": _scores([0.2, 0.3])})
    assert result.differences == ()
    assert headline(result) == "BM25 has nothing to be compared with."


def test_target() -> None:
    assert choose_target(["sptar", "bm25"]) == "sptar"
    assert choose_target(["bm25", "inpars"]) == "inpars"
    assert choose_target(["bm25", "inpars"], "bm25") == "bm25"
    with pytest.raises(DataError, match="no scores of 'sptra'"):
        choose_target(["bm25"], "sptra")
    with pytest.raises(DataError, match="no method"):
        choose_target([])


def test_systems_must_fit_together() -> None:
    base = _scores([0.1, 0.2])
    with pytest.raises(DataError, match="not evaluated on the same queries: 1 stand"):
        compare({"bm25": _scores([0.1, 0.2, 0.3]), "sptar": base})
    with pytest.raises(DataError, match="relevance level"):
        compare({"bm25": _scores([0.1, 0.2], level=2), "sptar": base})
    with pytest.raises(DataError, match="do not hold RR@10"):
        compare({"bm25": base, "sptar": _scores([0.1, 0.2], [0.1, 0.2])})


# --- words --------------------------------------------------------------------------------------


def test_the_verdict_in_words() -> None:
    generator = np.random.default_rng(11)
    base = generator.uniform(0.3, 0.6, 200)
    systems = {
        "bm25": _scores((base - 0.1 + generator.normal(0, 0.05, 200)).tolist()),
        "zero_shot": _scores((base + 0.1 + generator.normal(0, 0.05, 200)).tolist()),
        "mine": _scores((base + generator.normal(0, 0.05, 200)).tolist()),
        "sptar": _scores(base.tolist()),
    }
    result = compare(systems, bootstrap_samples=500)
    lines = verdict(result)
    assert lines[0] == (
        "In nDCG@10, SPTAR is better than BM25, is worse than Zero-shot and shows no detectable "
        "difference from mine."
    )
    item = result.find("bm25", "nDCG@10")
    assert lines[1] == (
        f"SPTAR is better than BM25 by {item.difference:.3f} nDCG@10 (95% interval "
        f"{item.low:+.3f} to {item.high:+.3f}, corrected p < 0.001)."
    )
    assert lines[2].startswith("SPTAR is worse than Zero-shot by 0.")
    assert "no detectable difference from mine in nDCG@10" in lines[3]
    assert "with 200 queries only differences above 0.0" in lines[3]


def test_the_corrected_p_value_decides() -> None:
    """p = 0.03 alone would be significant; as the better of two hypotheses it is not."""
    differences = np.array([0.05, 0.1, 0.02, 0.08, -0.03, 0.09, 0.03, -0.01])
    p_value = paired_test(differences)[0]
    assert 0.025 < p_value < 0.05
    zero = _scores([0.0] * 8)
    alone = compare({"bm25": zero, "sptar": _scores(differences.tolist())}, bootstrap_samples=100)
    assert alone.significant(alone.differences[0])
    two = compare(
        {"bm25": zero, "zero_shot": zero, "sptar": _scores(differences.tolist())},
        bootstrap_samples=100,
    )
    assert not any(two.significant(item) for item in two.differences)
    assert "no detectable difference from BM25 and Zero-shot" in headline(two)
