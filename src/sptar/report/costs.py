"""What the trainings of a run took, and which of them had a teacher from outside."""

from __future__ import annotations

from sptar.evaluation.systems import method_title, parse_system, retriever_title
from sptar.io import read_json
from sptar.report.reader import RunReader, trained_retriever
from sptar.report.records import CostRow, TrainedFor
from sptar.retrieval.specs import RETRIEVERS
from sptar.workspace import Artefact

__all__ = [
    "kept_starts",
    "teacher_warnings",
    "trained_for",
    "training_costs",
    "unequal_steps",
]


def training_costs(reader: RunReader) -> tuple[CostRow, ...]:
    """A row for each training of a retriever: those of the systems, then teachers and candidates
    that were not chosen. Reads manifests only."""
    own = list(reader.trainings())
    rows = [_row(reader, method_title(name), found) for name, found in own]
    for found in reader.others_like({artefact.fingerprint for _, artefact in own}):
        step = found.manifest.step.replace("_", " ")
        words = [step, retriever_title(trained_retriever(found) or ""), found.fingerprint[:6]]
        rows.append(_row(reader, " ".join(word for word in words if word), found))
    return tuple(rows)


def _row(reader: RunReader, what: str, training: Artefact) -> CostRow:
    summary = training.manifest.summary
    return CostRow(
        what=what,
        seconds=training.manifest.seconds,
        epochs=summary.get("epochs"),
        steps=summary.get("steps"),
        parameters=summary.get("parameters"),
        peak_memory=summary.get("peak_memory_bytes"),
        teacher=", ".join(_teachers(reader, training)),
    )


def _teachers(reader: RunReader, training: Artefact) -> list[str]:
    """Names of the teachers that this run did not train itself."""
    retriever = trained_retriever(training)
    row = RETRIEVERS.get(retriever or "")
    if row is None or row.loss != "margin_mse":
        return []
    recipe = reader.recipe(row.name)
    names = [] if recipe is None else [recipe.teacher, recipe.in_batch_teacher]
    return list(dict.fromkeys(name for name in names if name not in ("own", "none")))


def teacher_warnings(reader: RunReader) -> tuple[str, ...]:
    """A sentence for each teacher from outside, with the systems that learned from it."""
    pupils: dict[str, list[str]] = {}
    for name, found in reader.trainings():
        for teacher in _teachers(reader, found):
            pupils.setdefault(teacher, []).append(method_title(name))
    return tuple(
        f"Supervision from outside: {'; '.join(names)} learned from the teacher '{teacher}'. A "
        "teacher that was trained on labels elsewhere is supervision that the other systems did "
        "not have."
        for teacher, names in pupils.items()
    )


def trained_for(reader: RunReader) -> dict[str, TrainedFor]:
    """System → the steps of its one training; systems without one, or with two, are left out."""
    found = {}
    for name in reader.systems:
        if reader.has(name, "train") or reader.has(name, "choose"):
            summary = reader.get(name, "train").manifest.summary
            if "steps" in summary:
                found[name] = TrainedFor(summary["steps"], summary.get("best_epoch") == 0)
    return found


def kept_starts(reader: RunReader) -> tuple[str, ...]:
    """A sentence for each training that no epoch of was better on dev than its start."""
    notes = []
    for name, found in reader.trainings():
        summary = found.manifest.summary
        if summary.get("best_epoch") != 0 or summary.get("start_dev_score") is None:
            continue
        epochs = [row["dev_score"] for row in read_json(found.path("history.json"))]
        best = f" (best epoch {max(epochs):.4f})" if epochs else ""
        notes.append(
            f"{method_title(name)}: training did not help. The start encoder was kept, because no "
            f"epoch was better on dev than its {summary['start_dev_score']:.4f}{best}. "
            "`train.keep: best` keeps an epoch all the same."
        )
    return tuple(notes)


def unequal_steps(reader: RunReader) -> tuple[str, ...]:
    """A sentence for each retriever whose methods were not trained for the same number of steps."""
    by_retriever: dict[str, dict[str, int]] = {}
    for name, found in reader.trainings():
        steps = found.manifest.summary.get("steps")
        if steps is not None:
            retriever = parse_system(name).retriever or ""
            by_retriever.setdefault(retriever, {})[name] = steps
    return tuple(
        f"{retriever_title(retriever) + ': the' if retriever else 'The'} methods were not trained "
        f"equally long ({', '.join(f'{method_title(n)} {s:,} steps' for n, s in steps.items())}), "
        "as `train.steps_per_epoch` or `train.patience` asks: part of a difference may come from "
        "that."
        for retriever, steps in by_retriever.items()
        if len(set(steps.values())) > 1
    )
