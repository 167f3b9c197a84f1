"""What a generator is worth: the parts of the benchmark that need no model."""

from __future__ import annotations

import argparse
import sys
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

# At the end: a script's name must never hide a library's.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from generator_worth import (
    LABELS_ONLY,
    MEASURES,
    Source,
    common_documents,
    contests,
    figures,
    parse_examples,
    parse_source,
    restricted,
    training,
    writing,
)

from sptar.config import parse_config
from sptar.evaluation.across import mean_over_seeds
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.family import compare_family
from sptar.evaluation.measures import parse_measures

IDS = st.sets(st.integers(0, 30).map(lambda number: f"d{number:02}"), max_size=25)


def options() -> argparse.Namespace:
    return argparse.Namespace(
        collection=Path("collection"),
        start=Path("encoder"),
        documents=300,
        examples={"three": 3},
        decoding="greedy",
        dtype="float32",
        learning_rate=0.01,
        epochs=3,
        steps=4,
    )


def test_a_source_is_a_name_and_a_place() -> None:
    assert parse_source("v0=a/b=c", writes=True) == Source("v0", Path("a/b=c"), True)


@pytest.mark.parametrize("text", ["v0", "v0=", "=a", "a b=c", "-v=c", "bm25=c", "zero_shot=c"])
def test_other_sources_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="name"):
        parse_source(text, writes=False)


def test_examples_are_a_name_and_a_number() -> None:
    assert parse_examples("v0=3") == ("v0", 3)


@pytest.mark.parametrize("text", ["v0", "v0=", "=3", "v0=0", "v0=-1", "v0=x", "v0=1.5"])
def test_other_examples_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=N"):
        parse_examples(text)


def test_a_generator_can_be_shown_more_examples() -> None:
    three, one = (
        parse_config(writing(Source(name, Path("lm"), True), options()))
        for name in ("three", "one")
    )
    assert (three.prompt.examples, one.prompt.examples) == (3, 1)
    assert three.split == one.split


@given(st.lists(IDS, min_size=1, max_size=4), st.integers(1, 30))
def test_the_common_documents_are_everybodys_whatever_the_order(
    kept: list[set[str]], pairs: int
) -> None:
    expected = [
        doc_id
        for doc_id in (f"d{number:02}" for number in range(31))
        if all(doc_id in own for own in kept)
    ]
    found = common_documents(kept, pairs, seed=1)
    assert len(found) == min(pairs, len(expected))
    assert found == [doc_id for doc_id in expected if doc_id in found]
    assert found == common_documents([sorted(own, reverse=True) for own in kept[::-1]], pairs, 1)
    if pairs >= len(expected):
        assert found == expected


def test_the_sample_depends_on_the_seed_alone() -> None:
    ids = [f"d{number}" for number in range(100)]
    assert common_documents([ids], 50, 1) == common_documents([ids], 50, 1)
    assert common_documents([ids], 50, 1) != common_documents([ids], 50, 2)


def test_rows_are_those_of_the_documents() -> None:
    queries = {"d1": "one", "d2": "two", "d3": "three"}
    assert restricted(queries, ["d1", "d3"]) == [
        {"query_id": "d1", "doc_id": "d1", "text": "one"},
        {"query_id": "d3", "doc_id": "d3", "text": "three"},
    ]


def test_each_two_systems_meet_once() -> None:
    names = ["small", "large", "imported"]
    met = [{item.target, other} for item in contests(names) for other in item.others]
    expected = [set(two) for two in combinations([LABELS_ONLY, *names], 2)]
    assert len(met) == len(expected)
    assert all(two in met for two in expected)


def test_the_configs_are_valid_and_share_the_split() -> None:
    small, imported = Source("small", Path("lm"), True), Source("seven", Path("q.jsonl"), False)
    files = {"small": Path("a.jsonl"), "seven": Path("b.jsonl")}
    writes = parse_config(writing(small, options()))
    reads = parse_config(writing(imported, options()))
    first, second = (parse_config(training(files, options(), seed)) for seed in (1, 2))
    assert writes.split == reads.split == first.split == second.split
    assert writes.filter == reads.filter == first.filter
    assert {config.split_seed for config in (writes, reads, first, second)} == {42}
    assert (first.seed, second.seed) == (1, 2)
    assert first.methods == [LABELS_ONLY, "small", "seven"]
    # Neither a soft prompt nor queries of another source are part of the writing.
    assert (writes.methods, reads.methods) == (["inpars"], ["seven"])


def test_figures_are_those_counted_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    def scores(first: tuple[float, ...], second: tuple[float, ...]) -> Scores:
        return Scores(parse_measures(MEASURES), ("q1", "q2"), (first, second))

    means = mean_over_seeds(
        {
            1: {LABELS_ONLY: scores((0.0, 0.5), (1, 0)), "small": scores((0.5, 0.5), (1, 1))},
            2: {LABELS_ONLY: scores((0.0, 0.3), (1, 0)), "small": scores((0.7, 0.9), (1, 1))},
        }
    )
    family = compare_family(means.scores, contests(["small"]), MEASURES)
    found = figures(means, family)
    ndcg = found["systems"]["small"]["nDCG@10"]
    assert ndcg["mean"] == pytest.approx(0.65)
    assert ndcg["sd_over_seeds"] == pytest.approx(0.3 / 2**0.5)
    differences = {row["measure"]: row["difference"] for row in found["tests"]}
    assert differences == pytest.approx({"nDCG@10": 0.45, "R@100": 0.5})
    printed = capsys.readouterr().out
    assert "| small | 0.6500 ± 0.2121 | 1.0000 ± 0.0000 |" in printed
    assert "- small minus no_augmentation, nDCG@10: +0.4500" in printed
