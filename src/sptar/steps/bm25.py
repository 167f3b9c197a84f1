"""Steps ``bm25_index`` and ``bm25_search``: the lexical index and the baseline run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sptar.config import FilterConfig
from sptar.steps.base import Context, Output, Step
from sptar.steps.resources import bm25_index, open_collection, open_split, queries_of
from sptar.trec import write_run
from sptar.workspace import Artefact

__all__ = ["Bm25IndexStep", "Bm25SearchStep"]


@dataclass(frozen=True, kw_only=True)
class Bm25IndexStep(Step):
    """Indexes title and text of the whole corpus as one field."""

    name: ClassVar[str] = "bm25_index"
    collection: Step
    filter: FilterConfig

    @property
    def settings(self) -> dict[str, Any]:
        """BM25's parameters and the language."""
        return {"k1": self.filter.k1, "b": self.filter.b, "language": self.filter.language}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Build and save the index."""
        from sptar.retrieval.lexical.bm25 import Bm25Index

        corpus = open_collection(inputs, context).corpus
        index = Bm25Index.build(
            corpus,
            language=self.filter.language,
            k1=self.filter.k1,
            b=self.filter.b,
            progress=context.progress,
        )
        index.save(output.path("index"))
        return {"documents": len(corpus)}


@dataclass(frozen=True, kw_only=True)
class Bm25SearchStep(Step):
    """Answers the test queries with BM25."""

    name: ClassVar[str] = "bm25_search"
    version: ClassVar[int] = 2
    collection: Step
    split: Step
    bm25_index: Step
    top_k: int

    @property
    def settings(self) -> dict[str, Any]:
        """Depth of the run."""
        return {"top_k": self.top_k}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Search and write the TREC run."""
        collection = open_collection(inputs, context)
        queries = queries_of(collection, open_split(inputs, context).test)
        run = bm25_index(inputs, context).search(queries, self.top_k)
        write_run(output.path("run.trec.gz"), run, "bm25")
        return {"queries": len(queries), "answered": sum(bool(scores) for scores in run.values())}
