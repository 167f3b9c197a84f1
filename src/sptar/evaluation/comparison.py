"""What a comparison of methods found, as records that are saved and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sptar.errors import DataError
from sptar.evaluation.measures import Measure, parse_measure, parse_measures
from sptar.io import read_json, write_json

__all__ = ["Comparison", "Contest", "Difference", "load_comparisons", "save_comparisons"]

_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Contest:
    """One system and those that it is tested against.

    Raises:
        ValueError: a system is named twice.
    """

    target: str
    others: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.target in self.others or len(set(self.others)) != len(self.others):
            raise ValueError(f"the contest of {self.target!r} names a system twice")


@dataclass(frozen=True, slots=True)
class Difference:
    """Target against one other method in one measure.

    Attributes:
        difference: mean of (target - other) over the queries.
        low, high: 95 % bootstrap percentile interval of ``difference``.
        p_value: two-sided paired t-test, uncorrected.
        p_holm: ``p_value`` corrected over the family; this one decides.
        p_one_sided: for "the target is better", uncorrected.
        p_one_sided_holm: ``p_one_sided`` corrected over the family.
        queries: number of paired queries.
        detectable: smallest true difference that would be found with 80 % power; ``None`` when
            the spread of the differences cannot be estimated.
    """

    other: str
    measure: Measure
    target_mean: float
    other_mean: float
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float
    p_one_sided: float
    p_one_sided_holm: float
    queries: int
    detectable: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method against each other one; ``differences`` go by method, then by measure."""

    target: str
    measures: tuple[Measure, ...]
    differences: tuple[Difference, ...]
    alpha: float
    bootstrap_samples: int
    seed: int

    @property
    def others(self) -> tuple[str, ...]:
        """The methods that the target is compared with."""
        return tuple(dict.fromkeys(item.other for item in self.differences))

    def find(self, other: str, measure: str | Measure) -> Difference:
        """The difference to one method in one measure; ``KeyError`` when it was not tested."""
        wanted = parse_measure(measure)
        for item in self.differences:
            if item.other == other and item.measure == wanted:
                return item
        raise KeyError((other, str(wanted)))

    def significant(self, item: Difference) -> bool:
        """Whether the corrected two-sided p-value is at or below ``alpha``."""
        return item.p_holm <= self.alpha


def save_comparisons(path: str | Path, comparisons: Sequence[Comparison]) -> None:
    """Write comparisons of one family as JSON, atomically.

    They share measures, level, bootstrap and seed.
    """
    first = comparisons[0]
    write_json(
        path,
        {
            "format": _FORMAT,
            "alpha": first.alpha,
            "bootstrap_samples": first.bootstrap_samples,
            "seed": first.seed,
            "measures": [str(measure) for measure in first.measures],
            "contests": [
                {"target": item.target, "differences": _rows(item)} for item in comparisons
            ],
        },
    )


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    return [{**asdict(item), "measure": str(item.measure)} for item in comparison.differences]


def load_comparisons(path: str | Path) -> tuple[Comparison, ...]:
    """Read what :func:`save_comparisons` wrote.

    Raises:
        DataError: there is no such file, or it does not hold comparisons.
    """
    if not Path(path).is_file():
        raise DataError(
            "there is no file with a comparison.", path=path, hint="Compare the methods first."
        )
    value: Any = read_json(path)
    try:
        if value["format"] != _FORMAT:
            raise ValueError(f"format {value['format']!r} instead of {_FORMAT}")
        if not value["contests"]:
            raise ValueError("there is no contest")
        return tuple(_comparison(value, contest) for contest in value["contests"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"this is no file with a comparison ({type(error).__name__}: {error}).",
            path=path,
            hint="Compare the methods again.",
        ) from None


def _comparison(shared: Mapping[str, Any], contest: Mapping[str, Any]) -> Comparison:
    return Comparison(
        target=str(contest["target"]),
        measures=parse_measures(shared["measures"]),
        differences=tuple(
            Difference(**{**item, "measure": Measure.parse(item["measure"])})
            for item in contest["differences"]
        ),
        alpha=float(shared["alpha"]),
        bootstrap_samples=int(shared["bootstrap_samples"]),
        seed=int(shared["seed"]),
    )
