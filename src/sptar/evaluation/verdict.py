"""A comparison in words: what was found, and what could not have been found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sptar.evaluation.measures import Measure
from sptar.evaluation.significance import Comparison, Difference

__all__ = ["headline", "method_title", "p_text", "sentence", "verdict"]

_TITLES: Mapping[str, str] = {
    "bm25": "BM25",
    "zero_shot": "Zero-shot",
    "no_augmentation": "No augmentation",
    "inpars": "InPars",
    "inpars_gbq": "InPars-GBQ",
    "promptagator": "Promptagator",
    "sptar": "SPTAR",
}


def method_title(method: str) -> str:
    """How a reader knows a method; a name of the user's own stays as it is.

    >>> method_title("bm25"), method_title("my_queries")
    ('BM25', 'my_queries')
    """
    return _TITLES.get(method, method)


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


def _and(words: Sequence[str]) -> str:
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"
