"""Soft prompt tuning: learn a few virtual tokens for a frozen language model.

Peng et al. (arXiv 2307.08303), section on soft prompt tuning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from sptar.config import TuneConfig, result_settings
from sptar.errors import ConfigError, ModelError
from sptar.llm.loading import LanguageModel, weights_hash
from sptar.llm.soft_prompt import SoftPrompt, initial_matrix
from sptar.llm.template import PromptTemplate
from sptar.llm.tuning.checkpoint import EpochRecord, TuningState
from sptar.llm.tuning.loop import TuningLoop
from sptar.progress import silent
from sptar.types import Pair, Progress

__all__ = [
    "Adapter",
    "EpochRecord",
    "TuningResult",
    "tune_soft_prompt",
    "tuning_provenance",
    "tuning_result",
]


class Adapter(Protocol):
    """What tuning yields: something that can be saved as a PEFT folder."""

    def save(self, folder: str | Path) -> Path:
        """Write the folder and return it."""
        ...


@dataclass(frozen=True)
class TuningResult:
    """The best adapter, and how it was found.

    Attributes:
        adapter: the soft prompt (or LoRA) of ``best_epoch``.
        history: one record for each epoch that ran.
        initial_evaluation_loss: S_eval's loss with the start value.
        best_evaluation_loss: S_eval's loss with ``adapter``.
        best_epoch: counted from 1; 0 when no epoch was better than the start value.
        trainable_parameters: numbers that learned.
        weights_hash_before: hash of the base model's weights before tuning.
        weights_hash_after: and after it; equal, or the model was not frozen.
        cut_documents: training and evaluation pairs whose document was cut.
        cut_document_tokens: tokens that these documents lost to the budget.
        cut_queries: pairs whose query was cut.
        seconds: time of all epochs, those before a resume included.
        peak_memory_bytes: most memory allocated on a CUDA device in this process, else ``None``.
    """

    adapter: Adapter
    history: list[EpochRecord]
    initial_evaluation_loss: float
    best_evaluation_loss: float
    best_epoch: int
    trainable_parameters: int
    weights_hash_before: str
    weights_hash_after: str
    cut_documents: int
    cut_document_tokens: int
    cut_queries: int
    seconds: float
    peak_memory_bytes: int | None

    @property
    def soft_prompt(self) -> SoftPrompt:
        """The adapter of a soft prompt tuning; ``TypeError`` after any other tuning."""
        if not isinstance(self.adapter, SoftPrompt):
            raise TypeError(f"the adapter is a {type(self.adapter).__name__}")
        return self.adapter


def tuning_result(
    loop: TuningLoop, adapter: Adapter, state: TuningState, trained: int, before: str, after: str
) -> TuningResult:
    """The result with its counts; ``trained`` numbers learned, hashes ``before`` and ``after``.

    Raises:
        ModelError: the weights changed although they were frozen.
    """
    if before != after:
        raise ModelError("The language model's own weights changed during tuning.")
    pairs = [*loop.train, *loop.evaluation]
    documents = [loop.template.document_ids(pair.document) for pair in pairs]
    on_cuda = loop.language_model.device.type == "cuda"
    return TuningResult(
        adapter=adapter,
        history=state.history,
        initial_evaluation_loss=state.initial_evaluation_loss,
        best_evaluation_loss=state.best_loss,
        best_epoch=state.best_epoch,
        trainable_parameters=trained,
        weights_hash_before=before,
        weights_hash_after=after,
        cut_documents=sum(bool(entry.cut_tokens or entry.cut_words) for entry in documents),
        cut_document_tokens=sum(entry.cut_tokens for entry in documents),
        cut_queries=sum(loop.template.query_is_cut(pair.query.text) for pair in pairs),
        seconds=math.fsum(record.seconds for record in state.history),
        peak_memory_bytes=torch.cuda.max_memory_allocated() if on_cuda else None,
    )


def tune_soft_prompt(
    language_model: LanguageModel,
    template: PromptTemplate,
    train: Sequence[Pair],
    evaluation: Sequence[Pair],
    config: TuneConfig,
    seed: int,
    progress: Progress = silent,
    checkpoint_folder: Path | None = None,
) -> TuningResult:
    """Learn ``config.virtual_tokens`` embeddings that make the model write S_train's queries.

    AdamW on the matrix alone, kept in float32 whatever the model's format; loss on the query's
    tokens and its end; linear decay; stops when S_eval has not improved for more than
    ``config.patience`` epochs; the best epoch's matrix is returned, or the start value when none
    was better.

    Raises:
        ConfigError: template and config disagree, or S_train is too small for M examples.
        DataError: S_train or S_eval is empty.
        ModelError: the loss is no longer a number, or memory ran out.
        WorkspaceError: ``checkpoint_folder`` holds the checkpoint of another tuning.
    """
    if template.virtual_tokens != config.virtual_tokens:
        raise ConfigError(
            f"The prompt makes room for {template.virtual_tokens} virtual tokens, but "
            f"`tune.virtual_tokens` is {config.virtual_tokens}."
        )
    loop = TuningLoop(language_model, template, train, evaluation, config, seed)
    before = weights_hash(language_model.model)
    start = initial_matrix(language_model, config, seed)
    matrix = torch.nn.Parameter(start.to(language_model.device))
    state = loop.run({"matrix": matrix}, matrix, before, progress, checkpoint_folder)
    after = weights_hash(language_model.model)
    prompt = SoftPrompt(
        matrix=matrix.detach().cpu(),
        base_model=language_model.config.name,
        provenance=tuning_provenance(language_model, template, loop, state, before),
    )
    return tuning_result(loop, prompt, state, matrix.numel(), before, after)


def tuning_provenance(
    language_model: LanguageModel,
    template: PromptTemplate,
    loop: TuningLoop,
    state: TuningState,
    weights: str,
) -> dict[str, object]:
    """What a checkpoint must tell: the published one does not say what it was made from."""
    architecture = language_model.model.config.get_text_config()
    return {
        "init": loop.config.init,
        "init_text": loop.config.init_text,
        "revision": language_model.config.revision,
        "base_model_weights": weights,
        "num_layers": getattr(architecture, "num_hidden_layers", None),
        "num_attention_heads": getattr(architecture, "num_attention_heads", None),
        "seed": loop.seed,
        "tune": result_settings(loop.config),
        "prompt": template.prompt.model_dump(mode="json"),
        "train_pairs": len(loop.train),
        "evaluation_pairs": len(loop.evaluation),
        "best_epoch": state.best_epoch,
        "initial_evaluation_loss": state.initial_evaluation_loss,
        "best_evaluation_loss": state.best_loss,
    }
