"""Step ``tune``: learn the soft prompt (or LoRA weights) from S_train, watched by S_eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sptar.config import LanguageModelConfig, PromptConfig, TuneConfig, result_settings
from sptar.io import write_json
from sptar.steps.base import Context, Output, Step
from sptar.steps.prompts import prompt_template
from sptar.steps.resources import (
    labelled_pairs,
    language_model,
    open_collection,
    open_split,
    release_language_model,
)
from sptar.workspace import Artefact

if TYPE_CHECKING:
    from sptar.llm.loading import LanguageModel
    from sptar.llm.soft_prompt import SoftPrompt

__all__ = ["TuneStep", "prompted_model"]


@dataclass(frozen=True, kw_only=True)
class TuneStep(Step):
    """Tunes, or imports a finished adapter when ``tune.adapter`` names one."""

    name: ClassVar[str] = "tune"
    version: ClassVar[int] = 2
    collection: Step
    split: Step
    llm: LanguageModelConfig
    llm_identity: str
    prompt: PromptConfig
    tune: TuneConfig
    adapter_identity: str | None
    max_new_tokens: int | None
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """The model, the template, the recipe, and the seed."""
        return {
            "llm": self.llm_identity,
            "dtype": self.llm.dtype,
            "prompt": result_settings(self.prompt),
            "tune": result_settings(self.tune, leave_out=["adapter"]),
            "adapter": self.adapter_identity,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }

    @property
    def outside(self) -> Sequence[str]:
        """The model and an adapter that is imported."""
        return (self.llm.name, *([self.tune.adapter] if self.tune.adapter is not None else []))

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Tune and keep the best epoch."""
        if self.tune.adapter is not None:
            return self._import(output, context)
        collection = open_collection(inputs, context)
        split = open_split(inputs, context)
        bound = self.tune.pairs_per_query
        train, evaluation = (
            labelled_pairs(collection, ids, bound, self.seed)
            for ids in (split.train, split.evaluation)
        )
        model = language_model(self.llm, context)
        is_lora = self.tune.method == "lora"
        template = prompt_template(
            model,
            self.prompt,
            inputs,
            context,
            virtual_tokens=0 if is_lora else self.tune.virtual_tokens,
            max_new_tokens=self.max_new_tokens,
        )
        if is_lora:
            from sptar.llm.tuning.lora import tune_lora

            result = tune_lora(
                model,
                template,
                train,
                evaluation,
                self.tune.model_copy(update={"learning_rate": self.tune.lora_learning_rate}),
                seed=self.seed,
                progress=context.progress,
                checkpoint_folder=output.unfinished / "checkpoints",
            )
        else:
            from sptar.llm.tuning.soft_prompts import tune_soft_prompt

            result = tune_soft_prompt(
                model,
                template,
                train,
                evaluation,
                self.tune,
                seed=self.seed,
                progress=context.progress,
                checkpoint_folder=output.unfinished / "checkpoints",
            )
        result.adapter.save(output.path("adapter"))
        history = [asdict(record) for record in result.history]
        write_json(output.path("history.json"), history)
        if result.cut_queries:
            context.progress.message(
                f"{result.cut_queries:,} of {len(train) + len(evaluation):,} labelled queries were "
                f"cut at {template.max_query_tokens} tokens (prompt.max_query_tokens); no end was "
                "learned behind those"
            )
        return {
            "method": self.tune.method,
            "train_pairs": len(train),
            "evaluation_pairs": len(evaluation),
            "trainable_parameters": result.trainable_parameters,
            "evaluation_loss_before": result.initial_evaluation_loss,
            "evaluation_loss_after": result.best_evaluation_loss,
            "best_epoch": result.best_epoch,
            "epochs": len(history),
            "weights_hash_before": result.weights_hash_before,
            "weights_hash_after": result.weights_hash_after,
            "document_token_budget": template.document_budget,
            "cut_documents": result.cut_documents,
            "cut_queries": result.cut_queries,
            "max_query_tokens": template.max_query_tokens,
            "max_new_tokens": template.max_new_tokens,
            "peak_memory_bytes": result.peak_memory_bytes,
        }

    def _import(self, output: Output, context: Context) -> Any:
        from sptar.llm.adapter_import import import_adapter

        assert self.tune.adapter is not None
        soft_prompt = import_adapter(self.tune.adapter)
        soft_prompt.save(output.path("adapter"))
        write_json(output.path("history.json"), [])
        context.progress.message(f"Imported the soft prompt {self.tune.adapter}")
        return {"method": "imported", "virtual_tokens": int(soft_prompt.matrix.shape[0])}


def prompted_model(
    llm: LanguageModelConfig, tuned: Artefact | None, context: Context
) -> tuple[LanguageModel, SoftPrompt | None]:
    """The language model as tuned: with its soft prompt, or with LoRA's update merged in."""
    model = language_model(llm, context)
    if tuned is None:
        return model, None
    if tuned.manifest.summary["method"] == "lora":
        from sptar.llm.tuning.lora import apply_lora

        merged = apply_lora(model, tuned.path("adapter"))
        # The update is merged into a copy of the weights: free the original.
        release_language_model(context)
        return merged, None
    from sptar.llm.soft_prompt import SoftPrompt

    return model, SoftPrompt.load(tuned.path("adapter"))
