"""Steps ``encode`` and ``dense_search``: vectors of the corpus, and the run of a retriever."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sptar.blocks import Block, JsonlBlocks
from sptar.config import TrainConfig, result_settings
from sptar.io import atomic_path, write_run
from sptar.progress import silent
from sptar.steps.base import Context, Output, Step
from sptar.steps.collection import CollectionStep
from sptar.steps.resources import (
    open_collection,
    open_split,
    queries_of,
    release_language_model,
)
from sptar.steps.split import SplitStep
from sptar.steps.train import ChooseStep, TrainStep
from sptar.types import Progress
from sptar.workspace import Artefact

if TYPE_CHECKING:
    from sptar.retrieval.encoding import Encoder

__all__ = ["DenseSearchStep", "EncodeStep", "encoder_of", "vector_files"]


_SLICE = 512
"""Documents sorted by length and encoded together; the bar moves after each slice."""


def encoder_of(
    train: TrainConfig, trained: Artefact | None, progress: Progress = silent
) -> Encoder:
    """A trained retriever, or the start encoder as it is (``zero_shot``)."""
    from sptar.retrieval.encoding import load_encoder

    name = train.start if trained is None else str(trained.path("model"))
    return load_encoder(name, train, progress=progress)


def vector_files(encoded: Artefact) -> list[Path]:
    """The blocks of vectors of an ``encode`` artefact, in order."""
    return sorted(encoded.path("vectors").glob("block-*.npy"))


@dataclass(frozen=True)
class EncodeStep(Step):
    """Encodes every document, block by block."""

    name: ClassVar[str] = "encode"
    collection: CollectionStep
    trained: TrainStep | ChooseStep | None
    train: TrainConfig
    start_identity: Callable[[], str]

    @property
    def settings(self) -> dict[str, Any]:
        """The start encoder and how text is fed to it; the trained one is an input."""
        if self.trained is not None:
            return {}
        kept = ("retriever", "pooling", "max_tokens", "query_prompt", "document_prompt")
        settings = result_settings(self.train)
        return {"start": self.start_identity(), **{name: settings[name] for name in kept}}

    @property
    def inputs(self) -> Mapping[str, Step]:
        """The collection and the trained retriever, if it is one."""
        inputs: dict[str, Step] = {"collection": self.collection}
        if self.trained is not None:
            inputs["train"] = self.trained
        return inputs

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Encode the missing blocks."""
        import numpy as np

        release_language_model(context)
        corpus = open_collection(inputs, context).corpus
        folder = output.unfinished / "vectors"
        plan = JsonlBlocks.open(folder, items=len(corpus), block_size=self.train.encode_block_size)

        def path(block: Block) -> Path:
            return folder / f"block-{block.number:06d}.npy"

        missing = [block for block in plan.all() if not path(block).exists()]
        if missing:
            encoder = encoder_of(self.train, inputs.get("train"), context.progress)
            context.progress.start(
                "Encoding documents", sum(b.stop - b.start for b in missing), "docs"
            )

            def work(block: Block) -> None:
                parts = []
                for start in range(block.start, block.stop, _SLICE):
                    stop = min(start + _SLICE, block.stop)
                    documents = [corpus[position] for position in range(start, stop)]
                    parts.append(encoder.encode_documents(documents))
                    context.progress.advance(len(documents))
                vectors = np.concatenate(parts)
                with atomic_path(path(block)) as temporary:
                    np.save(temporary, vectors)

            context.executor.run(missing, work)
            context.progress.finish()
        shutil.move(folder, output.path("vectors"))
        (output.path("vectors") / "blocks.json").unlink()
        first = min(output.path("vectors").glob("*.npy"))
        dimensions = int(np.load(first, mmap_mode="r").shape[1])
        return {"documents": len(corpus), "dimensions": dimensions}


@dataclass(frozen=True)
class DenseSearchStep(Step):
    """Answers the test queries with a dense retriever, exactly."""

    name: ClassVar[str] = "dense_search"
    collection: CollectionStep
    split: SplitStep
    vectors: EncodeStep
    top_k: int

    @property
    def settings(self) -> dict[str, Any]:
        """Depth of the run."""
        return {"top_k": self.top_k}

    @property
    def inputs(self) -> Mapping[str, Step]:
        """Collection, split, vectors, and the retriever for the queries."""
        inputs: dict[str, Step] = {
            "collection": self.collection,
            "split": self.split,
            "encode": self.vectors,
        }
        if self.vectors.trained is not None:
            inputs["train"] = self.vectors.trained
        return inputs

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Search and write the TREC run."""
        from sptar.retrieval.index import DenseIndex

        collection = open_collection(inputs, context)
        queries = queries_of(collection, open_split(inputs, context).test)
        encoder = encoder_of(self.vectors.train, inputs.get("train"))
        vectors = encoder.encode_queries(queries)
        index = DenseIndex(vector_files(inputs["encode"]), collection.corpus)
        run = index.search(vectors, queries, self.top_k)
        write_run(output.path("run.trec.gz"), run, self.vectors.train.retriever)
        return {"queries": len(queries)}
