"""Step ``teach``: what the teachers say about the training pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sptar.blocks import Block, Blocks
from sptar.config import TrainConfig
from sptar.executors.local import Worker
from sptar.steps.base import Context, Output, Step
from sptar.steps.recipes import ModelIdentities, models_of, reading_settings
from sptar.steps.resources import (
    IN_BATCH_TEACHER,
    TEACHER_SCORES,
    count_pairs,
    mined_documents,
    release_language_model,
    training_pairs,
)
from sptar.steps.workers import run_blocks
from sptar.workspace import Artefact

if TYPE_CHECKING:
    pass

__all__ = ["TeachStep"]

_BLOCK = 512
"""Pairs in one block: what a killed run loses at most."""


@dataclass(frozen=True, kw_only=True)
class TeachStep(Step):
    """Scores of a cross-encoder, and token vectors of a late-interaction model.

    ``cross`` and ``late`` are teachers of the run's own; without them the ones that the student's
    recipe names are taken. ``late_recipe`` is ``None`` for no in-batch teacher at all.
    """

    name: ClassVar[str] = "teach"
    collection: Step
    pairs: Step
    mine: Step
    cross: Step | None
    cross_recipe: TrainConfig
    late: Step | None
    late_recipe: TrainConfig | None
    student: TrainConfig
    models: ModelIdentities

    @property
    def settings(self) -> dict[str, Any]:
        """Teachers from elsewhere and how they read; the run's own are inputs."""
        settings: dict[str, Any] = {"in_batch": self.late_recipe is not None}
        if self.cross is None:
            settings["cross"] = self._foreign(self.student.teacher, self.cross_recipe)
        if self.late_recipe is not None and self.late is None:
            settings["late"] = self._foreign(self.student.in_batch_teacher, self.late_recipe)
        return settings

    def _foreign(self, name: str, recipe: TrainConfig) -> list[Any]:
        return [self.models.of(name), reading_settings(recipe)]

    @property
    def outside(self) -> Sequence[str]:
        """Teachers from elsewhere."""
        return models_of(self.student)

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Score the pairs block by block, then encode their texts for the in-batch teacher."""
        from sptar.training.teachers import save_pair_scores

        release_language_model(context)
        pairs = count_pairs(inputs)
        blocks = _blocks(output, pairs)
        run_blocks(
            self, blocks.missing(), output, inputs, context, "Asking the cross-encoder", "pairs"
        )
        parts = [np.load(path, allow_pickle=False) for path in blocks.paths()]
        save_pair_scores(output.path(TEACHER_SCORES), np.concatenate(parts))
        if self.late_recipe is not None:
            self._late(output, inputs, context)
        return {"pairs": pairs, "in_batch": self.late_recipe is not None}

    def worker(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Worker:
        """Scores a block of pairs and their negatives with the cross-encoder."""
        from sptar.retrieval.cross.reranker import load_cross_encoder
        from sptar.training.teachers import pair_scores, save_pair_scores

        pairs = training_pairs(inputs, context)
        negatives = mined_documents(inputs, context)
        name, recipe = _teacher("cross", inputs, self.student.teacher, self.cross_recipe)
        cross = load_cross_encoder(name, recipe, progress=context.progress)
        blocks = _blocks(output, len(pairs))

        def work(block: Block) -> None:
            part = slice(block.start, block.stop)
            scores = pair_scores(cross.scores, pairs[part], negatives[part])
            with blocks.writing(block, ".npy") as temporary:
                save_pair_scores(temporary, scores)
            context.progress.advance(block.stop - block.start)

        return work

    def _late(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> None:
        from sptar.retrieval.late.encoder import load_late_encoder
        from sptar.training.teachers import LateTeacher

        assert self.late_recipe is not None
        name, recipe = _teacher("late", inputs, self.student.in_batch_teacher, self.late_recipe)
        encoder = load_late_encoder(name, recipe, progress=context.progress)
        LateTeacher.build(
            encoder,
            training_pairs(inputs, context),
            output.path(IN_BATCH_TEACHER),
            context.progress,
        )


def _blocks(output: Output, pairs: int) -> Blocks:
    return Blocks.open(output.unfinished / "scores", items=pairs, block_size=_BLOCK)


def _teacher(
    role: str, inputs: Mapping[str, Artefact], named: str, recipe: TrainConfig
) -> tuple[Path | str, TrainConfig]:
    """The folder of the run's own teacher, or the one that was named, and how it reads."""
    if role in inputs:
        return inputs[role].path("model"), recipe
    # The recipe's revision is that of its own start.
    return named, recipe.model_copy(update={"revision": None})
