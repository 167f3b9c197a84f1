"""Steps ``evaluate`` and ``compare``: scores for each query, and what they prove."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from sptar.config import EvaluateConfig
from sptar.steps.base import Context, Output, Step
from sptar.steps.bm25 import Bm25SearchStep
from sptar.steps.fuse import FuseStep
from sptar.steps.rerank import RerankStep
from sptar.steps.resources import open_collection, open_split
from sptar.steps.search import SearchStep
from sptar.trec import read_run
from sptar.workspace import Artefact

__all__ = ["CompareStep", "EvaluateStep", "RunStep"]

RunStep: TypeAlias = Bm25SearchStep | SearchStep | RerankStep | FuseStep
"""A step that answers the test queries with a TREC run."""


@dataclass(frozen=True, kw_only=True)
class EvaluateStep(Step):
    """Scores a run on the test role, query by query."""

    name: ClassVar[str] = "evaluate"
    collection: Step
    split: Step
    run: Step
    evaluate: EvaluateConfig

    @property
    def settings(self) -> dict[str, Any]:
        """Measures and the grade from which a document counts."""
        return {
            "measures": list(self.evaluate.measures),
            "relevance_level": self.evaluate.relevance_level,
        }

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Evaluate and save the per-query table."""
        from sptar.evaluation.evaluate import evaluate
        from sptar.evaluation.measures import Measure

        collection = open_collection(inputs, context)
        qrels = collection.judgements(open_split(inputs, context).test)
        measures = [Measure.parse(name) for name in self.evaluate.measures]
        run = read_run(inputs["run"].path("run.trec.gz"))
        scores = evaluate(
            run,
            qrels,
            measures,
            self.evaluate.relevance_level,
            separate_ids=collection.separate_ids,
        )
        scores.save(output.path("scores.json"))
        return {"means": {str(measure): scores.mean(measure) for measure in measures}}


@dataclass(frozen=True, kw_only=True)
class CompareStep(Step):
    """Tests the target method against every other one, retriever by retriever, as one family."""

    name: ClassVar[str] = "compare"
    version: ClassVar[int] = 2
    """2: one form of the file for one contest or several."""
    scores: tuple[tuple[str, Step], ...]
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

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Compare and save."""
        from sptar.evaluation.evaluate import Scores
        from sptar.evaluation.family import compare_systems
        from sptar.evaluation.measures import Measure

        systems = {
            method: Scores.load(inputs[f"scores_{method}"].path("scores.json"))
            for method, _ in self.scores
        }
        comparison = compare_systems(
            systems,
            self.target,
            [Measure.parse(name) for name in self.evaluate.measures],
            alpha=self.evaluate.alpha,
            bootstrap_samples=self.evaluate.bootstrap_samples,
            seed=self.seed,
        )
        comparison.save(output.path("comparison.json"))
        return {"target": self.target}
