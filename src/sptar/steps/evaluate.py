"""Steps ``evaluate`` and ``compare``: scores for each query, and what they prove."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sptar.config import EvaluateConfig
from sptar.io import read_run
from sptar.steps.base import Context, Output, Step
from sptar.steps.bm25 import Bm25SearchStep
from sptar.steps.collection import CollectionStep
from sptar.steps.encode import DenseSearchStep
from sptar.steps.resources import open_collection, open_split
from sptar.steps.split import SplitStep
from sptar.workspace import Artefact

__all__ = ["CompareStep", "EvaluateStep"]


@dataclass(frozen=True)
class EvaluateStep(Step):
    """Scores a run on the test role, query by query."""

    name: ClassVar[str] = "evaluate"
    collection: CollectionStep
    split: SplitStep
    search: Bm25SearchStep | DenseSearchStep
    evaluate: EvaluateConfig

    @property
    def settings(self) -> dict[str, Any]:
        """Measures and the grade from which a document counts."""
        return {
            "measures": list(self.evaluate.measures),
            "relevance_level": self.evaluate.relevance_level,
        }

    @property
    def inputs(self) -> Mapping[str, Step]:
        """Collection, split and run."""
        return {"collection": self.collection, "split": self.split, "run": self.search}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Evaluate and save the per-query table."""
        from sptar.evaluation.evaluate import evaluate
        from sptar.evaluation.measures import Measure

        collection = open_collection(inputs, context)
        qrels = collection.judgements(open_split(inputs, context).test)
        measures = [Measure.parse(name) for name in self.evaluate.measures]
        run = read_run(inputs["run"].path("run.trec.gz"))
        scores = evaluate(run, qrels, measures, relevance_level=self.evaluate.relevance_level)
        scores.save(output.path("scores.json"))
        return {"means": {str(measure): scores.mean(measure) for measure in measures}}


@dataclass(frozen=True)
class CompareStep(Step):
    """Tests one method against every other one over all measures, as one family."""

    name: ClassVar[str] = "compare"
    scores: tuple[tuple[str, EvaluateStep], ...]
    target: str
    evaluate: EvaluateConfig
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """The target, the level, the bootstrap, and the seed."""
        return {
            "target": self.target,
            "measures": list(self.evaluate.measures),
            "alpha": self.evaluate.alpha,
            "bootstrap_samples": self.evaluate.bootstrap_samples,
            "seed": self.seed,
        }

    @property
    def inputs(self) -> Mapping[str, Step]:
        """Scores of each method."""
        return {f"scores_{method}": step for method, step in self.scores}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Compare and save."""
        from sptar.evaluation.evaluate import Scores
        from sptar.evaluation.measures import Measure
        from sptar.evaluation.significance import compare

        systems = {
            method: Scores.load(inputs[f"scores_{method}"].path("scores.json"))
            for method, _ in self.scores
        }
        comparison = compare(
            systems,
            self.target,
            [Measure.parse(name) for name in self.evaluate.measures],
            alpha=self.evaluate.alpha,
            bootstrap_samples=self.evaluate.bootstrap_samples,
            seed=self.seed,
        )
        comparison.save(output.path("comparison.json"))
        return {"target": self.target}
