"""Every retriever's target against its rivals: all tests of a collection as one Holm family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sptar.errors import DataError
from sptar.evaluation.comparison import (
    Comparison,
    Contest,
    load_comparisons,
    save_comparisons,
)
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.measures import Measure
from sptar.evaluation.significance import compare_contests
from sptar.evaluation.systems import SystemName, parse_system
from sptar.methods import method_named, target_of

__all__ = [
    "Contest",
    "FamilyComparison",
    "compare_family",
    "compare_systems",
    "contests_of",
]


@dataclass(frozen=True, slots=True)
class FamilyComparison:
    """A comparison for each contest; p-values are corrected over all of them together.

    They share measures, level, number of bootstrap samples and seed.

    Raises:
        ValueError: there is no comparison, or they do not belong together.
    """

    comparisons: tuple[Comparison, ...]

    def __post_init__(self) -> None:
        shared = {
            (item.measures, item.alpha, item.bootstrap_samples, item.seed)
            for item in self.comparisons
        }
        if len(shared) != 1:
            raise ValueError("a family needs comparisons that were made together")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Measures of every test."""
        return self.comparisons[0].measures

    @property
    def alpha(self) -> float:
        """Level of the corrected tests."""
        return self.comparisons[0].alpha

    @property
    def size(self) -> int:
        """Number of tests in the family."""
        return sum(len(item.differences) for item in self.comparisons)

    def of(self, retriever: str | None) -> Comparison | None:
        """The comparison whose target uses this retriever, or None."""
        for item in self.comparisons:
            if parse_system(item.target).retriever == retriever:
                return item
        return None

    def save(self, path: str | Path) -> None:
        """Write everything as JSON, atomically."""
        save_comparisons(path, self.comparisons)

    @classmethod
    def load(cls, path: str | Path) -> FamilyComparison:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: there is no such file, or it does not hold comparisons.
        """
        return cls(load_comparisons(path))


def contests_of(names: Sequence[str], target: str | None = None) -> list[Contest]:
    """The contests among systems that are named ``method/retriever``.

    In every retriever's block the target method meets each other system of the block, and each
    system without a retriever, such as ``bm25``. Without any retriever in the names there is one
    contest among all of them. Of several variants of the target (``sptar@k=30``, ``sptar@k=70``)
    the first is the target and the others are rivals.

    Args:
        names: system names, in the order of the tables.
        target: a method, or the name of a single system; by default the one of
            :func:`~sptar.methods.target_of`.

    Returns:
        Contests in the order of the retrievers. A block without the target method has none.

    Raises:
        DataError: there is no system, or none of the target method.

    >>> contests_of(["bm25", "zero_shot/dpr", "sptar/dpr", "sptar/colbert"])
    ... # doctest: +NORMALIZE_WHITESPACE
    [Contest(target='sptar/dpr', others=('bm25', 'zero_shot/dpr')),
     Contest(target='sptar/colbert', others=('bm25',))]
    """
    if not names:
        raise DataError("There is no method to compare.")
    systems = {name: parse_system(name) for name in names}
    chosen = _target_method(systems, target)
    shared = [name for name, system in systems.items() if system.retriever is None]
    retrievers = list(dict.fromkeys(system.retriever for system in systems.values()))
    # Systems without a retriever are a block of their own only when there is no other one.
    retrievers = [retriever for retriever in retrievers if retriever is not None] or [None]
    alone = next((name for name in shared if chosen in _names_of(name, systems[name])), None)
    if retrievers != [None] and alone is not None:
        return [Contest(alone, tuple(name for name in systems if name != alone))]
    contests = []
    for retriever in retrievers:
        block = [name for name, system in systems.items() if system.retriever == retriever]
        own = next((name for name in block if chosen in _names_of(name, systems[name])), None)
        if own is not None:
            rivals = [name for name in names if name in block or name in shared]
            contests.append(Contest(own, tuple(name for name in rivals if name != own)))
    if not contests:
        raise DataError(
            f"There are no scores of '{chosen}', which the other methods should be compared with.",
            hint=f"There are scores of: {', '.join(names)}.",
        )
    return contests


def _names_of(name: str, system: SystemName) -> tuple[str, str, str]:
    """A target may be given as a method, with its variant, or as the whole name."""
    return system.method, system.row, name


def _target_method(systems: Mapping[str, SystemName], target: str | None) -> str:
    if target is not None:
        return target
    with_retriever = [system for system in systems.values() if system.retriever is not None]
    chosen = target_of(system.method for system in systems.values())
    if method_named(chosen).target_rank:
        return chosen
    return (with_retriever or list(systems.values()))[-1].row


def compare_family(
    systems: Mapping[str, Scores],
    contests: Sequence[Contest],
    measures: Iterable[str | Measure] | None = None,
    alpha: float = 0.05,
    bootstrap_samples: int = 10_000,
    seed: int = 0,
) -> FamilyComparison:
    """Test the target of every contest against its rivals in each measure.

    All tests, contests times rivals times measures, are one family: Holm's correction goes over
    all of them, two-sided p-values and one-sided ones each, and ``detectable`` is the difference
    that a test at alpha / family size finds with 80 % power. Bootstrap intervals do not depend on
    the family. With one contest this is :func:`~sptar.evaluation.significance.compare`.

    Raises:
        DataError: scores are missing, or two systems were not evaluated on the same queries.
    """
    return FamilyComparison(
        compare_contests(systems, contests, measures, alpha, bootstrap_samples, seed)
    )


def compare_systems(
    systems: Mapping[str, Scores],
    target: str | None = None,
    measures: Iterable[str | Measure] | None = None,
    alpha: float = 0.05,
    bootstrap_samples: int = 10_000,
    seed: int = 0,
) -> FamilyComparison:
    """Compare the systems of a run, with one retriever or several: what the step ``compare`` does.

    Takes the arguments of :func:`~sptar.evaluation.significance.compare`. Systems of a run with
    several retrievers are named ``method/retriever`` (``sptar/dpr``, ``sptar@k=30/colbert``,
    ``sptar/bm25+dpr``), BM25 alone is ``bm25``; then the contests are those of
    :func:`contests_of`. Names without a retriever give one contest, equal in numbers and in its
    saved file to what ``compare`` makes.

    Args:
        systems: name → scores, in the order of the tables.
        target: a method (``sptar``), or one system of a run with a single retriever.
    """
    contests = contests_of(list(systems), target)
    return compare_family(systems, contests, measures, alpha, bootstrap_samples, seed)
