"""Answers a question from the artefacts of a finished run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sptar.data.collection import Collection
from sptar.errors import ConfigError, WorkspaceError
from sptar.pipeline import RunRecord, load_record
from sptar.types import Query
from sptar.workspace import Workspace

__all__ = ["Answer", "Hit", "answer"]

_EXCERPT = 200


@dataclass(frozen=True)
class Hit:
    """One document that was found; ``rank`` counts from 1."""

    rank: int
    score: float
    doc_id: str
    title: str
    excerpt: str


@dataclass(frozen=True)
class Answer:
    """The best documents for a question."""

    run: str
    method: str
    query: str
    hits: tuple[Hit, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return asdict(self)


def _choose(record: RunRecord, method: str | None) -> str:
    if method is not None:
        return method
    names = list(record.methods)
    dense = [name for name in names if "encode" in record.methods[name]]
    for name in dense:
        if name.partition("@")[0] == "sptar":
            return name
    return (dense or names)[-1]


def answer(
    workspace: Workspace, text: str, *, run: str | None, method: str | None, top: int
) -> Answer:
    """The ``top`` best documents for ``text``.

    Raises:
        ConfigError: the question is empty.
        WorkspaceError: there is no such run or method, or it is not finished.
    """
    if not text.strip():
        raise ConfigError("The question is empty.", hint='Type: sptar search "your question"')
    if run is None:
        names = workspace.run_names()
        if not names:
            raise WorkspaceError(
                f"There is no run in {workspace.root}.", hint="Type: sptar run CONFIG"
            )
        run = names[-1]
    record = load_record(workspace, run)
    method = _choose(record, method)
    collection = Collection.open(
        record.artefact(workspace, method, "collection").path("collection")
    )
    # An id that no document has, so that nothing is taken for the question itself.
    query = Query("\0question", text)
    if "encode" in record.methods[method]:
        from sptar.config import parse_config
        from sptar.retrieval.index import DenseIndex
        from sptar.steps.encode import encoder_of, vector_files

        config = parse_config(record.config, where=f"run '{run}'")
        steps = record.methods[method]
        step = next((name for name in ("choose", "train") if name in steps), None)
        trained = None if step is None else record.artefact(workspace, method, step)
        encoded = record.artefact(workspace, method, "encode")
        encoder = encoder_of(config.train, trained)
        index = DenseIndex(vector_files(encoded), collection.corpus)
        found = index.search(encoder.encode_queries([query]), [query], top)
    else:
        from sptar.retrieval.bm25 import Bm25Index

        folder = record.artefact(workspace, method, "bm25_index").path("index")
        found = Bm25Index.load(folder, collection.corpus).search([query], top)
    hits = []
    ordered = sorted(found.get(query.query_id, {}).items(), key=lambda item: (-item[1], item[0]))
    for rank, (doc_id, score) in enumerate(ordered, start=1):
        document = collection.corpus.get(doc_id)
        excerpt = document.text[:_EXCERPT] + ("…" if len(document.text) > _EXCERPT else "")
        hits.append(Hit(rank, float(score), doc_id, document.title, excerpt))
    return Answer(run, method, text, tuple(hits))
