"""Steps ``train`` and ``choose``: the retriever, and the cut-off that dev prefers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from sptar.config import TrainConfig
from sptar.io import write_json
from sptar.retrieval.specs import retriever_spec
from sptar.steps.base import Context, Output, Step
from sptar.steps.recipes import (
    ModelIdentities,
    models_of,
    start_identities,
    training_settings,
)
from sptar.steps.resources import (
    bm25_index,
    mined_documents,
    open_collection,
    open_split,
    queries_of,
    release_language_model,
    teacher_scores,
    training_pairs,
)
from sptar.steps.train_job import TrainingJob
from sptar.steps.train_worker import train
from sptar.types import Query, Run
from sptar.workspace import Artefact

if TYPE_CHECKING:
    from sptar.training.dev_set import DevSet
    from sptar.training.loop import TrainingData, TrainingResult

__all__ = ["ChooseStep", "TrainStep"]

DEV_CANDIDATES = 100
"""Documents that a reranker orders for each dev query, every epoch."""


@dataclass(frozen=True, kw_only=True)
class TrainStep(Step):
    """Trains a retriever; the checkpoint is chosen on the dev role, never on test.

    ``weak_per_document`` is how many weak queries each document may get: with ``steps_per_epoch:
    auto`` the length of a training follows from that and from the split, never from what a method
    kept, so that every method of a retriever takes as many steps, whatever else is in its run.
    """

    name: ClassVar[str] = "train"
    version: ClassVar[int] = 2
    collection: Step
    split: Step
    bm25_index: Step
    pairs: Step
    mine: Step | None
    teach: Step | None
    recipe: TrainConfig
    models: ModelIdentities
    measure: str
    relevance_level: int
    weak_per_document: int
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """The start encoder, the recipe, the measure of the checkpoint choice, and the seed."""
        per_document = {"weak_per_document": self.weak_per_document}
        return {
            **(per_document if self.recipe.steps_per_epoch == "auto" else {}),
            **start_identities(self.recipe, self.models),
            "train": training_settings(self.recipe),
            "measure": self.measure,
            "relevance_level": self.relevance_level,
            "seed": self.seed,
        }

    @property
    def outside(self) -> Sequence[str]:
        """The start encoder."""
        return models_of(self.recipe)

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Train and keep the checkpoint that is best on dev."""
        release_language_model(context)
        data = self.data(inputs, context)
        dev = self.dev_set(inputs, context)
        recipe = self.recipe
        if recipe.steps_per_epoch == "auto":
            steps = self.steps_per_epoch(inputs, context)
            recipe = recipe.model_copy(update={"steps_per_epoch": steps})
            context.progress.message(
                f"Training takes {recipe.epochs} x {steps:,} steps of up to {recipe.batch_size} of "
                f"{len(data.pairs):,} pairs, as for every method"
            )
        job = TrainingJob(
            data,
            dev,
            recipe,
            self.seed,
            self.measure,
            self.relevance_level,
            output.path("model"),
            output.unfinished / "checkpoints",
        )
        result = train(job, output.unfinished / "job", context.progress)
        history = [asdict(record) for record in result.history]
        write_json(output.path("history.json"), history)
        if result.best_epoch == 0:
            context.progress.message(kept_start(self.measure, result))
        return {
            "retriever": self.recipe.retriever,
            "pairs": len(data.pairs),
            "negatives_per_pair": len(data.negatives[0]) if data.negatives else 0,
            "dev_queries": len(dev.queries),
            "dev_documents": len(dev.documents),
            "start_dev_score": result.start_dev_score,
            "best_dev_score": result.best_dev_score,
            "best_epoch": result.best_epoch,
            "epochs": len(history),
            "steps": result.steps,
            "parameters": result.parameters,
            "singletons": result.singletons,
            "peak_memory_bytes": result.peak_memory_bytes,
        }

    def steps_per_epoch(self, inputs: Mapping[str, Artefact], context: Context) -> int:
        """Batches of a pass over the labels and every weak query that could be kept."""
        labels = int(inputs["pairs"].manifest.summary["labels"])
        weak = len(open_split(inputs, context).augment) * self.weak_per_document
        return max(1, math.ceil((labels + weak) / self.recipe.batch_size))

    def data(self, inputs: Mapping[str, Artefact], context: Context) -> TrainingData:
        """The pairs with their hard negatives and what the teachers say about them."""
        from sptar.training.loop import TrainingData

        data = TrainingData(training_pairs(inputs, context), mined_documents(inputs, context))
        if self.teach is None:
            return data
        scores, in_batch = teacher_scores(inputs["teach"], self.recipe.negatives_per_pair)
        return replace(data, teacher_scores=scores, in_batch_teacher=in_batch)

    def dev_set(self, inputs: Mapping[str, Artefact], context: Context) -> DevSet:
        """The dev queries and the small corpus on which the checkpoint is chosen."""
        from sptar.training.dev_set import reduced_dev_set

        collection = open_collection(inputs, context)
        split = open_split(inputs, context)
        index = bm25_index(inputs, context)

        def bm25_hits(query: Query, count: int) -> list[str]:
            found = index.search([query], count).get(query.query_id, {})
            return sorted(found, key=lambda doc_id: (-found[doc_id], doc_id))

        dev = reduced_dev_set(
            queries_of(collection, split.dev),
            collection.judgements(split.dev),
            collection.corpus,
            self.recipe.dev_negatives,
            bm25_hits,
            self.seed,
        )
        if not retriever_spec(self.recipe).is_reranker:
            return dev
        places = [collection.corpus.position(document.doc_id) for document in dev.documents]
        candidates: Run = {}
        for query in dev.queries:
            scores = index.scores(query.text)[places]
            found = [
                (-float(score), document.doc_id)
                for document, score in zip(dev.documents, scores, strict=True)
                if score > 0 and document.doc_id != query.own_doc_id
            ]
            best = sorted(found)[:DEV_CANDIDATES]
            candidates[query.query_id] = {doc_id: -negated for negated, doc_id in best}
        return replace(dev, candidates=candidates)


def kept_start(measure: str, result: TrainingResult) -> str:
    """That a training ended with what it began with, and by which figures."""
    scores = [record.dev_score for record in result.history if record.dev_score is not None]
    return (
        f"No epoch is better on dev ({measure} {max(scores):.4f} at best) than the start encoder "
        f"({result.start_dev_score:.4f}): the start is kept"
    )


@dataclass(frozen=True, kw_only=True)
class ChooseStep(Step):
    """Of retrievers trained with several cut-offs k, keeps the one that is best on dev.

    Ties go to the smallest k.
    """

    name: ClassVar[str] = "choose"
    train: tuple[tuple[int, Step], ...]

    @property
    def settings(self) -> dict[str, Any]:
        """The cut-offs, in order."""
        return {"k": [k for k, _ in self.train]}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Compare dev scores and copy the winner."""
        scores = {
            k: float(inputs[f"train_{k}"].manifest.summary["best_dev_score"]) for k, _ in self.train
        }
        best = min(scores, key=lambda k: (-scores[k], k))
        winner = inputs[f"train_{best}"]
        shutil.copytree(winner.path("model"), output.path("model"))
        shutil.copy2(winner.path("history.json"), output.path("history.json"))
        write_json(output.path("choice.json"), {"k": best, "dev_scores": scores})
        context.progress.message(f"Cut-off k = {best} is best on dev")
        return {
            **winner.manifest.summary,
            "k": best,
            "dev_scores": {str(k): score for k, score in scores.items()},
        }
