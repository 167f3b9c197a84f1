"""Step ``search``: the run of a retriever that looks at the whole corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from sptar.config import TrainConfig
from sptar.steps.base import Context, Output, Step
from sptar.steps.resources import (
    encoder_of,
    open_collection,
    open_split,
    queries_of,
    vector_files,
)
from sptar.trec import read_run, write_run
from sptar.types import Corpus, Query, Run
from sptar.workspace import Artefact

if TYPE_CHECKING:
    from sptar.retrieval.retriever import CorpusEncoder, Reranker

__all__ = ["SearchStep", "found_by"]


def found_by(
    encoder: CorpusEncoder,
    files: Sequence[Path],
    corpus: Corpus,
    queries: Sequence[Query],
    candidates: Run | None,
    top_k: int,
) -> Run:
    """The best documents over the saved blocks of an encoder, or the best among candidates."""
    searcher = encoder.searcher(files, corpus)
    if candidates is None:
        return searcher.search(queries, top_k)
    # The searcher of late interaction, the only one that is given candidates, reranks as well.
    return cast("Reranker", searcher).rerank(queries, candidates, corpus, top_k)


@dataclass(frozen=True, kw_only=True)
class SearchStep(Step):
    """Answers the test queries with a retriever, exactly.

    With ``candidates`` only the documents of that run are compared with a query, for retrievers to
    which the whole corpus is too much (late interaction).
    """

    name: ClassVar[str] = "search"
    version: ClassVar[int] = 2
    collection: Step
    split: Step
    encode: Step
    train: Step | None
    candidates: Step | None
    recipe: TrainConfig
    top_k: int

    @property
    def settings(self) -> dict[str, Any]:
        """Depth of the run."""
        return {"top_k": self.top_k}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Search and write the TREC run."""
        collection = open_collection(inputs, context)
        queries = queries_of(collection, open_split(inputs, context).test)
        recipe = self.recipe
        encoder = encoder_of(recipe, inputs.get("train"), context.progress)
        candidates = None
        if "candidates" in inputs:
            candidates = read_run(inputs["candidates"].path("run.trec.gz"))
        files = vector_files(inputs["encode"])
        run = found_by(encoder, files, collection.corpus, queries, candidates, self.top_k)
        every: Run = {query.query_id: run.get(query.query_id, {}) for query in queries}
        write_run(output.path("run.trec.gz"), every, recipe.retriever)
        return {"queries": len(queries), "retriever": recipe.retriever}
