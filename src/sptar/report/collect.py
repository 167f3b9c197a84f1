"""Reads the artefacts of a run and writes its page and tables. Computes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sptar.data.collection import Collection
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.family import FamilyComparison
from sptar.evaluation.systems import method_title, parse_system
from sptar.evaluation.verdict import family_verdict
from sptar.io import atomic_write_text, read_jsonl
from sptar.methods import TARGET, method_named
from sptar.pipeline import RunRecord
from sptar.report.build import build_report
from sptar.report.costs import (
    kept_starts,
    teacher_warnings,
    trained_for,
    training_costs,
    unequal_steps,
)
from sptar.report.curves import training_curves
from sptar.report.examples import choose_examples, count_funnel, excerpt
from sptar.report.ledger import label_ledger, labels_used, query_documents, without_role
from sptar.report.nothing_kept import said_of_nothing, systems_without_weak_pairs
from sptar.report.printed import PrintedTable, print_scores
from sptar.report.reader import RunReader
from sptar.report.records import (
    ChosenExamples,
    ExamplePair,
    Funnel,
    MethodExamples,
    OverlapRow,
    ReportData,
    Timing,
    Version,
)
from sptar.report.run_files import write_run_files
from sptar.report.table_files import comparison_csv, scores_csv, scores_latex
from sptar.report.tables import describe_counts, score_table
from sptar.weak.filters import decision_from_row
from sptar.weak.select import load_selection
from sptar.workspace import Workspace

__all__ = ["PrintedTable", "WrittenReport", "write_report"]


@dataclass(frozen=True)
class WrittenReport:
    """Where the report lies and what it says."""

    page: Path
    verdict: tuple[str, ...]
    table: PrintedTable
    means: dict[str, dict[str, float]] = field(default_factory=dict)
    examples: MethodExamples | None = None
    """Weak queries of the method of the verdict; ``None`` when no method wrote any."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return {
            "report": str(self.page),
            "verdict": list(self.verdict),
            "means": self.means,
        }


def write_report(
    workspace: Workspace, record: RunRecord, folder: Path | None = None
) -> WrittenReport:
    """Write ``report.html`` and the tables into a folder, by default the run's.

    Raises:
        WorkspaceError: the run is not finished.
    """
    reader = RunReader(workspace, record)
    methods = reader.systems
    folder = folder or workspace.run_folder(record.name)
    scores = {
        method: Scores.load(reader.get(method, "evaluate").path("scores.json"))
        for method in methods
    }
    compared = reader.compare()
    family = None if compared is None else FamilyComparison.load(compared.path("comparison.json"))
    table = score_table(scores, family, trained=trained_for(reader))
    collection = Collection.open(reader.get(methods[0], "collection").path("collection"))
    empty = systems_without_weak_pairs(reader)
    verdict = (
        *said_of_nothing(reader, empty, collection, record.config),
        *(() if family is None else family_verdict(family, left_out=empty)),
    )
    split = reader.get(methods[0], "split")
    funnels, examples = _weak(reader, collection)
    mode = record.config["split"]["mode"]
    note = () if record.config["note"] is None else (record.config["note"],)
    data = ReportData(
        name=record.name,
        mode=mode,
        verdict=verdict,
        warnings=(*note, *teacher_warnings(reader)),
        notes=(
            *without_role(split),
            *_notes(reader),
            *kept_starts(reader),
            *unequal_steps(reader),
            *_left_out(record),
        ),
        table=table,
        evaluation=(*describe_counts(scores), *query_documents(split)),
        family=family,
        ledger=label_ledger(reader, split, mode),
        labels_used=labels_used(reader, split, mode),
        overlap=_overlap(reader),
        funnels=funnels,
        examples=examples,
        curves=training_curves(reader),
        chosen=_chosen(reader),
        costs=training_costs(reader),
        config=yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True),
        versions=_versions(reader),
        timings=tuple(
            Timing(f"{step.name} {step.fingerprint[:6]}", step.seconds, step.reused)
            for step in record.steps
        ),
        made=max(reader.get(method, "evaluate").manifest.finished_at for method in methods),
    )
    page = build_report(data, folder / "report.html")
    atomic_write_text(folder / "scores.csv", scores_csv(table))
    atomic_write_text(folder / "scores.tex", scores_latex(table))
    if family is not None:
        atomic_write_text(folder / "comparison.csv", comparison_csv(family))
    write_run_files(reader, record, scores, collection, folder)
    return WrittenReport(
        page=page,
        verdict=verdict,
        table=print_scores(table),
        means={
            method: {str(measure): value for measure, value in own.means().items()}
            for method, own in scores.items()
        },
        examples=_of_verdict(examples),
    )


