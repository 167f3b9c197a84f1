"""Step ``mine``: hard negatives of the training pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from sptar.blocks import Block, JsonlBlocks
from sptar.config import TrainConfig
from sptar.executors.local import Worker
from sptar.steps.base import Context, Output, Step
from sptar.steps.recipes import mining_settings
from sptar.steps.resources import (
    bm25_index,
    count_pairs,
    encoder_of,
    labelled_pairs,
    open_collection,
    open_split,
    release_language_model,
    training_pairs,
    vector_files,
)
from sptar.steps.workers import run_blocks
from sptar.types import Pair, Searcher
from sptar.workspace import Artefact

__all__ = ["MineStep"]

_BLOCK = 2048
"""Pairs in one block: what a killed run loses at most."""


@dataclass(frozen=True, kw_only=True)
class MineStep(Step):
    """Finds documents that look like answers of a pair's query and are none, as far as is known.

    ``bm25_index`` is there for negatives from BM25, ``encode`` for those from the start encoder.
    """

    name: ClassVar[str] = "mine"
    collection: Step
    split: Step
    bm25_index: Step | None
    pairs: Step
    recipe: TrainConfig
    encode: Step | None
    miner: TrainConfig | None
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """Where negatives come from, their number, the bounds, and the seed."""
        return {**mining_settings(self.recipe), "seed": self.seed}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Mine the missing blocks of pairs, join all of them and count what was left out."""
        from sptar.training.negatives import MiningTotals, load_negatives

        release_language_model(context)
        blocks = self._blocks(output, inputs)
        run_blocks(self, blocks.missing(), output, inputs, context, "Hard negatives", "pairs")
        path = output.path("negatives.jsonl")
        blocks.join(path)
        totals = MiningTotals.of(load_negatives(path))
        if self.recipe.negatives != "random" and totals.random:
            context.progress.message(
                f"{totals.random} of {totals.mined + totals.random} hard negatives were drawn from "
                "the whole corpus: the rankings held too few that score below the pair's document"
            )
        return asdict(totals)

    def worker(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Worker:
        """Finds the negatives of a block of pairs."""
        from sptar.training.negatives import mine_negatives, save_negatives

        corpus = open_collection(inputs, context).corpus
        blocks = self._blocks(output, inputs)
        pairs = training_pairs(inputs, context)
        known = self._known(pairs, inputs, context)
        searcher = self._searcher(inputs, context)

        def work(block: Block) -> None:
            part = pairs[block.start : block.stop]
            found = mine_negatives(
                part, corpus, self.recipe, self.seed, searcher=searcher, known=known
            )
            with blocks.writing(block, ".jsonl") as temporary:
                save_negatives(temporary, part, found)
            context.progress.advance(len(part))

        return work

    def _blocks(self, output: Output, inputs: Mapping[str, Artefact]) -> JsonlBlocks:
        pairs = count_pairs(inputs)
        return JsonlBlocks.open(output.unfinished / "blocks", items=pairs, block_size=_BLOCK)

    def _known(
        self, pairs: Sequence[Pair], inputs: Mapping[str, Artefact], context: Context
    ) -> dict[str, set[str]]:
        """Query text → documents that answer it, by the training labels and by any pair."""
        collection = open_collection(inputs, context)
        split = open_split(inputs, context)
        known: dict[str, set[str]] = {}
        for pair in (*pairs, *labelled_pairs(collection, split.train)):
            known.setdefault(pair.query.text.strip(), set()).add(pair.document.doc_id)
        return known

    def _searcher(self, inputs: Mapping[str, Artefact], context: Context) -> Searcher | None:
        if self.miner is not None:
            encoder = encoder_of(self.miner, None, context.progress)
            corpus = open_collection(inputs, context).corpus
            return encoder.searcher(vector_files(inputs["encode"]), corpus)
        return bm25_index(inputs, context) if self.bm25_index is not None else None
