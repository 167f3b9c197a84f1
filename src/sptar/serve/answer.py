"""Answers a question from the artefacts of a finished run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sptar.config import RunConfig, TrainConfig, parse_config
from sptar.data.collection import Collection
from sptar.errors import ConfigError, WorkspaceError
from sptar.methods import TARGET
from sptar.pipeline import RunRecord, load_record
from sptar.types import Query, Run
from sptar.workspace import Artefact, Workspace

__all__ = ["Answer", "Hit", "answer", "choose_method"]

_EXCERPT = 200
_RUNS = ("fuse", "rerank", "search", "dense_search", "bm25_search")
"""Steps that answer queries, the ones that stand on others first; `dense_search` is the name that
`search` had before there were several retrievers."""
_TRAINED = ("choose", "train")


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


def choose_method(record: RunRecord, wanted: str | None = None) -> str:
    """The method of a run that answers: the wanted one, else the one of the verdict.

    In a run with several retrievers a method means that method with the first of them.
    """
    names = list(record.methods)
    if wanted in names:
        return wanted
    searching = [name for name in names if record.retriever(name) is not None]
    for name in searching:
        method = name.partition("/")[0]
        if (wanted or TARGET.name) in (method, method.partition("@")[0]):
            return name
    return (searching or names)[-1] if wanted is None else wanted


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
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError("The question is no UTF-8 text.") from None
    if run is None:
        names = workspace.run_names()
        if not names:
            raise WorkspaceError(
                f"There is no run in {workspace.root}.", hint="Type: sptar run CONFIG"
            )
        finished = [name for name in names if load_record(workspace, name).finished]
        run = (finished or names)[-1]
    record = load_record(workspace, run)
    method = choose_method(record, method)
    collection = Collection.open(
        record.artefact(workspace, method, "collection").path("collection")
    )
    query = Query("question", text, is_document=False)
    step = next((name for name in _RUNS if name in record.methods[method]), _RUNS[-1])
    config = parse_config(record.config, where=f"run '{run}'")
    asked = _Asked(workspace, config, collection, query)
    found = asked.run(record.artefact(workspace, method, step), top)
    hits = []
    ordered = sorted(found.get(query.query_id, {}).items(), key=lambda item: (-item[1], item[0]))
    for rank, (doc_id, score) in enumerate(ordered, start=1):
        document = collection.corpus.get(doc_id)
        excerpt = document.text[:_EXCERPT] + ("…" if len(document.text) > _EXCERPT else "")
        hits.append(Hit(rank, float(score), doc_id, document.title, excerpt))
    return Answer(run, method, text, tuple(hits))


@dataclass(frozen=True)
class _Asked:
    """A question on its way back through the artefacts that a run was made from."""

    workspace: Workspace
    config: RunConfig
    collection: Collection
    query: Query

    def run(self, answered: Artefact, top: int) -> Run:
        """The best documents, found the way the test queries were answered."""
        step = answered.manifest.step
        if step == "fuse":
            return self._fuse(answered, top)
        if step == "rerank":
            return self._rerank(answered, top)
        if step == "bm25_search":
            from sptar.retrieval.lexical.bm25 import Bm25Index

            folder = self._input(answered, "bm25_index").path("index")
            return Bm25Index.load(folder, self.collection.corpus).search([self.query], top)
        return self._search(answered, top)

    def _search(self, answered: Artefact, top: int) -> Run:
        from sptar.steps.resources import encoder_of, vector_files
        from sptar.steps.search import found_by

        encoded = self._input(answered, "encode")
        return found_by(
            encoder_of(self._recipe(encoded), self._trained(answered)),
            vector_files(encoded),
            self.collection.corpus,
            [self.query],
            self._candidates(answered),
            top,
        )

    def _rerank(self, answered: Artefact, top: int) -> Run:
        from sptar.steps.rerank import reranker_of

        encoded = None
        if "encode" in answered.manifest.inputs:
            encoded = self._input(answered, "encode")
        trained = self._trained(answered)
        recipe = self._recipe(encoded or trained or answered)
        corpus = self.collection.corpus
        reranker = reranker_of(recipe, trained, encoded, corpus)
        candidates = self._candidates(answered) or {}
        return reranker.rerank([self.query], candidates, corpus, top)

    def _fuse(self, answered: Artefact, top: int) -> Run:
        from sptar.steps.fuse import join_runs

        depth = int(answered.manifest.settings["top_k"])
        first, second = (
            self.run(self._input(answered, part, _RUNS), depth) for part in ("first", "second")
        )
        return join_runs(first, second, self.config.search, top)

    def _candidates(self, answered: Artefact) -> Run | None:
        if "candidates" not in answered.manifest.inputs:
            return None
        found = self._input(answered, "candidates", _RUNS)
        return self.run(found, int(found.manifest.settings["top_k"]))

    def _trained(self, answered: Artefact) -> Artefact | None:
        if "train" not in answered.manifest.inputs:
            return None
        return self._input(answered, "train", _TRAINED)

    def _recipe(self, made: Artefact) -> TrainConfig:
        from sptar.steps.recipes import recipe_of

        # Artefacts of the time when there was one row do not name it.
        return recipe_of(self.config, made.manifest.summary.get("retriever", "dpr"))

    def _input(self, made: Artefact, name: str, steps: tuple[str, ...] = ()) -> Artefact:
        """The artefact that another one was made from, under this name of the input."""
        identity = made.manifest.inputs[name]
        for step in steps or (name,):
            found = self.workspace.find(step, identity)
            if found is not None:
                return found
        raise WorkspaceError(
            f"What {made.folder} was made from is gone ({name} {identity}).",
            hint="Finish the run again: sptar run CONFIG",
        )
