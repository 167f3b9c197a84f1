"""TREC runs, and judgements beside them, as other programs read them.

trec_eval reads scores as float32 and orders equal ones by document id, descending. What is written
here has no equal scores, so its order is that of :mod:`sptar.evaluation`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

from sptar.errors import DataError
from sptar.io import atomic_path, atomic_write_text, lines, text_writer
from sptar.types import Qrels, Run

__all__ = ["NO_DOCUMENT", "falling_scores", "read_run", "write_run", "write_trec_qrels"]


def write_trec_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write TREC's four columns, in the order given."""
    rows = [
        f"{query_id} 0 {doc_id} {grade}\n"
        for query_id, judged in qrels.items()
        for doc_id, grade in judged.items()
    ]
    atomic_write_text(path, "".join(rows))


NO_DOCUMENT = "no_document_found"
"""Stands, at rank 0, in a TREC run for a query that found nothing. Nobody judges it, so every
measure is 0 there, and programs that look only at the queries of a run look at this one too."""

_LEAST_STEP = 2.0**-126


def _float32(value: float) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def _next_below(value: float) -> float:
    """The largest of float32's normal numbers that is smaller than one of them."""
    if 0 < value <= _LEAST_STEP:
        return 0.0
    if -_LEAST_STEP < value <= 0:
        return -_LEAST_STEP
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    found: float = struct.unpack("<f", struct.pack("<i", bits - 1 if value > 0 else bits + 1))[0]
    return found


def falling_scores(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Documents, best first (ties by id, ascending), with scores that fall strictly as float32.

    trec_eval reads scores in that format and orders equal ones by id, descending. A score that is
    not below the one before it is the next smaller number instead; all others stay as they are.

    Raises:
        OverflowError: a score is too large for float32.

    >>> falling_scores({"b": 0.0, "a": 0.0, "c": 2.5})
    [('c', 2.5), ('a', 0.0), ('b', -1.1754943508222875e-38)]
    """
    found: list[tuple[str, float]] = []
    last: float | None = None
    for doc_id, score in sorted(scores.items(), key=lambda item: (-item[1], item[0])):
        rounded = _float32(score)
        if last is not None and rounded >= last:
            score = rounded = _next_below(last)
        found.append((doc_id, score))
        last = rounded
    return found


def write_run(path: str | Path, run: Run, tag: str) -> None:
    """Write a TREC run that trec_eval measures as :mod:`sptar.evaluation` does.

    Best first, ties by document id ascending and told apart (:func:`falling_scores`); a query that
    found nothing has one line, :data:`NO_DOCUMENT` at rank 0. White space inside an id cannot be
    written in this format.

    Raises:
        DataError: an id holds white space, or a score is too large for the programs that read runs.
    """
    with atomic_path(path) as temporary, text_writer(temporary) as write:
        for query_id, scores in run.items():
            try:
                order = falling_scores(scores)
            except OverflowError:
                raise DataError(
                    f"a score of query {query_id!r} is too large for a TREC run (float32).",
                    path=path,
                ) from None
            ranked = [(doc_id, rank, score) for rank, (doc_id, score) in enumerate(order, start=1)]
            for doc_id, rank, score in ranked or [(NO_DOCUMENT, 0, 0.0)]:
                if len(query_id.split()) != 1 or len(doc_id.split()) != 1:
                    raise DataError(
                        f"the ids {query_id!r} and {doc_id!r} cannot stand in a TREC run: an id "
                        "must not be empty or hold white space.",
                        path=path,
                        hint="Rename the ids in the collection.",
                    )
                write(f"{query_id} Q0 {doc_id} {rank} {score!r} {tag}\n")


def read_run(path: str | Path) -> Run:
    """Read a TREC run; a query with the line for "found nothing" has no documents.

    Raises:
        DataError: a row is broken, or a query holds a document twice.
    """
    run: Run = {}
    for number, text in lines(path):
        if not text.strip():
            continue
        parts = text.split()
        if len(parts) != 6:
            raise DataError(
                f"{len(parts)} columns where a TREC run has 6 (query Q0 document rank score tag).",
                path=path,
                line=number,
            )
        try:
            score = float(parts[4])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(f"the score {parts[4]!r} is no number.", path=path, line=number)
        scores = run.setdefault(parts[0], {})
        if (parts[2], parts[3]) == (NO_DOCUMENT, "0"):
            continue
        if parts[2] in scores:
            raise DataError(
                f"document {parts[2]} stands twice under query {parts[0]}.", path=path, line=number
            )
        scores[parts[2]] = score
    return run
