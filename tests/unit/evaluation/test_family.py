"""One family over all retrievers: contests, Holm by hand, equality with the single comparison."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sptar.errors import DataError
from sptar.evaluation.comparison import Contest, load_comparisons
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.family import (
    FamilyComparison,
    compare_family,
    compare_systems,
    contests_of,
)
from sptar.evaluation.measures import parse_measures
from sptar.evaluation.significance import compare
from sptar.evaluation.systems import SystemName, method_title, parse_system, row_title
from sptar.evaluation.verdict import family_verdict, verdict

NAMES = (
    "bm25",
    "zero_shot/dpr",
    "no_augmentation/dpr",
    "sptar/dpr",
    "zero_shot/colbert",
    "no_augmentation/colbert",
    "sptar/colbert",
)
MEASURES = ("nDCG@10", "RR@10")


def scores_of(*rows: list[float], measures: tuple[str, ...] = MEASURES) -> Scores:
    return Scores(
        measures=parse_measures(measures[: len(rows)]),
        query_ids=tuple(f"q{number:03d}" for number in range(len(rows[0]))),
        values=tuple(tuple(map(float, row)) for row in rows),
    )


def systems_of(names: tuple[str, ...], seed: int, queries: int = 25) -> dict[str, Scores]:
    generator = np.random.default_rng(seed)
    base = generator.uniform(0.2, 0.7, (2, queries))
    return {
        name: scores_of(
            *np.clip(base + 0.02 * place + generator.normal(0, 0.08, base.shape), 0, 1).tolist()
        )
        for place, name in enumerate(names)
    }


# --- names and contests -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts", "title", "row"),
    [
        ("bm25", SystemName("bm25"), "BM25", "BM25"),
        ("sptar/dpr", SystemName("sptar", None, "dpr"), "SPTAR, DPR", "SPTAR"),
        ("sptar/colbert", SystemName("sptar", None, "colbert"), "SPTAR, ColBERT", "SPTAR"),
        (
            "sptar@k=30/bm25+dpr",
            SystemName("sptar", "k=30", "bm25+dpr"),
            "SPTAR (k = 30), BM25 + DPR",
            "SPTAR (k = 30)",
        ),
        ("sptar@k=30", SystemName("sptar", "k=30"), "sptar@k=30", "SPTAR (k = 30)"),
        ("mine/odd", SystemName("mine", None, "odd"), "mine, odd", "mine"),
    ],
)
def test_names_of_systems(name: str, parts: SystemName, title: str, row: str) -> None:
    assert parse_system(name) == parts
    assert str(parts) == name
    assert method_title(name) == title
    assert row_title(name) == row


def test_each_retriever_has_a_contest() -> None:
    assert contests_of(NAMES) == [
        Contest("sptar/dpr", ("bm25", "zero_shot/dpr", "no_augmentation/dpr")),
        Contest("sptar/colbert", ("bm25", "zero_shot/colbert", "no_augmentation/colbert")),
    ]
    assert contests_of(NAMES, "no_augmentation")[1] == Contest(
        "no_augmentation/colbert", ("bm25", "zero_shot/colbert", "sptar/colbert")
    )


def test_fusions_and_cut_offs_are_systems_of_their_own() -> None:
    names = ["bm25", "sptar@k=30/dpr", "sptar@k=70/dpr", "sptar@k=30/bm25+dpr", "inpars/bm25+dpr"]
    assert contests_of(names) == [
        Contest("sptar@k=30/dpr", ("bm25", "sptar@k=70/dpr")),
        Contest("sptar@k=30/bm25+dpr", ("bm25", "inpars/bm25+dpr")),
    ]
    (only,) = contests_of(names, "sptar@k=70")
    assert only == Contest("sptar@k=70/dpr", ("bm25", "sptar@k=30/dpr"))


def test_without_retrievers_there_is_one_contest() -> None:
    assert contests_of(["bm25", "sptar", "inpars"]) == [Contest("sptar", ("bm25", "inpars"))]
    assert contests_of(["bm25", "mine"]) == [Contest("mine", ("bm25",))]
    assert contests_of(["bm25"]) == [Contest("bm25", ())]
    assert contests_of(["bm25", "sptar"], "bm25") == [Contest("bm25", ("sptar",))]
    names = ["bm25", "sptar@k=30", "sptar@k=70"]
    assert contests_of(names, "sptar@k=70") == [Contest("sptar@k=70", ("bm25", "sptar@k=30"))]


def test_a_target_without_a_retriever_meets_all() -> None:
    assert contests_of(NAMES, "bm25") == [Contest("bm25", NAMES[1:])]


def test_blocks_without_the_target_have_no_contest() -> None:
    assert contests_of(["bm25", "zero_shot/dragon", "sptar/dpr", "zero_shot/dpr"]) == [
        Contest("sptar/dpr", ("bm25", "zero_shot/dpr"))
    ]
    with pytest.raises(DataError, match="no scores of 'nobody'"):
        contests_of(NAMES, "nobody")
    with pytest.raises(DataError, match="no method"):
        contests_of([])
    with pytest.raises(ValueError, match="twice"):
        Contest("a", ("a", "b"))


# --- the family ---------------------------------------------------------------------------------


def test_holm_over_the_family_by_hand() -> None:
    """Four tests; raw p by scipy, sorted, times 4, 3, 2, 1, never falling."""
    generator = np.random.default_rng(4)
    base = generator.uniform(0.3, 0.6, 30)

    def moved(shift: float) -> Scores:
        return scores_of((base + shift + generator.normal(0, 0.05, 30)).tolist())

    systems = {
        "bm25": moved(0.0),
        "zero_shot/dpr": moved(0.03),
        "sptar/dpr": moved(0.04),
        "zero_shot/colbert": moved(0.0),
        "sptar/colbert": moved(0.02),
    }
    family = compare_family(systems, contests_of(list(systems)), bootstrap_samples=100)
    assert [item.target for item in family.comparisons] == ["sptar/dpr", "sptar/colbert"]
    pairs = [(c.target, d.other, d) for c in family.comparisons for d in c.differences]
    assert [(target, other) for target, other, _ in pairs] == [
        ("sptar/dpr", "bm25"),
        ("sptar/dpr", "zero_shot/dpr"),
        ("sptar/colbert", "bm25"),
        ("sptar/colbert", "zero_shot/colbert"),
    ]
    raw = [
        stats.ttest_rel(systems[target].row("nDCG@10"), systems[other].row("nDCG@10")).pvalue
        for target, other, _ in pairs
    ]
    assert [item.p_value for _, _, item in pairs] == pytest.approx(raw)
    ordered = sorted(raw)
    corrected = {}
    floor = 0.0
    for step, p_value in enumerate(ordered):
        floor = max(floor, min(1.0, p_value * (4 - step)))
        corrected[p_value] = floor
    assert [item.p_holm for _, _, item in pairs] == pytest.approx([corrected[p] for p in raw])
    one = [
        stats.ttest_rel(
            systems[target].row("nDCG@10"), systems[other].row("nDCG@10"), alternative="greater"
        ).pvalue
        for target, other, _ in pairs
    ]
    assert [item.p_one_sided for _, _, item in pairs] == pytest.approx(one)
    for (target, other, item), p_value in zip(pairs, raw, strict=True):
        difference = np.subtract(systems[target].row("nDCG@10"), systems[other].row("nDCG@10"))
        error = difference.std(ddof=1) / 30**0.5
        reach = stats.t.ppf(1 - 0.05 / 4 / 2, 29) + stats.t.ppf(0.8, 29)
        assert item.detectable == pytest.approx(reach * error)
        assert item.difference == pytest.approx(difference.mean())
        assert item.p_holm >= p_value
    assert family.size == 4


def test_a_family_is_stricter_than_its_retrievers_alone() -> None:
    systems = systems_of(NAMES, seed=2)
    family = compare_systems(systems, bootstrap_samples=100)
    assert family.size == 2 * 3 * 2
    for comparison in family.comparisons:
        block = {name: systems[name] for name in (*comparison.others, comparison.target)}
        alone = compare(block, comparison.target, bootstrap_samples=100)
        for item in comparison.differences:
            other = alone.find(item.other, item.measure)
            assert item.p_value == other.p_value
            assert item.p_holm >= other.p_holm
            assert (item.low, item.high) == (other.low, other.high)
            assert item.detectable is not None
            assert other.detectable is not None
            assert item.detectable > other.detectable


@pytest.mark.parametrize("target", [None, "inpars", "bm25"])
def test_one_contest_is_the_comparison(target: str | None, tmp_path: Path) -> None:
    systems = systems_of(("bm25", "zero_shot", "inpars", "sptar"), seed=3)
    single = compare(systems, target, bootstrap_samples=150, seed=5)
    family = compare_systems(systems, target, bootstrap_samples=150, seed=5)
    assert family.comparisons == (single,)
    assert family_verdict(family) == verdict(single)
    family.save(tmp_path / "family.json")
    assert FamilyComparison.load(tmp_path / "family.json") == family


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(len(NAMES))))
def test_the_order_of_the_systems_changes_no_value(seed: int, order: list[int]) -> None:
    systems = systems_of(NAMES, seed, queries=12)
    permuted = {NAMES[place]: systems[NAMES[place]] for place in order}
    first = compare_systems(systems, bootstrap_samples=100, seed=1)
    second = compare_systems(permuted, bootstrap_samples=100, seed=1)
    assert len(first.comparisons) == len(second.comparisons)
    for comparison in first.comparisons:
        other = second.of(parse_system(comparison.target).retriever)
        assert other is not None
        assert other.target == comparison.target
        for item in comparison.differences:
            assert other.find(item.other, item.measure) == item


def test_a_family_saves_and_loads(tmp_path: Path) -> None:
    family = compare_systems(systems_of(NAMES, seed=1), bootstrap_samples=100, alpha=0.1, seed=3)
    family.save(tmp_path / "comparison.json")
    assert FamilyComparison.load(tmp_path / "comparison.json") == family
    with pytest.raises(DataError, match="there is no file"):
        FamilyComparison.load(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text('{"format": 2, "contests": [{"differences": [{}]}]}')
    with pytest.raises(DataError, match="no file with a comparison"):
        load_comparisons(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text(json.dumps({"format": 2, "contests": []}))
    with pytest.raises(DataError, match="no contest"):
        load_comparisons(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text(json.dumps({"format": 3}))
    with pytest.raises(DataError, match="format 3"):
        load_comparisons(tmp_path / "bad.json")


def test_what_does_not_fit_is_refused() -> None:
    systems = systems_of(NAMES, seed=1)
    contests = contests_of(NAMES)
    with pytest.raises(ValueError, match="same pair"):
        compare_family(systems, [*contests, Contest("bm25", ("sptar/dpr",))])
    with pytest.raises(DataError, match="no scores of 'sptar/splade'"):
        compare_family(systems, [Contest("sptar/splade", ("bm25",))])
    other = systems | {"zero_shot/colbert": scores_of([0.1, 0.2], [0.1, 0.2])}
    with pytest.raises(DataError, match="not evaluated on the same queries"):
        compare_family(other, contests)
    with pytest.raises(ValueError, match="made together"):
        FamilyComparison(())
    one, two = (compare(systems_of(("bm25", "sptar"), 1), seed=seed) for seed in (1, 2))
    with pytest.raises(ValueError, match="made together"):
        FamilyComparison((one, two))


# --- words --------------------------------------------------------------------------------------


def test_the_verdict_of_a_family() -> None:
    generator = np.random.default_rng(8)
    base = generator.uniform(0.3, 0.6, 100)

    def moved(shift: float) -> Scores:
        return scores_of((base + shift + generator.normal(0, 0.03, 100)).tolist())

    systems = {
        "bm25": moved(0.0),
        "zero_shot/dpr": moved(0.2),
        "inpars/dpr": moved(0.1),
        "sptar/dpr": moved(0.1),
        "zero_shot/tas_b": moved(-0.1),
        "inpars/tas_b": moved(0.1),
        "sptar/tas_b": moved(0.1),
    }
    family = compare_systems(systems, bootstrap_samples=100)
    lines = family_verdict(family)
    assert lines[0] == (
        "In nDCG@10, SPTAR is better than BM25 with 2 of 2 retrievers and Zero-shot with 1 of 2 "
        "retrievers and is worse than Zero-shot with 1 of 2 retrievers; no other difference is "
        "significant."
    )
    dpr = family.of("dpr")
    assert dpr is not None
    against = {other: dpr.find(other, "nDCG@10") for other in dpr.others}
    inpars = against["inpars/dpr"]
    assert lines[1] == (
        f"DPR: SPTAR is better than BM25 ({against['bm25'].difference:+.3f}), is worse than "
        f"Zero-shot ({against['zero_shot/dpr'].difference:+.3f}) and shows no detectable "
        f"difference from InPars ({inpars.difference:+.3f}); only differences above "
        f"{inpars.detectable:.3f} would show."
    )
    assert lines[2].startswith("TAS-B: SPTAR is better than BM25 (")
    same = dict.fromkeys(systems, systems["bm25"])
    silent = family_verdict(compare_systems(same, bootstrap_samples=100))
    assert silent[0] == (
        "In nDCG@10, SPTAR shows no detectable difference from any other method, with any of 2 "
        "retrievers."
    )
    for line in itertools.chain(lines, silent):
        assert line.endswith(".")
        assert ".." not in line
