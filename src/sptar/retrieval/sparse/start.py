"""The start of a sparse encoder: a trained one, a masked language model, or any other model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Dense, Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from sentence_transformers.util import is_sentence_transformer_model, load_file_path
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from sptar.config import TrainConfig
from sptar.errors import ConfigError, ModelError
from sptar.progress import silent
from sptar.retrieval.start import (
    attends_both_ways,
    bound_tokens,
    input_module,
    loading_safely,
    pad_token_set,
    pick_device,
)
from sptar.retrieval.trial import check_reads_text, try_encoder
from sptar.types import Progress

__all__ = ["load_sparse_model"]

_SEQUENCES = 16
_SEQUENCE_TOKENS = 16
_SAMPLED_WORDS = 8192
_TEXT_TOKENS = 60
_TEXT_WORDS = 300
"""Words that a text of so many tokens weighs, about; fewer where the vocabulary is small."""

_TOKEN_STATES = "token_embeddings"
"""Name under which the library's modules hand on what belongs to each token."""


def load_sparse_model(
    name: str, config: TrainConfig, *, progress: Progress = silent
) -> SparseEncoder:
    """Load a sparse encoder in float32 and evaluation mode.

    A ``SparseEncoder`` folder or repository is taken as it is. Any other model becomes a SPLADE
    encoder: word weights are log(1 + relu(logit)), the largest over the text's tokens (Formal,
    Lassance, Piwowarski and Clinchant, *SPLADE v2*, arXiv 2109.10086). The logits are those of the
    model's masked-language-model head. A model whose weights hold no such head (a plain encoder, a
    sentence-transformers folder, a causal language model) gets a linear head that starts as its
    input token table, scaled and shifted so that a text weighs a few hundred words (see
    :func:`_calibrated`), and is trained on its own from there. It is a module of the library
    (``Dense`` over the token states), so that the saved folder loads without code of ours,
    whatever the architecture. Loading twice gives the same model.

    Args:
        name: folder or hub name; the config's ``revision`` counts for it.
        config: resolved recipe. ``max_tokens`` and ``max_query_tokens`` can only lower what the
            model reads.

    Raises:
        ConfigError: the recipe asks for separate towers.
        ModelError: nothing loadable under this name; weights that are not safetensors; code of the
            repository's own without ``trust_remote_code``; no token table that fits as a head.
    """
    if config.towers == "separate":
        raise ConfigError(
            "train.towers: a sparse encoder started here is one for queries and documents.",
            hint="Set train.towers=shared.",
        )
    device = pick_device(config.device)
    with loading_safely(name):
        source: dict[str, Any] = {
            "revision": config.revision,
            "trust_remote_code": config.trust_remote_code,
        }
        weights = {"use_safetensors": True, "dtype": torch.float32}
        if _saved_as(name, config.revision) == "SparseEncoder":
            model = SparseEncoder(name, device=device, model_kwargs=weights, **source)
        elif is_sentence_transformer_model(name, revision=config.revision):
            packed = SentenceTransformer(name, device="cpu", model_kwargs=weights, **source)
            body = input_module(packed, "document")
            if body is not input_module(packed, "query"):
                progress.message(
                    f"The start '{Path(name).name}' has two encoders; the one for documents "
                    "becomes the sparse encoder of both."
                )
            prompts = {key: text for key, text in packed.prompts.items() if text}
            modules = _with_token_table(body, name, progress)
            model = SparseEncoder(modules=modules, prompts=prompts, device=device)
        else:
            modules = _plain_modules(name, source, weights, progress)
            model = SparseEncoder(modules=modules, device=device)
    for module in model.modules():
        if isinstance(module, Transformer):
            pad_token_set(module.tokenizer, name)
    bound_tokens(model, config.max_tokens, config.max_query_tokens)
    try_encoder(model.eval().float(), name)
    return model


def _saved_as(name: str, revision: str | None) -> str | None:
    """Which kind of model sentence-transformers saved, if it did."""
    file = load_file_path(name, "config_sentence_transformers.json", revision=revision)
    if file is None:
        return None
    kind: str | None = json.loads(Path(file).read_text(encoding="utf-8")).get("model_type")
    return kind