def _notes(reader: RunReader) -> tuple[str, ...]:
    notes: list[str] = []
    steps = ("augment", "tune", "import_weak", "pairs", "choose")
    shown = {step: reader.shown(step) for step in steps}
    for method in reader.systems:
        if method in shown["augment"]:
            title = method_title(shown["augment"][method])
            summary = reader.get(method, "augment").manifest.summary
            if summary["documents_cut"]:
                notes.append(
                    f"{title}: {summary['documents_cut']:,} of {summary['documents']:,} documents "
                    "were longer than the prompt's budget and were cut."
                )
            # Weak queries from before this was counted have no such number.
            unfinished = summary.get("unfinished", 0)
            if unfinished:
                notes.append(
                    f"{title}: {unfinished:,} of {summary['rows']:,} weak queries ran into the "
                    "limit of new tokens before their end (`augment.max_new_tokens`)."
                )
        if method in shown["tune"]:
            summary = reader.get(method, "tune").manifest.summary
            if summary.get("cut_queries"):
                pairs = summary["train_pairs"] + summary["evaluation_pairs"]
                notes.append(
                    f"{method_title(shown['tune'][method])}: {summary['cut_queries']:,} of "
                    f"{pairs:,} labelled queries were longer than `prompt.max_query_tokens` and "
                    "were cut in tuning."
                )
        if method in shown["import_weak"]:
            title = method_title(shown["import_weak"][method])
            summary = reader.get(method, "import_weak").manifest.summary
            notes.append(
                f"{title}: {summary['rows']:,} weak queries were imported; "
                f"{summary['not_to_augment']:,} rows were left out because their documents are "
                "judged for labelled queries."
            )
        if (
            method in shown["pairs"]
            and method_named(parse_system(method).method).takes_weak_queries
        ):
            title = method_title(shown["pairs"][method])
            summary = reader.get(method, "pairs").manifest.summary
            if summary["weak"] != summary["weak_available"]:
                notes.append(
                    f"{title}: {summary['weak']:,} of {summary['weak_available']:,} kept weak "
                    "pairs were used, to make the methods equal."
                )
        if method in shown["choose"]:
            summary = reader.get(method, "choose").manifest.summary
            notes.append(
                f"{method_title(shown['choose'][method])}: the cut-off k = {summary['k']} was "
                f"chosen on dev (dev scores: {summary['dev_scores']})."
            )
    return tuple(notes)


def _left_out(record: RunRecord) -> tuple[str, ...]:
    return tuple(
        f"{method_title(name)} is left out: {reason}" for name, reason in record.left_out.items()
    )


def _overlap(reader: RunReader) -> tuple[OverlapRow, ...]:
    rows = []
    seen_labels = False
    for method, label in reader.shown("pairs").items():
        summary = reader.get(method, "pairs").manifest.summary
        parts = [("weak", f"{method_title(label)}: weak queries", summary["weak"])]
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
    reader: RunReader, collection: Collection
) -> tuple[tuple[Funnel, ...], tuple[MethodExamples, ...]]:
    funnels = []
    examples = []
    for method, label in reader.shown("filter").items():
        decisions = [
            decision_from_row(row)
            for _, row in read_jsonl(reader.get(method, "filter").path("decisions.jsonl"))
        ]
        funnels.append(count_funnel(label, decisions))
        examples.append(choose_examples(label, decisions, collection.corpus))
    return tuple(funnels), tuple(examples)


def _of_verdict(examples: tuple[MethodExamples, ...]) -> MethodExamples | None:
    """The examples of the package's own method, else those of the last one that has some."""
    own = [item for item in examples if parse_system(item.method).method == TARGET.name]
    return own[0] if own else examples[-1] if examples else None


def _chosen(reader: RunReader) -> tuple[ChosenExamples, ...]:
    chosen = []
    for method, label in reader.shown("select").items():
        selection = load_selection(reader.get(method, "select").path("selection.json"))
        chosen.append(
            ChosenExamples(
                label,
                tuple(
                    ExamplePair(pair.query.text, excerpt(pair.document.full_text))
                    for pair in selection.examples
                ),
                selection.best.loss,
                selection.worst.loss if selection.exhaustive else None,
                len(selection.groups),
            )
        )
    return tuple(chosen)


def _versions(reader: RunReader) -> tuple[Version, ...]:
    found: dict[str, str] = {}
    for method in reader.systems:
        found.update(reader.get(method, "evaluate").manifest.versions)
    return tuple(Version(name, version) for name, version in (found | _formats(reader)).items())


def _formats(reader: RunReader) -> dict[str, str]:
    """What was calculated in which number format, as the artefacts say it."""
    found: dict[str, set[str]] = {}
    for method in reader.systems:
        for step, what, key in (
            ("augment", "language model", "dtype"),
            ("train", "training", "dtype"),
            ("train", "encoding", "encode_dtype"),
            ("encode", "encoding", "encode_dtype"),
        ):
            if not reader.has(method, step):
                continue
            settings = reader.get(method, step).manifest.settings
            if step == "encode" and "start" not in settings:
                continue  # of a trained retriever: its training says it
            value = settings.get("train", settings).get(key, "float32")
            found.setdefault(f"number format, {what}", set()).add(value)
    return {what: ", ".join(sorted(values)) for what, values in found.items()}
