"""Comparisons in words: what was found, and what could not have been found."""

from __future__ import annotations

from collections.abc import Collection as AnyCollection
from collections.abc import Sequence
from dataclasses import replace

from sptar.evaluation.family import FamilyComparison
from sptar.evaluation.measures import Measure
from sptar.evaluation.significance import Comparison, Difference
from sptar.evaluation.systems import method_title, parse_system, retriever_title, row_title

__all__ = ["family_verdict", "headline", "method_title", "p_text", "sentence", "verdict"]


def p_text(p_value: float) -> str:
    """``p = 0.003``; below a thousandth only that it is.

    >>> p_text(0.00312), p_text(2e-9), p_text(1.0), p_text(0.9999)
    ('p = 0.003', 'p < 0.001', 'p = 1', 'p > 0.999')
    """
    if p_value < 0.001:
        return "p < 0.001"
    if p_value >= 1:
        return "p = 1"
    if p_value > 0.999:
        return "p > 0.999"
    return f"p = {p_value:.3f}"


def sentence(comparison: Comparison, item: Difference) -> str:
    """One finding: the effect with its 95 % interval and its p-value after Holm's correction."""
    target, other = method_title(comparison.target), method_title(item.other)
    interval = f"95% interval {item.low:+.3f} to {item.high:+.3f}, corrected {p_text(item.p_holm)}"
    if comparison.significant(item):
        direction = "better" if item.difference > 0 else "worse"
        size = abs(item.difference)
        by = "less than 0.001" if size < 0.0005 else f"{size:.3f}"
        return f"{target} is {direction} than {other} by {by} {item.measure} ({interval})."
    text = (
        f"{target} shows no detectable difference from {other} in {item.measure} "
        f"({item.difference:+.3f}, {interval}"
    )
    count = f"{item.queries} quer{'y' if item.queries == 1 else 'ies'}"
    if item.detectable is None:
        return f"{text}; with {count} no smallest detectable difference can be given)."
    return f"{text}; with {count} only differences above {item.detectable:.3f} would show)."


def headline(comparison: Comparison, measure: Measure | None = None) -> str:
    """One sentence over all other methods, in one measure (by default the first)."""
    wanted = comparison.measures[0] if measure is None else measure
    target = method_title(comparison.target)
    groups: dict[str, list[str]] = {"better": [], "worse": [], "none": []}
    for other in comparison.others:
        item = comparison.find(other, wanted)
        if not comparison.significant(item):
            groups["none"].append(method_title(other))
        else:
            groups["better" if item.difference > 0 else "worse"].append(method_title(other))
    phrases = [
        f"{words} {_and(groups[key])}"
        for key, words in (
            ("better", "is better than"),
            ("worse", "is worse than"),
            ("none", "shows no detectable difference from"),
        )
        if groups[key]
    ]
    if not phrases:
        return f"{target} has nothing to be compared with."
    return f"In {wanted}, {target} {_and(phrases)}."


def verdict(comparison: Comparison, measure: Measure | None = None) -> tuple[str, ...]:
    """The headline, then one sentence for each other method."""
    wanted = comparison.measures[0] if measure is None else measure
    return (
        headline(comparison, wanted),
        *(sentence(comparison, comparison.find(other, wanted)) for other in comparison.others),
    )


def family_verdict(
    family: FamilyComparison,
    measure: Measure | None = None,
    left_out: AnyCollection[str] = (),
) -> tuple[str, ...]:
    """A headline over all retrievers, then one sentence for each; of one contest, its verdict.

    Nothing is said of the systems ``left_out``: their tests are in the tables, and count in the
    correction, but tell nothing about what they are called after.
    """
    if left_out:
        comparisons = [
            replace(
                item,
                differences=tuple(one for one in item.differences if one.other not in left_out),
            )
            for item in family.comparisons
            if item.target not in left_out
        ]
        comparisons = [item for item in comparisons if item.differences]
        if not comparisons:
            return ()
        family = FamilyComparison(tuple(comparisons))
    if len(family.comparisons) == 1:
        return verdict(family.comparisons[0], measure)
    wanted = family.measures[0] if measure is None else measure
    return (
        _family_headline(family, wanted),
        *(_retriever_sentence(comparison, wanted) for comparison in family.comparisons),
    )


def _family_headline(family: FamilyComparison, measure: Measure) -> str:
    """How often the target beats, and is beaten by, each other method."""
    met: dict[str, list[int]] = {}
    for comparison in family.comparisons:
        for other in comparison.others:
            item = comparison.find(other, measure)
            found = 0 if not comparison.significant(item) else 1 if item.difference > 0 else -1
            met.setdefault(row_title(other), []).append(found)
    target = row_title(family.comparisons[0].target)
    phrases = []
    for sign, words in ((1, "is better than"), (-1, "is worse than")):
        parts = [
            f"{title} with {found.count(sign)} of {len(found)} retrievers"
            for title, found in met.items()
            if sign in found
        ]
        if parts:
            phrases.append(f"{words} {_and(parts)}")
    count = len(family.comparisons)
    if not phrases:
        return (
            f"In {measure}, {target} shows no detectable difference from any other method, with "
            f"any of {count} retrievers."
        )
    return f"In {measure}, {target} {_and(phrases)}; no other difference is significant."


def _retriever_sentence(comparison: Comparison, measure: Measure) -> str:
    retriever = parse_system(comparison.target).retriever
    name = method_title(comparison.target) if retriever is None else retriever_title(retriever)
    groups: dict[str, list[str]] = {"is better than": [], "is worse than": []}
    undecided: list[str] = []
    detectable = 0.0
    for other in comparison.others:
        item = comparison.find(other, measure)
        text = f"{row_title(other)} ({item.difference:+.3f})"
        if comparison.significant(item):
            groups["is better than" if item.difference > 0 else "is worse than"].append(text)
        else:
            undecided.append(text)
            detectable = max(detectable, item.detectable or 0.0)
    phrases = [f"{words} {_and(texts)}" for words, texts in groups.items() if texts]
    if undecided:
        limit = f"; only differences above {detectable:.3f} would show" if detectable else ""
        phrases.append(f"shows no detectable difference from {_and(undecided)}{limit}")
    if not phrases:
        return f"{name}: {row_title(comparison.target)} has nothing to be compared with."
    return f"{name}: {row_title(comparison.target)} {_and(phrases)}."


def _and(words: Sequence[str]) -> str:
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"
