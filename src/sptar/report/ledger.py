"""What a run did with its labels, in rows and sentences."""

from __future__ import annotations

from collections.abc import Mapping

from sptar.report.reader import RunReader
from sptar.report.records import LedgerRow
from sptar.workspace import Artefact

__all__ = ["label_ledger", "labels_used", "query_documents", "without_role"]

_TITLES = {
    "train": "S_train",
    "evaluation": "S_eval",
    "dev": "retriever-dev",
    "test": "test",
}


def _roles(split: Artefact, mode: str) -> Mapping[str, Mapping[str, int]]:
    roles: dict[str, Mapping[str, int]] = dict(split.manifest.summary["roles"])
    if mode == "few_shot":
        # The dev role *is* S_eval: listing it twice would count its labels twice.
        roles.pop("dev", None)
    return roles


def label_ledger(reader: RunReader, split: Artefact, mode: str) -> tuple[LedgerRow, ...]:
    """Each role with its labels and what this run used them for."""
    tuned = reader.shown("tune")
    prompted = bool(tuned or reader.shown("select"))
    trained = _trains(reader)
    uses = {
        "train": _joined(
            ("tunes the prompt", bool(tuned)),
            ("gives the examples", prompted),
            ("trains the retriever", trained),
        ),
        "evaluation": _joined(
            ("chooses soft prompt and examples", bool(tuned)),
            (
                ("" if tuned else "chooses ") + "the retriever's checkpoint"
                if mode == "few_shot"
                else "trains the retriever",
                trained,
            ),
            last_and=True,
        ),
        "dev": _joined(("chooses the retriever's checkpoint", trained)),
        "test": "read once, at the end",
    }
    drawn = _pairs_of_tuning(reader, tuned)
    rows = []
    for role, counts in _roles(split, mode).items():
        use = uses[role]
        if drawn.get(role, counts["pairs"]) < counts["pairs"]:
            use += (
                f"; the prompt sees {drawn[role]:,} of its pairs, a few of each query "
                "(tune.pairs_per_query)"
            )
        rows.append(LedgerRow(_TITLES[role], counts["queries"], counts["pairs"], use))
    return tuple(rows)


def _joined(*uses: tuple[str, bool], last_and: bool = False) -> str:
    said = [text for text, true in uses if true]
    if not said:
        return "nothing in this run"
    return (", and " if last_and else ", ").join(said)


def _pairs_of_tuning(reader: RunReader, tuned: Mapping[str, str]) -> dict[str, int]:
    """Role → pairs that a tuning read; where it imported an adapter it read none."""
    for system in tuned:
        summary = reader.get(system, "tune").manifest.summary
        if "train_pairs" in summary:
            return {"train": summary["train_pairs"], "evaluation": summary["evaluation_pairs"]}
    return {}


def _trains(reader: RunReader) -> bool:
    return any(
        reader.has(system, step) for system in reader.systems for step in ("train", "choose")
    )


def labels_used(reader: RunReader, split: Artefact, mode: str) -> int:
    """Labelled pairs that trained or chose something: none where nothing was trained."""
    steps = ("tune", "select", "train", "choose")
    if not any(reader.has(system, step) for system in reader.systems for step in steps):
        return 0
    return sum(counts["pairs"] for role, counts in _roles(split, mode).items() if role != "test")


def query_documents(split: Artefact) -> tuple[str, ...]:
    """What became of documents that have the id of a test query."""
    shared = split.manifest.summary.get("test_queries_with_a_document", 0)
    if not shared:
        return ()
    test = split.manifest.summary["roles"]["test"]["queries"]
    if split.manifest.summary["separate_ids"]:
        return (
            f"{shared:,} of {test:,} test queries have the id of a document, which is another "
            "thing than the query and may be found (data.shared_ids).",
        )
    return (
        f"For {shared:,} of {test:,} test queries the document with the query's id is the query "
        "itself: it was left out of the results (data.shared_ids).",
    )


def without_role(split: Artefact) -> tuple[str, ...]:
    """Labelled queries that the split left out."""
    # Splits from before this count was kept have none.
    count = split.manifest.summary.get("provenance", {}).get("left_out", 0)
    if not count:
        return ()
    queries = "1 labelled query has" if count == 1 else f"{count:,} labelled queries have"
    return (f"{queries} no role and can neither train, choose nor test anything in this run.",)
