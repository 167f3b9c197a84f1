"""The table of methods: who writes a method's weak queries, and what the report calls it.

A method is one row here and has no name anywhere else in the package. A name that a config gives
to imported weak queries (``weak_queries``) is a method as well: see :func:`method_named`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "METHODS",
    "TARGET",
    "WORDINGS",
    "Method",
    "Wording",
    "method_named",
    "method_title",
    "target_of",
]


@dataclass(frozen=True, slots=True)
class Wording:
    """How a prompt is worded.

    ``instruction`` opens the prompt; ``numbered`` puts "Example n:" in front of each block (only
    when there are examples); a label that is ``None`` comes from the config; with a
    ``bad_query_label`` each example also shows a bad question.
    """

    instruction: str = ""
    numbered: bool = False
    query_label: str | None = None
    bad_query_label: str | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table.

    Attributes:
        name: in configs and names of systems.
        title: for readers.
        ranks_with: ``bm25`` alone, the ``start`` encoder as it is, or a ``trained`` retriever.
        wording: of the prompt behind which the language model writes; ``None`` writes nothing.
        soft_prompt: whether a tuned soft prompt stands in front, and the examples are selected
            with it; otherwise they are drawn by seed.
        target_rank: the verdict is about the method with the highest one.
        by_default: whether a config that names no methods runs it.
    """

    name: str
    title: str
    ranks_with: Literal["bm25", "start", "trained"] = "trained"
    wording: Wording | None = None
    soft_prompt: bool = False
    target_rank: int = 0
    by_default: bool = False

    @property
    def takes_weak_queries(self) -> bool:
        """Whether it trains on weak queries, written by its prompt or imported under its name."""
        return self.wording is not None or self.name not in METHODS


_ROWS = (
    Method("bm25", "BM25", ranks_with="bm25", by_default=True),
    Method("zero_shot", "Zero-shot", ranks_with="start", by_default=True),
    Method("no_augmentation", "No augmentation", by_default=True),
    # The two hand-written prompts follow the vanilla one and the one "guided by bad questions" of
    # InPars (Bonifacio et al., 2022), in our own words.
    Method(
        "inpars",
        "InPars",
        wording=Wording(
            instruction="For each document, write one search query that the document answers.",
            numbered=True,
        ),
        by_default=True,
    ),
    Method(
        "inpars_gbq",
        "InPars-GBQ",
        wording=Wording(
            instruction="For each document, write a good question that only this document "
            "answers. A bad question merely repeats words.",
            numbered=True,
            query_label="Good Question:",
            bad_query_label="Bad Question:",
        ),
    ),
    Method("sptar", "SPTAR", wording=Wording(), soft_prompt=True, target_rank=1, by_default=True),
)

METHODS: dict[str, Method] = {row.name: row for row in _ROWS}
"""Name → row, in the order in which a report shows them."""

WORDINGS: dict[str, Wording] = {row.name: row.wording for row in _ROWS if row.wording is not None}
"""Method → how its prompt is worded."""

TARGET: Method = max(_ROWS, key=lambda row: row.target_rank)
"""The method that the package is about; its wording is that of the soft prompt's tuning."""


def method_named(name: str) -> Method:
    """A row of the table, or one made for imported weak queries of a name of their own.

    >>> method_named("sptar").title, method_named("llama7b").takes_weak_queries
    ('SPTAR', True)
    """
    return METHODS.get(name) or Method(name, name)


def method_title(name: str) -> str:
    """How a reader knows a method; a name of the user's own stays as it is."""
    return method_named(name).title


def target_of(names: Iterable[str]) -> str:
    """The method that the verdict is about: the highest target rank, else the last one named.

    >>> target_of(["bm25", "sptar", "inpars"]), target_of(["bm25", "inpars"])
    ('sptar', 'inpars')
    """
    return max(reversed(list(names)), key=lambda name: method_named(name).target_rank)
