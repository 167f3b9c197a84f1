"""Step ``fuse``: two runs joined into one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sptar.config import SearchConfig
from sptar.steps.base import Context, Output, Step
from sptar.trec import read_run, write_run
from sptar.types import Run
from sptar.workspace import Artefact

__all__ = ["FuseStep", "join_runs"]


def join_runs(first: Run, second: Run, settings: SearchConfig, top_k: int) -> Run:
    """Two runs as one, the way the settings say."""
    from sptar.retrieval.fusion import reciprocal_rank_fusion, score_fusion

    # Whether a document is the query itself was decided when the runs were made.
    if settings.fusion == "rrf":
        return reciprocal_rank_fusion(
            [first, second], top_k, k=settings.fusion_k, separate_ids=True
        )
    weights = (settings.fusion_weight, 1 - settings.fusion_weight)
    return score_fusion([first, second], top_k, weights=weights, separate_ids=True)


@dataclass(frozen=True, kw_only=True)
class FuseStep(Step):
    """Joins the runs of two retrievers by ranks or by scores."""

    name: ClassVar[str] = "fuse"
    version: ClassVar[int] = 2
    first: Step
    second: Step
    parts: tuple[str, ...]
    search: SearchConfig
    top_k: int

    @property
    def settings(self) -> dict[str, Any]:
        """The rule of the fusion and its one number, and the depth of the run."""
        if self.search.fusion == "rrf":
            rule: dict[str, Any] = {"fusion": "rrf", "k": self.search.fusion_k}
        else:
            rule = {"fusion": "score", "weight": self.search.fusion_weight}
        return {**rule, "top_k": self.top_k}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Join and write the TREC run."""
        first, second = (read_run(inputs[name].path("run.trec.gz")) for name in ("first", "second"))
        run = join_runs(first, second, self.search, self.top_k)
        write_run(output.path("run.trec.gz"), run, "+".join(self.parts))
        return {"queries": len(run), "parts": [self.first.name, self.second.name]}
