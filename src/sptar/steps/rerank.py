"""Step ``rerank``: BM25's best documents of each query, ordered anew by a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from sptar.blocks import Block, JsonlBlocks
from sptar.config import TrainConfig
from sptar.executors.local import Worker
from sptar.io import read_jsonl
from sptar.progress import silent
from sptar.steps.base import Context, Output, Step
from sptar.steps.bm25 import Bm25SearchStep
from sptar.steps.recipes import models_of
from sptar.steps.resources import (
    encoder_of,
    open_collection,
    open_split,
    queries_of,
    release_language_model,
    vector_files,
)
from sptar.steps.workers import run_blocks
from sptar.trec import read_run, write_run
from sptar.types import Corpus, Progress, Run
from sptar.workspace import Artefact

if TYPE_CHECKING:
    from sptar.retrieval.dense.index import QueryEncoder
    from sptar.retrieval.retriever import Reranker

__all__ = ["RerankStep", "reranker_of"]

_BLOCK = 20
"""Queries in one block: what a killed run loses at most."""


def reranker_of(
    recipe: TrainConfig,
    trained: Artefact | None,
    encoded: Artefact | None,
    corpus: Corpus,
    progress: Progress = silent,
) -> Reranker:
    """A trained cross-encoder; with an ``encode`` artefact, the encoder's own scores."""
    if encoded is None:
        from sptar.retrieval.families import load_reranker

        name = None if trained is None else trained.path("model")
        return load_reranker(name, recipe, progress=progress)
    from sptar.retrieval.dense.rerank import VectorReranker

    # Rows that rerank by another row's encoder take a bi-encoder, which has query vectors.
    encoder = cast("QueryEncoder", encoder_of(recipe, trained, progress))
    return VectorReranker(encoder, vector_files(encoded), corpus)


@dataclass(frozen=True, kw_only=True)
class RerankStep(Step):
    """Reranks with a cross-encoder, or (with ``encode``) with a bi-encoder's scores."""

    name: ClassVar[str] = "rerank"
    version: ClassVar[int] = 2
    collection: Step
    split: Step
    candidates: Bm25SearchStep
    train: Step | None
    encode: Step | None
    recipe: TrainConfig
    retriever: str
    top_k: int

    @property
    def settings(self) -> dict[str, Any]:
        """Depth of the run; the candidates' depth belongs to the run that gives them."""
        return {"top_k": self.top_k}

    @property
    def outside(self) -> Sequence[str]:
        """The start model, where it is taken as it is."""
        return models_of(self.recipe) if self.train is None else ()

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Rerank the missing blocks of queries and write all of them as a TREC run."""
        release_language_model(context)
        collection = open_collection(inputs, context)
        queries = queries_of(collection, open_split(inputs, context).test)
        blocks = JsonlBlocks.open(
            output.unfinished / "blocks", items=len(queries), block_size=_BLOCK
        )
        run_blocks(self, blocks.missing(), output, inputs, context, "Reranking", "queries")
        joined = output.unfinished / "reranked.jsonl"
        blocks.join(joined)
        run: Run = {row["query_id"]: row["scores"] for _, row in read_jsonl(joined)}
        write_run(output.path("run.trec.gz"), run, self.retriever)
        return {"queries": len(queries), "retriever": self.retriever}

    def worker(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Worker:
        """Reranks the candidates of a block of queries."""
        collection = open_collection(inputs, context)
        queries = queries_of(collection, open_split(inputs, context).test)
        candidates = read_run(inputs["candidates"].path("run.trec.gz"))
        blocks = JsonlBlocks.open(
            output.unfinished / "blocks", items=len(queries), block_size=_BLOCK
        )
        reranker = reranker_of(
            self.recipe,
            inputs.get("train"),
            inputs.get("encode"),
            collection.corpus,
            context.progress,
        )

        def work(block: Block) -> None:
            part = queries[block.start : block.stop]
            own = {query.query_id: candidates.get(query.query_id, {}) for query in part}
            found = reranker.rerank(part, own, collection.corpus, self.top_k)
            rows = [{"query_id": query_id, "scores": found[query_id]} for query_id in own]
            blocks.write(block, rows)
            context.progress.advance(len(part))

        return work
