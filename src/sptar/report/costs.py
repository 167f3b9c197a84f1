"""What the trainings of a run took, and which of them had a teacher from outside."""

from __future__ import annotations

from sptar.evaluation.systems import method_title, retriever_title
from sptar.report.reader import RunReader, trained_retriever
from sptar.report.records import CostRow
from sptar.retrieval.specs import RETRIEVERS
from sptar.workspace import Artefact

__all__ = ["teacher_warnings", "training_costs"]


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
