"""Measures print and parse as themselves, and a wrong name gets a useful answer."""

from __future__ import annotations

import pytest

from sptar.errors import ConfigError
from sptar.evaluation.measures import DEFAULT_MEASURES, Measure, parse_measures


@pytest.mark.parametrize(
    "name",
    ["nDCG@10", "nDCG", "RR@10", "RR", "R@100", "AP@1000", "AP(rel=2)@1000", "P@5", "Success@1"],
)
def test_prints_as_it_parses(name: str) -> None:
    measure = Measure.parse(name)
    assert str(measure) == name
    assert repr(measure) == name
    assert Measure.parse(str(measure)) == measure


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("MRR@10", "RR@10"),
        ("mrr@10", "RR@10"),
        ("MAP@1000", "AP@1000"),
        ("Recall@100", "R@100"),
        ("recall@100", "R@100"),
        ("ndcg@10", "nDCG@10"),
        ("NDCG@10", "nDCG@10"),
        (" Precision@5 ", "P@5"),
        ("hit@3", "Success@3"),
    ],
)
def test_aliases(alias: str, name: str) -> None:
    assert str(Measure.parse(alias)) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NDGC@10", "did you mean 'nDCG@10'"),
        ("recal@50", "did you mean 'R@50'"),
        ("MRRR@5", "did you mean 'RR@5'"),
        ("ndcg 10", "did you mean 'nDCG@10'"),
        ("R", "did you mean 'R@100'"),
        ("nDCG(rel=2)@10", "did you mean 'nDCG@10'"),
        ("nDCG@0", "cut-off below 1"),
        ("AP(rel=0)@10", "relevance level below 1"),
        ("", "not a measure"),
        ("nDCG@ten", "not a measure"),
        ("__class__@10", "unknown measure"),
    ],
)
def test_wrong_names(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Measure.parse(text)
    assert expected in str(caught.value)


def test_nothing_far_away_is_suggested() -> None:
    with pytest.raises(ConfigError) as caught:
        Measure.parse("throughput@10")
    assert "did you mean" not in str(caught.value)
    assert "nDCG@10" in str(caught.value), "examples stand in the hint"


def test_lists() -> None:
    assert [str(measure) for measure in parse_measures(DEFAULT_MEASURES)] == list(DEFAULT_MEASURES)
    with pytest.raises(ConfigError, match="twice"):
        parse_measures(["RR@10", "MRR@10"])
    with pytest.raises(ConfigError, match="No measure"):
        parse_measures([])


@pytest.mark.parametrize(
    "wrong",
    [("XYZ", 10, None), ("R", None, None), ("nDCG", 0, None), ("nDCG", 10, 2), ("AP", 10, 0)],
)
def test_a_wrong_value_cannot_be_made(wrong: tuple[str, int | None, int | None]) -> None:
    with pytest.raises(ValueError):
        Measure(*wrong)
