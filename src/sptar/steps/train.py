"""Steps ``train`` and ``choose``: the dense retriever, and the cut-off that dev prefers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from sptar.config import TrainConfig, result_settings
from sptar.io import read_jsonl, write_json
from sptar.steps.base import Context, Output, Step
from sptar.steps.bm25 import Bm25IndexStep
from sptar.steps.collection import CollectionStep
from sptar.steps.pairs import PairsStep
from sptar.steps.resources import (
    bm25_index,
    open_collection,
    open_split,
    queries_of,
    release_language_model,
)
from sptar.steps.split import SplitStep
from sptar.types import Pair, Qrels, Query, Run
from sptar.workspace import Artefact

__all__ = ["ChooseStep", "TrainStep"]


@dataclass(frozen=True)
class TrainStep(Step):
    """Trains the retriever; the checkpoint is chosen on the dev role, never on test."""

    name: ClassVar[str] = "train"
    collection: CollectionStep
    split: SplitStep
    index: Bm25IndexStep
    pairs: PairsStep
    train: TrainConfig
    start_identity: Callable[[], str]
    """Asked only when the fingerprint is needed: a hub model may be out of reach before that."""
    measure: str
    relevance_level: int
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """The start encoder, the recipe, the measure of the checkpoint choice, and the seed."""
        return {
            "start": self.start_identity(),
            "train": result_settings(self.train, leave_out=["start", "revision"]),
            "measure": self.measure,
            "relevance_level": self.relevance_level,
            "seed": self.seed,
        }

    @property
    def inputs(self) -> Mapping[str, Step]:
        """Collection, split, BM25 index (for the dev corpus) and training pairs."""
        return {
            "collection": self.collection,
            "split": self.split,
            "bm25_index": self.index,
            "pairs": self.pairs,
        }

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Train and keep the checkpoint that is best on dev."""
        from sptar.evaluation.evaluate import evaluate
        from sptar.evaluation.measures import Measure
        from sptar.retrieval.biencoder import train_biencoder
        from sptar.retrieval.reduced_corpus import reduced_dev_set

        release_language_model(context)
        collection = open_collection(inputs, context)
        split = open_split(inputs, context)
        index = bm25_index(inputs, context)
        pairs = [
            Pair(Query(row["query_id"], row["text"]), collection.corpus.get(row["doc_id"]))
            for _, row in read_jsonl(inputs["pairs"].path("pairs.jsonl"))
        ]

        def bm25_hits(query: Query, count: int) -> list[str]:
            found = index.search([query], count).get(query.query_id, {})
            return sorted(found, key=lambda doc_id: (-found[doc_id], doc_id))

        dev = reduced_dev_set(
            queries_of(collection, split.dev),
            collection.judgements(split.dev),
            collection.corpus,
            self.train.dev_negatives,
            bm25_hits,
            self.seed,
        )
        measure = Measure.parse(self.measure)

        def dev_score(run: Run, judged: Qrels) -> float:
            scores = evaluate(run, judged, [measure], relevance_level=self.relevance_level)
            return scores.mean(measure)

        result = train_biencoder(
            pairs,
            dev,
            self.train,
            seed=self.seed,
            output=output.path("model"),
            dev_score=dev_score,
            checkpoint_folder=output.unfinished / "checkpoints",
            progress=context.progress,
            dev_measure=self.measure,
        )
        history = [asdict(record) for record in result.history]
        write_json(output.path("history.json"), history)
        return {
            "pairs": len(pairs),
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


@dataclass(frozen=True)
class ChooseStep(Step):
    """Of retrievers trained with several cut-offs k, keeps the one that is best on dev.

    Ties go to the smallest k.
    """

    name: ClassVar[str] = "choose"
    candidates: tuple[tuple[int, TrainStep], ...]

    @property
    def settings(self) -> dict[str, Any]:
        """The cut-offs, in order."""
        return {"k": [k for k, _ in self.candidates]}

    @property
    def inputs(self) -> Mapping[str, Step]:
        """The trained candidates."""
        return {f"train_{k}": step for k, step in self.candidates}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Compare dev scores and copy the winner."""
        scores = {
            k: float(inputs[f"train_{k}"].manifest.summary["best_dev_score"])
            for k, _ in self.candidates
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
