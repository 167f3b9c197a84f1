"""Measures as values that print and parse as themselves: ``nDCG@10``, ``AP(rel=2)@1000``.

The names are those of ir-measures. Numbers come from trec_eval, always through the same provider
of ir-measures, so that a measure has one definition whatever else is installed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sptar.errors import ConfigError

__all__ = ["DEFAULT_MEASURES", "Measure", "parse_measure", "parse_measures"]

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "R@100", "AP@1000")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is known about one family of measures."""

    aliases: tuple[str, ...]
    binary: bool
    needs_cutoff: bool


_KINDS: dict[str, _Kind] = {
    "nDCG": _Kind(("nDCG",), binary=False, needs_cutoff=False),
    "RR": _Kind(("RR", "MRR", "recip_rank"), binary=True, needs_cutoff=False),
    "R": _Kind(("R", "Recall"), binary=True, needs_cutoff=True),
    "AP": _Kind(("AP", "MAP"), binary=True, needs_cutoff=False),
    "P": _Kind(("P", "Precision"), binary=True, needs_cutoff=True),
    "Success": _Kind(("Success", "Hit", "Hits"), binary=True, needs_cutoff=True),
}
_NAME_OF = {alias.lower(): name for name, kind in _KINDS.items() for alias in kind.aliases}
_SYNTAX = re.compile(r"(?P<name>[A-Za-z_]+)(?:\(rel=(?P<level>\d+)\))?(?:@(?P<cutoff>\d+))?")


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure of a ranking; every value lies between 0 and 1, higher is better.

    Attributes:
        name: ``nDCG`` (linear gains, log2 discount), ``RR`` (reciprocal rank), ``R`` (recall),
            ``AP`` (average precision), ``P`` (precision) or ``Success``.
        cutoff: how many ranks are read; ``None`` reads the whole ranking.
        level: lowest grade that counts as relevant in a binary measure; ``None`` takes the
            level of the evaluation.

    >>> Measure("nDCG", 10)
    nDCG@10
    >>> Measure.parse("MRR@10")
    RR@10
    >>> Measure.parse("MAP(rel=2)@1000")
    AP(rel=2)@1000
    """

    name: str
    cutoff: int | None = None
    level: int | None = None

    def __post_init__(self) -> None:
        if self.name not in _KINDS:
            raise ValueError(f"unknown measure {self.name!r}")
        if self.cutoff is not None and self.cutoff < 1:
            raise ValueError("a cut-off is a whole number from 1")
        if self.cutoff is None and _KINDS[self.name].needs_cutoff:
            raise ValueError(f"{self.name} needs a cut-off")
        if self.level is not None and (self.level < 1 or not self.binary):
            raise ValueError("a relevance level is from 1 and belongs to a binary measure")

    @property
    def binary(self) -> bool:
        """Whether grades are first turned into relevant or not."""
        return _KINDS[self.name].binary

    def __str__(self) -> str:
        level = "" if self.level is None else f"(rel={self.level})"
        cutoff = "" if self.cutoff is None else f"@{self.cutoff}"
        return f"{self.name}{level}{cutoff}"

    def __repr__(self) -> str:
        return str(self)

    @classmethod
    def parse(cls, text: str) -> Measure:
        """Read a name such as ``nDCG@10``; ``MRR``, ``MAP``, ``Recall``, case do not matter.

        Raises:
            ConfigError: there is no such measure, with the nearest known one.
        """
        match = _SYNTAX.fullmatch(text.strip())
        if match is None:
            raise ConfigError(f"'{text}' is not a measure{_suggestion(text)}", hint=_EXAMPLES)
        name = _NAME_OF.get(match["name"].lower())
        if name is None:
            raise ConfigError(f"unknown measure '{text}'{_suggestion(text)}", hint=_EXAMPLES)
        kind = _KINDS[name]
        cutoff, level = (
            None if match[part] is None else _bounded(match[part], text)
            for part in ("cutoff", "level")
        )
        if cutoff is None and kind.needs_cutoff:
            raise ConfigError(
                f"measure '{text}' needs a cut-off; did you mean '{name}@100'?", hint=_EXAMPLES
            )
        if cutoff == 0:
            raise ConfigError(f"measure '{text}' has a cut-off below 1.", hint=_EXAMPLES)
        if level is not None and not kind.binary:
            raise ConfigError(
                f"measure '{text}' reads the grades themselves and takes no relevance level; "
                f"did you mean '{cls(name, cutoff)}'?"
            )
        if level == 0:
            raise ConfigError(f"measure '{text}' has a relevance level below 1.", hint=_EXAMPLES)
        return cls(name, cutoff, level)

    def provided_by(self, relevance_level: int) -> Any:
        """The ir-measures object that computes this measure on a ranking cut by the caller.

        trec_eval has no cut-off for the reciprocal rank: there the caller cuts the ranking.
        """
        import ir_measures

        measure = getattr(ir_measures, self.name)
        if self.binary:
            measure = measure(rel=self.level or relevance_level)
        return measure if self.cutoff is None or self.name == "RR" else measure @ self.cutoff


_EXAMPLES = "Examples: nDCG@10, RR@10 (or MRR@10), R@100, AP@1000 (or MAP@1000), P@5, Success@10."


def _bounded(digits: str, text: str) -> int:
    """A cut-off or level; trec_eval counts in 32 bits, and no ranking is that long."""
    if len(digits) > len(str(_LARGEST)) or int(digits) > _LARGEST:
        raise ConfigError(f"measure '{text[:40]}' has a number above {_LARGEST:,}.", hint=_EXAMPLES)
    return int(digits)


_LARGEST = 10_000_000


def _suggestion(text: str) -> str:
    word = re.split(r"[@(]", text.strip(), maxsplit=1)[0].lower()
    number = re.search(r"\d+\s*$", text)
    near = difflib.get_close_matches(word, _NAME_OF, n=1, cutoff=0.5)
    if not near:
        return "."
    name = _NAME_OF[near[0]]
    cutoff = f"@{int(number[0])}" if number and int(number[0]) else "@10"
    return f"; did you mean '{name}{cutoff}'?"


def parse_measure(measure: str | Measure) -> Measure:
    """A measure from its name; a measure passes through."""
    return measure if isinstance(measure, Measure) else Measure.parse(measure)


def parse_measures(measures: Iterable[str | Measure]) -> tuple[Measure, ...]:
    """Measures in the order given.

    Raises:
        ConfigError: one is unknown, one is named twice (also by an alias), or there is none.
    """
    parsed = tuple(parse_measure(measure) for measure in measures)
    if not parsed:
        raise ConfigError("No measure is given.", hint=_EXAMPLES)
    for measure in parsed:
        if parsed.count(measure) > 1:
            raise ConfigError(f"Measure '{measure}' is named twice.")
    return parsed
