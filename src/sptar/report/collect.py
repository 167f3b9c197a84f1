"""Reads the artefacts of a run and writes its page and tables. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sptar.data.collection import Collection
from sptar.errors import WorkspaceError
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.significance import Comparison
from sptar.evaluation.verdict import method_title, verdict
from sptar.io import atomic_write_text, read_json, read_jsonl
from sptar.pipeline import RunRecord
from sptar.report.build import build_report
from sptar.report.examples import choose_examples, count_funnel, excerpt
from sptar.report.records import (
    ChosenExamples,
    Curve,
    CurveSeries,
    ExamplePair,
    Funnel,
    LedgerRow,
    MethodExamples,
    OverlapRow,
    ReportData,
    ScoreTable,
    Timing,
    Version,
)
from sptar.report.tables import (
    comparison_csv,
    describe_counts,
    score_table,
    scores_csv,
    scores_latex,
)
from sptar.weak.filters import decision_from_row
from sptar.weak.select import load_selection
from sptar.workspace import Artefact, Workspace

__all__ = ["PrintedTable", "WrittenReport", "write_report"]

_ROLES = {
    "train": ("S_train", "tunes the prompt, gives the examples, trains the retriever"),
    "evaluation": ("S_eval", "chooses soft prompt and examples"),
    "dev": ("retriever-dev", "chooses the retriever's checkpoint"),
    "test": ("test", "read once, at the end"),
}


@dataclass(frozen=True)
class PrintedTable:
    """The table of methods × measures, as text."""

    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class WrittenReport:
    """Where the report lies and what it says."""

    page: Path
    verdict: tuple[str, ...]
    table: PrintedTable
    means: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return {
            "report": str(self.page),
            "verdict": list(self.verdict),
            "means": self.means,
        }


class _Reader:
    """Artefacts of one run, by method and step."""

    def __init__(self, workspace: Workspace, record: RunRecord) -> None:
        self._workspace = workspace
        self._record = record

    def has(self, method: str, step: str) -> bool:
        return step in self._record.methods[method]

    def get(self, method: str, step: str) -> Artefact:
        """The artefact; of a method whose k was chosen on dev, that of the chosen k."""
        if step in ("train", "pairs", "filter") and self.has(method, "choose"):
            chosen = self.get(method, "choose").manifest
            found = self._input("train", chosen.inputs[f"train_{chosen.summary['k']}"])
            for below in ("pairs", "filter"):
                if step == found.manifest.step:
                    break
                found = self._input(below, found.manifest.inputs[below])
            return found
        return self._record.artefact(self._workspace, method, step)

    def _input(self, step: str, identity: str) -> Artefact:
        found = self._workspace.find(step, identity)
        if found is None:
            raise WorkspaceError(f"The artefact {step}-{identity} is gone.", hint="Run again.")
        return found

    def compare(self) -> Artefact | None:
        for step in self._record.steps:
            if step.name == "compare":
                return self._workspace.find("compare", step.fingerprint)
        return None


def write_report(workspace: Workspace, record: RunRecord) -> WrittenReport:
    """Write ``report.html`` and the tables into the run's folder.

    Raises:
        WorkspaceError: the run is not finished.
    """
    reader = _Reader(workspace, record)
    methods = list(record.methods)
    folder = workspace.run_folder(record.name)
    scores = {
        method: Scores.load(reader.get(method, "evaluate").path("scores.json"))
        for method in methods
    }
    compared = reader.compare()
    comparison = None if compared is None else Comparison.load(compared.path("comparison.json"))
    table = score_table(scores, comparison)
    sentences = () if comparison is None else verdict(comparison)
    collection = Collection.open(reader.get(methods[0], "collection").path("collection"))
    split = reader.get(methods[0], "split")
    funnels, examples = _weak(reader, methods, collection)
    mode = record.config["split"]["mode"]
    data = ReportData(
        name=record.name,
        mode=mode,
        verdict=tuple(sentences),
        warnings=() if record.config["note"] is None else (record.config["note"],),
        notes=_notes(reader, methods),
        table=table,
        evaluation=tuple(describe_counts(scores)),
        comparison=comparison,
        ledger=_ledger(split, mode),
        labels_used=_labels_used(split, mode),
        overlap=_overlap(reader, methods),
        funnels=funnels,
        examples=examples,
        curves=_curves(reader, methods),
        chosen=_chosen(reader, methods),
        config=yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True),
        versions=_versions(reader, methods),
        timings=tuple(
            Timing(f"{step.name} {step.fingerprint[:6]}", step.seconds, step.reused)
            for step in record.steps
        ),
        made=max(reader.get(method, "evaluate").manifest.finished_at for method in methods),
    )
    page = build_report(data, folder / "report.html")
    _write_tables(folder, table, comparison)
    return WrittenReport(
        page=page,
        verdict=tuple(sentences),
        table=_printed(table),
        means={
            method: {str(measure): value for measure, value in own.means().items()}
            for method, own in scores.items()
        },
    )


def _printed(table: ScoreTable) -> PrintedTable:
    marks = {"": "", "below": " -", "above": " +"}
    rows = []
    for row in table.rows:
        cells = [
            "" if cell.value is None else f"{cell.value:.4f}{marks[cell.mark]}"
            for cell in row.cells
        ]
        rows.append([method_title(row.method), *cells])
    return PrintedTable(["method", *table.measures], rows)


def _write_tables(folder: Path, table: ScoreTable, comparison: Comparison | None) -> None:
    atomic_write_text(folder / "scores.csv", scores_csv(table))
    atomic_write_text(folder / "scores.tex", scores_latex(table))
    if comparison is not None:
        atomic_write_text(folder / "comparison.csv", comparison_csv(comparison))


def _roles(split: Artefact, mode: str) -> Mapping[str, Mapping[str, int]]:
    roles: dict[str, Mapping[str, int]] = dict(split.manifest.summary["roles"])
    if mode == "few_shot":
        # The dev role *is* S_eval: listing it twice would count its labels twice.
        roles.pop("dev", None)
    return roles


def _ledger(split: Artefact, mode: str) -> tuple[LedgerRow, ...]:
    rows = []
    for role, counts in _roles(split, mode).items():
        title, use = _ROLES[role]
        if role == "evaluation":
            use += (
                ", and the retriever's checkpoint"
                if mode == "few_shot"
                else ", and trains the retriever"
            )
        rows.append(LedgerRow(title, counts["queries"], counts["pairs"], use))
    return tuple(rows)


def _labels_used(split: Artefact, mode: str) -> int:
    return sum(counts["pairs"] for role, counts in _roles(split, mode).items() if role != "test")


def _notes(reader: _Reader, methods: list[str]) -> tuple[str, ...]:
    notes: list[str] = []
    for method in methods:
        if reader.has(method, "augment"):
            summary = reader.get(method, "augment").manifest.summary
            if summary["documents_cut"]:
                notes.append(
                    f"{method_title(method)}: {summary['documents_cut']:,} of "
                    f"{summary['documents']:,} documents were longer than the prompt's budget and "
                    "were cut."
                )
        if reader.has(method, "import_weak"):
            summary = reader.get(method, "import_weak").manifest.summary
            notes.append(
                f"{method_title(method)}: {summary['rows']:,} weak queries were imported; "
                f"{summary['not_to_augment']:,} rows were left out because their documents are "
                "judged for labelled queries."
            )
        if reader.has(method, "pairs") and method != "no_augmentation":
            summary = reader.get(method, "pairs").manifest.summary
            if summary["weak"] != summary["weak_available"]:
                notes.append(
                    f"{method_title(method)}: {summary['weak']:,} of "
                    f"{summary['weak_available']:,} kept weak pairs were used, to make the methods "
                    "equal."
                )
        if reader.has(method, "choose"):
            summary = reader.get(method, "choose").manifest.summary
            notes.append(
                f"{method_title(method)}: the cut-off k = {summary['k']} was chosen on dev "
                f"(dev scores: {summary['dev_scores']})."
            )
    return tuple(notes)


def _overlap(reader: _Reader, methods: list[str]) -> tuple[OverlapRow, ...]:
    rows = []
    seen_labels = False
    for method in methods:
        if not reader.has(method, "pairs"):
            continue
        summary = reader.get(method, "pairs").manifest.summary
        parts = [("weak", f"{method_title(method)}: weak queries", summary["weak"])]
        if not seen_labels:
            parts.insert(0, ("label", "training labels", summary["labels"]))
            seen_labels = True
        for key, what, total in parts:
            if not total:
                continue
            found = summary["overlap_with_test"][key]
            rows.append(OverlapRow(f"{what} that equal a test query", found["exact"], total))
            rows.append(OverlapRow(f"{what} that nearly equal one", found["near"], total))
    return tuple(rows)


def _weak(
    reader: _Reader, methods: list[str], collection: Collection
) -> tuple[tuple[Funnel, ...], tuple[MethodExamples, ...]]:
    funnels = []
    examples = []
    for method in methods:
        if not reader.has(method, "filter"):
            continue
        decisions = [
            decision_from_row(row)
            for _, row in read_jsonl(reader.get(method, "filter").path("decisions.jsonl"))
        ]
        funnels.append(count_funnel(method, decisions))
        examples.append(choose_examples(method, decisions, collection.corpus))
    return tuple(funnels), tuple(examples)


def _series(name: str, history: list[dict[str, Any]], key: str) -> CurveSeries:
    points = tuple(
        (float(row["epoch"]), float(row[key])) for row in history if row.get(key) is not None
    )
    return CurveSeries(name, points)


def _curves(reader: _Reader, methods: list[str]) -> tuple[Curve, ...]:
    curves = []
    for method in methods:
        if reader.has(method, "tune"):
            tuned = reader.get(method, "tune")
            history = read_json(tuned.path("history.json"))
            if history:
                summary = tuned.manifest.summary
                start = {"epoch": 0, "evaluation_loss": summary["evaluation_loss_before"]}
                curves.append(
                    Curve(
                        method,
                        f"{method_title(method)}: tuning",
                        "loss for one token",
                        (
                            _series("S_train", history, "training_loss"),
                            _series("S_eval", [start, *history], "evaluation_loss"),
                        ),
                        best_x=float(summary["best_epoch"]),
                    )
                )
        step = "choose" if reader.has(method, "choose") else "train"
        if reader.has(method, step):
            trained = reader.get(method, step)
            history = read_json(trained.path("history.json"))
            summary = trained.manifest.summary
            start = {"epoch": 0, "dev_score": summary["start_dev_score"]}
            curves.append(
                Curve(
                    method,
                    f"{method_title(method)}: retriever on dev",
                    "dev score",
                    (_series("dev", [start, *history], "dev_score"),),
                    best_x=float(summary["best_epoch"]),
                )
            )
    return tuple(curves)


def _chosen(reader: _Reader, methods: list[str]) -> tuple[ChosenExamples, ...]:
    chosen = []
    for method in methods:
        if not reader.has(method, "select"):
            continue
        selection = load_selection(reader.get(method, "select").path("selection.json"))
        chosen.append(
            ChosenExamples(
                method,
                tuple(
                    ExamplePair(pair.query.text, excerpt(pair.document.full_text))
                    for pair in selection.examples
                ),
                selection.best.loss,
                selection.worst.loss,
                len(selection.groups),
            )
        )
    return tuple(chosen)


def _versions(reader: _Reader, methods: list[str]) -> tuple[Version, ...]:
    found: dict[str, str] = {}
    for method in methods:
        found.update(reader.get(method, "evaluate").manifest.versions)
    return tuple(Version(name, version) for name, version in found.items())
