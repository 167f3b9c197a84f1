"""Step ``select``: which example pairs stand in the prompt (the paper's soft prompt filter)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from sptar.config import (
    LanguageModelConfig,
    PromptConfig,
    SelectConfig,
    TuneConfig,
    result_settings,
)
from sptar.errors import DataError
from sptar.io import read_sealed, write_sealed
from sptar.steps.base import Context, Output, Step
from sptar.steps.prompts import prompt_template
from sptar.steps.resources import labelled_pairs, open_collection, open_split
from sptar.steps.tune import prompted_model
from sptar.types import Pair, QueryLoss, QueryScorer
from sptar.workspace import Artefact

__all__ = ["SelectStep"]


def _whole(path: Path) -> dict[str, Any] | None:
    """Losses that were kept; those that have changed since are computed anew."""
    try:
        return read_sealed(path)
    except DataError:
        return None


class _NoScorer:
    """Stands in where groups are drawn and never scored."""

    def query_losses(self, examples: Sequence[Pair], pairs: Sequence[Pair]) -> list[QueryLoss]:
        raise AssertionError("a drawn group is not scored")


@dataclass(frozen=True, kw_only=True)
class SelectStep(Step):
    """Scores candidate groups by the loss on S_eval, or just draws one (``choice: first``)."""

    name: ClassVar[str] = "select"
    version: ClassVar[int] = 2
    collection: Step
    split: Step
    tune: Step | None
    llm: LanguageModelConfig
    llm_identity: str
    prompt: PromptConfig
    select: SelectConfig
    max_new_tokens: int | None
    pairs_per_query: int | None
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """How candidates are drawn and scored. A draw alone depends on no model."""
        drawn = self.select.choice == "first"
        settings: dict[str, Any] = {
            "select": result_settings(self.select),
            "examples": self.prompt.examples,
            "seed": self.seed,
        }
        if self.pairs_per_query != TuneConfig.model_fields["pairs_per_query"].default:
            settings["pairs_per_query"] = self.pairs_per_query
        if not drawn:
            settings |= {
                "llm": self.llm_identity,
                "dtype": self.llm.dtype,
                "prompt": result_settings(self.prompt),
                "max_new_tokens": self.max_new_tokens,
            }
        return settings

    @property
    def outside(self) -> Sequence[str]:
        """The model, where candidates are scored."""
        return () if self.select.choice == "first" else (self.llm.name,)

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Score, choose and save every candidate, best first."""
        from sptar.weak.select import GroupLosses, save_selection, select_examples

        collection = open_collection(inputs, context)
        split = open_split(inputs, context)
        train = labelled_pairs(collection, split.train, self.pairs_per_query, self.seed)
        scorer: QueryScorer = _NoScorer()
        evaluation: list[Pair] = []
        if self.select.choice != "first":
            from sptar.llm.engine.scoring import PromptedScorer

            evaluation = labelled_pairs(
                collection, split.evaluation, self.pairs_per_query, self.seed
            )
            model, soft_prompt = prompted_model(self.llm, inputs.get("tune"), context)
            template = prompt_template(
                model,
                self.prompt,
                inputs,
                context,
                virtual_tokens=0 if soft_prompt is None else soft_prompt.matrix.shape[0],
                max_new_tokens=self.max_new_tokens,
            )
            scorer = PromptedScorer(model, template, soft_prompt, self.select.batch_size)
        partial = output.unfinished / "query_losses"
        partial.mkdir(exist_ok=True)
        files = sorted(partial.glob("[0-9]*.json"))
        scored = [
            GroupLosses(tuple(row["pair_indices"]), row["first"], tuple(row["losses"]))
            for row in map(_whole, files)
            if row is not None
        ]
        number = itertools.count(1 + int(files[-1].stem) if files else 0)

        def keep(found: GroupLosses) -> None:
            write_sealed(partial / f"{next(number):08}.json", asdict(found))

        selection = select_examples(
            scorer,
            train,
            evaluation,
            self.select,
            self.prompt.examples,
            self.seed,
            progress=context.progress,
            done=scored,
            on_scored=keep,
        )
        save_selection(output.path("selection.json"), selection)
        return {
            "candidates": len(selection.groups),
            "best_loss": selection.best.loss,
            "worst_loss": selection.worst.loss if selection.exhaustive else None,
            "chosen_loss": selection.chosen.loss,
            "search": self.select.search,
            "query_losses": sum(row.pairs or 0 for row in selection.groups),
        }
