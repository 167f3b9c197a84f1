"""How the trainings of a run went: losses of the soft prompt, dev scores of the retrievers."""

from __future__ import annotations

from typing import Any

from sptar.evaluation.systems import method_title, parse_system, retriever_title, row_title
from sptar.io import read_json
from sptar.report.reader import RunReader
from sptar.report.records import Curve, CurveSeries
from sptar.workspace import Artefact

__all__ = ["training_curves"]


def training_curves(reader: RunReader) -> tuple[Curve, ...]:
    """With one retriever two charts for each method; with several, the tunings and then a chart
    for each retriever in which its methods are the lines."""
    if reader.several_retrievers:
        tunings = [
            curve
            for name, label in reader.shown("tune").items()
            for curve in _tuning(reader, name, label)
        ]
        return (*tunings, *_by_retriever(reader))
    curves: list[Curve] = []
    for method in reader.systems:
        if reader.has(method, "tune"):
            curves += _tuning(reader, method, method)
        step = "choose" if reader.has(method, "choose") else "train"
        if reader.has(method, step):
            trained = reader.get(method, step)
            curves.append(
                Curve(
                    method,
                    f"{method_title(method)}: retriever on dev",
                    "dev score",
                    (_dev_series("dev", trained),),
                    best_x=float(trained.manifest.summary["best_epoch"]),
                )
            )
    return tuple(curves)


def _tuning(reader: RunReader, name: str, label: str) -> list[Curve]:
    tuned = reader.get(name, "tune")
    history = read_json(tuned.path("history.json"))
    if not history:
        return []
    summary = tuned.manifest.summary
    start = {"epoch": 0, "evaluation_loss": summary["evaluation_loss_before"]}
    return [
        Curve(
            label,
            f"{method_title(label)}: tuning",
            "loss for one token",
            (
                _series("S_train", history, "training_loss"),
                _series("S_eval", [start, *history], "evaluation_loss"),
            ),
            best_x=float(summary["best_epoch"]),
        )
    ]


def _by_retriever(reader: RunReader) -> list[Curve]:
    lines: dict[str, list[CurveSeries]] = {}
    for name, trained in reader.trainings():
        retriever = parse_system(name).retriever or ""
        lines.setdefault(retriever, []).append(_dev_series(row_title(name), trained))
    return [
        Curve(
            retriever,
            f"{retriever_title(retriever) or 'Retriever'}: on dev",
            "dev score",
            tuple(series),
        )
        for retriever, series in lines.items()
    ]


def _dev_series(name: str, trained: Artefact) -> CurveSeries:
    history = read_json(trained.path("history.json"))
    start = {"epoch": 0, "dev_score": trained.manifest.summary["start_dev_score"]}
    return _series(name, [start, *history], "dev_score")


def _series(name: str, history: list[dict[str, Any]], key: str) -> CurveSeries:
    points = tuple(
        (float(row["epoch"]), float(row[key])) for row in history if row.get(key) is not None
    )
    return CurveSeries(name, points)