def _plain_modules(
    name: str, source: dict[str, Any], weights: dict[str, Any], progress: Progress
) -> list[torch.nn.Module]:
    overrides = attends_both_ways(name, source["revision"], source["trust_remote_code"], progress)
    masked = _has_masked_lm_head(name, source, weights, overrides)
    body = Transformer(
        name,
        transformer_task="fill-mask" if masked else "feature-extraction",
        model_kwargs={**source, **weights},
        processor_kwargs=dict(source),
        config_kwargs={**source, **overrides},
    )
    check_reads_text(body, name)
    # Learned positions count from the left: padding there would shift a text by its neighbours.
    if isinstance(body.tokenizer, PreTrainedTokenizerBase):
        body.tokenizer.padding_side = "right"
    if masked:
        return [body, SpladePooling("max")]
    return _with_token_table(body, name, progress)


def _has_masked_lm_head(
    name: str, source: dict[str, Any], weights: dict[str, Any], overrides: dict[str, Any]
) -> bool:
    """Whether the weights hold a masked-language-model head: what configs say of it is unreliable.

    Models with an encoder and a decoder are not asked: their logits are those of the decoder.
    """
    config = AutoConfig.from_pretrained(name, **source, **overrides)
    known = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    known |= "AutoModelForMaskedLM" in (getattr(config, "auto_map", None) or {})
    if not known or getattr(config, "is_encoder_decoder", False):
        return False
    _, report = AutoModelForMaskedLM.from_pretrained(
        name, config=config, output_loading_info=True, **source, **weights
    )
    return not report["missing_keys"]


def _with_token_table(
    body: torch.nn.Module, name: str, progress: Progress
) -> list[torch.nn.Module]:
    """A model without a head over the vocabulary, and its token table as one."""
    if not isinstance(body, Transformer) or body.module_output_name != _TOKEN_STATES:
        raise ModelError(
            f"The start '{name}' gives no vectors for the tokens of a text, so it cannot weigh "
            "words.",
            hint="Choose a transformer as train.start.",
        )
    table: torch.Tensor = body.model.get_input_embeddings().weight.detach().float().clone()
    words, width = table.shape
    if width != body.get_embedding_dimension():
        raise ModelError(
            f"The start '{name}' has no masked-language-model head, and its token table cannot "
            f"stand in: its vectors have {width} numbers, the model's states "
            f"{body.get_embedding_dimension()}.",
            hint="Choose a train.start that was saved as a masked language model.",
        )
    progress.message(
        f"The start '{Path(name).name}' has no masked-language-model head: its token table "
        "becomes one."
    )
    weight, bias = _calibrated(body, table)
    head = Dense(
        width,
        words,
        activation_function=torch.nn.Identity(),
        init_weight=weight,
        init_bias=bias,
        module_input_name=_TOKEN_STATES,
    )
    return [body, head, SpladePooling("max", embedding_dimension=words)]


@torch.no_grad()
def _calibrated(body: Transformer, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The table as a head whose logits spread by 1 and are above 0 for a small share of words.

    Products of states and table rows spread by tens where a masked-language-model head's logits
    spread by a few, and half of them are positive: every text would weigh half of the vocabulary,
    and the softmax over dot products of such vectors begins, and stays, saturated. Measured are
    the states of sequences of tokens drawn from a fixed seed.
    """
    words = len(table)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(words, (_SEQUENCES, _SEQUENCE_TOKENS), generator=generator)
    training = body.model.training
    body.model.eval()
    output = body.model(input_ids=ids, attention_mask=torch.ones_like(ids))
    body.model.train(training)
    states = output.last_hidden_state.reshape(-1, table.shape[1]).float()
    # A part of the words, evenly spread, is enough to know how the logits lie.
    logits = states @ table[:: max(1, words // _SAMPLED_WORDS)].T
    spread = float(logits.std()) or 1.0
    share = min(_TEXT_WORDS, words / 4) / (_TEXT_TOKENS * words)
    place = min(logits.numel() - 1, int(logits.numel() * (1.0 - share)))
    highest = float(logits.flatten().sort().values[place]) / spread
    return table / spread, torch.full((words,), -highest)
