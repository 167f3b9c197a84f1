"""Step ``encode``: the corpus as its retriever sees it, in blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sptar.blocks import Block, Blocks
from sptar.config import TrainConfig
from sptar.errors import DataError
from sptar.executors.local import Worker
from sptar.io import read_sealed, write_sealed
from sptar.steps.base import Context, Output, Step
from sptar.steps.recipes import (
    ModelIdentities,
    models_of,
    reading_settings,
    start_identities,
)
from sptar.steps.resources import VECTORS, encoder_of, open_collection, release_language_model
from sptar.steps.workers import run_blocks
from sptar.workspace import Artefact

if TYPE_CHECKING:
    pass

__all__ = ["EncodeStep"]


_SLICE = 512
"""Documents sorted by length and encoded together; the bar moves after each slice."""
_FACTS = "facts.json"
"""What the summary says of the encoder: whoever joins the blocks has not loaded it."""


@dataclass(frozen=True, kw_only=True)
class EncodeStep(Step):
    """Encodes every document, block by block."""

    name: ClassVar[str] = "encode"
    kept: ClassVar[tuple[str, ...]] = (VECTORS,)
    collection: Step
    train: Step | None
    recipe: TrainConfig
    models: ModelIdentities

    @property
    def settings(self) -> dict[str, Any]:
        """The start encoder and how text is fed to it; the trained one is an input."""
        if self.train is not None:
            return {}
        return {**start_identities(self.recipe, self.models), **reading_settings(self.recipe)}

    @property
    def outside(self) -> Sequence[str]:
        """The start encoder, where it is taken as it is."""
        return models_of(self.recipe) if self.train is None else ()

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Encode the missing blocks."""
        release_language_model(context)
        documents = len(open_collection(inputs, context).corpus)
        blocks = self._blocks(output, documents)
        run_blocks(self, blocks.missing(), output, inputs, context, "Encoding documents", "docs")
        blocks.paths()
        try:
            facts = read_sealed(output.unfinished / _FACTS)
        except (DataError, FileNotFoundError):
            self.worker(output, inputs, context)  # which writes them
            facts = read_sealed(output.unfinished / _FACTS)
        return {"documents": documents, **facts, "retriever": self.recipe.retriever}

    def _blocks(self, output: Output, documents: int) -> Blocks:
        return Blocks.open(
            output.path(VECTORS),
            items=documents,
            block_size=self.recipe.encode_block_size,
            plan=output.unfinished / "blocks.json",
        )

    def worker(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Worker:
        """Encodes the documents of a block."""
        corpus = open_collection(inputs, context).corpus
        encoder = encoder_of(self.recipe, inputs.get("train"), context.progress)
        blocks = self._blocks(output, len(corpus))
        write_sealed(output.unfinished / _FACTS, {"dimensions": encoder.dimension})

        def work(block: Block) -> None:
            parts = []
            for start in range(block.start, block.stop, _SLICE):
                stop = min(start + _SLICE, block.stop)
                documents = [corpus[position] for position in range(start, stop)]
                parts.append(encoder.encode_block(documents))
                context.progress.advance(len(documents))
            with blocks.writing(block, encoder.block_suffix) as temporary:
                encoder.save_block(temporary, encoder.join_blocks(parts))

        return work
