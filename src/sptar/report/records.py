"""What a report shows, as plain records: whoever runs the steps fills them, the page draws them.

Everything but the name has a default; a part that is left empty does not appear on the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sptar.evaluation.family import FamilyComparison

__all__ = [
    "ChosenExamples",
    "CostRow",
    "Curve",
    "CurveSeries",
    "ExamplePair",
    "Funnel",
    "LedgerRow",
    "MethodExamples",
    "OverlapRow",
    "ReasonCount",
    "ReportData",
    "ScoreBlock",
    "ScoreCell",
    "ScoreRow",
    "ScoreTable",
    "Timing",
    "TrainedFor",
    "Version",
    "WeakExample",
]


@dataclass(frozen=True, slots=True)
class ScoreCell:
    """One mean. ``mark`` says how the target stands to this method, by the corrected test.

    ``"below"``: significantly worse than the target; ``"above"``: significantly better than the
    target; ``""``: no detectable difference, or the target itself. ``detectable`` is the smallest
    true difference that the test against the target would find, ``spread`` the standard deviation
    over seeds.
    """

    value: float | None
    mark: Literal["", "below", "above"] = ""
    best: bool = False
    detectable: float | None = None
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class TrainedFor:
    """How long a system's retriever was trained; ``start_kept`` tells that no epoch was better on
    dev than the start, which was kept."""

    steps: int
    start_kept: bool = False

    def __str__(self) -> str:
        return f"{self.steps:,}{' (start kept)' if self.start_kept else ''}"


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One method; a cell for each measure of the table. ``trained`` where a retriever was."""

    method: str
    cells: tuple[ScoreCell, ...]
    target: bool = False
    trained: TrainedFor | None = None


@dataclass(frozen=True, slots=True)
class ScoreBlock:
    """The systems of one retriever, BM25 first; ``best`` in a cell means best of the block.

    ``detectable``: for each measure the true difference that every test of the block would find;
    ``None`` where none of them can tell. ``retriever`` is empty where no system names one.
    """

    retriever: str
    rows: tuple[ScoreRow, ...]
    detectable: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Retrievers × methods × measures; ``tests`` is the size of the family that Holm corrects."""

    measures: tuple[str, ...]
    blocks: tuple[ScoreBlock, ...]
    queries: int
    seeds: int = 1
    tests: int = 0
    alpha: float | None = None

    @property
    def trained(self) -> bool:
        """Whether a row tells of its training."""
        return any(row.trained for block in self.blocks for row in block.rows)


@dataclass(frozen=True, slots=True)
class CostRow:
    """What training one retriever took; ``None`` where its record does not say.

    ``peak_memory`` in bytes; ``teacher`` names supervision from outside, if any.
    """

    what: str
    seconds: float | None
    epochs: int | None
    steps: int | None
    parameters: int | None
    peak_memory: int | None
    teacher: str = ""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One role of labelled queries, what it was used for, and how much of it there is."""

    role: str
    queries: int
    pairs: int
    use: str = ""


@dataclass(frozen=True, slots=True)
class OverlapRow:
    """How many of ``total`` items coincide with a test query or another role."""

    what: str
    count: int
    total: int


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How many weak queries were dropped for one reason of the weak data filter."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Funnel:
    """Weak queries of one method: ``generated`` = sum of ``dropped`` + ``kept``."""

    method: str
    generated: int
    dropped: tuple[ReasonCount, ...]
    kept: int

    def __post_init__(self) -> None:
        if self.generated != self.kept + sum(item.count for item in self.dropped):
            raise ValueError(f"the funnel of {self.method!r} does not add up")


@dataclass(frozen=True, slots=True)
class WeakExample:
    """A weak query as a reader sees it; ``rank`` is that of its source document, from 1."""

    query: str
    document: str
    reason: str
    rank: int | None


@dataclass(frozen=True, slots=True)
class MethodExamples:
    """Some weak queries of one method, from both sides of the decision."""

    method: str
    kept: tuple[WeakExample, ...]
    dropped: tuple[WeakExample, ...]


@dataclass(frozen=True, slots=True)
class CurveSeries:
    """One line of a chart: (x, y) points in the order of x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A chart of a training; ``title`` names the method too, ``best_x`` is the epoch kept."""

    method: str
    title: str
    y_label: str
    series: tuple[CurveSeries, ...]
    x_label: str = "epoch"
    best_x: float | None = None


@dataclass(frozen=True, slots=True)
class ExamplePair:
    """A labelled pair that stands in the prompt."""

    query: str
    document: str


@dataclass(frozen=True, slots=True)
class ChosenExamples:
    """The pairs in one method's prompt, and the S_eval losses of the candidates if scored."""

    method: str
    pairs: tuple[ExamplePair, ...]
    best_loss: float | None = None
    worst_loss: float | None = None
    groups: int | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """A piece of software (or a model, a collection) and its version."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Timing:
    """One step: seconds that making its artefact took, and whether this run reused it."""

    step: str
    seconds: float | None
    reused: bool = False


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything on the page.

    Attributes:
        verdict: the headline first, then its details.
        warnings: what a reader must know before the verdict ("these numbers mean nothing").
        notes: what a reader may want to know about the run; listed behind the scores.
        evaluation: sentences about the evaluation itself, under the table of scores.
        table, family: the scores, and the tests between them.
        labels_used: labelled *pairs* that training or choosing anything read.
        config: the whole config as YAML.
        made: when, as it is to be printed; the page takes no time of its own.
    """

    name: str
    mode: Literal["few_shot", "paper"] = "few_shot"
    verdict: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    table: ScoreTable | None = None
    evaluation: tuple[str, ...] = ()
    family: FamilyComparison | None = None
    ledger: tuple[LedgerRow, ...] = ()
    labels_used: int | None = None
    overlap: tuple[OverlapRow, ...] = ()
    funnels: tuple[Funnel, ...] = ()
    examples: tuple[MethodExamples, ...] = ()
    curves: tuple[Curve, ...] = ()
    chosen: tuple[ChosenExamples, ...] = ()
    costs: tuple[CostRow, ...] = ()
    config: str = ""
    versions: tuple[Version, ...] = ()
    timings: tuple[Timing, ...] = ()
    made: str | None = None
