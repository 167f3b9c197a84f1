"""Loading a cross-encoder safely: a trained one, or any encoder under a new output layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.sentence_transformer.modules import Transformer
from sentence_transformers.util import load_file_path
from transformers import AutoConfig, PreTrainedTokenizerBase

from sptar.config import TrainConfig
from sptar.io import read_json
from sptar.progress import silent
from sptar.retrieval.start import (
    attends_both_ways,
    loading_safely,
    pad_token_set,
    pick_device,
)
from sptar.retrieval.trial import try_encoder
from sptar.types import Progress

__all__ = ["LoadedCrossEncoder", "load_cross_encoder_model"]


@dataclass(frozen=True, slots=True)
class LoadedCrossEncoder:
    """A model, and whether its output layer is new, so that its scores mean nothing yet."""

    model: CrossEncoder
    new_head: bool


def load_cross_encoder_model(
    name: str, config: TrainConfig, *, progress: Progress = silent
) -> LoadedCrossEncoder:
    """Load a trained cross-encoder, or make one of any encoder, in float32 and evaluation mode.

    A cross-encoder or sequence classifier with one output is taken as it is. Of anything else that
    transformers can classify with (a plain folder, a sentence-transformers folder, a causal
    language model) the transformer is taken and gets a new output layer with one output, drawn
    from a fixed seed: loading twice gives the same model. A tokenizer without a pad token pads with
    its end token.

    Args:
        name: folder or hub name.
        config: resolved recipe. Its ``max_tokens`` can only lower the model's own bound.

    Raises:
        ModelError: nothing loadable under this name; weights that are not safetensors; code of the
            repository's own without ``trust_remote_code``.
    """
    source: dict[str, Any] = {
        "revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
    }
    device = pick_device(config.device)
    with loading_safely(name):
        trained = _is_cross_encoder(name, source)
        if trained:
            model = CrossEncoder(
                name,
                device=device,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
                **source,
            )
        else:
            body = _with_new_head(_transformer_source(name), source, progress)
            model = CrossEncoder(modules=[body], device=device)
    for module in model.modules():
        if isinstance(module, Transformer):
            _prepare(module, name, config.max_tokens)
    try_encoder(model.eval().float(), name)
    return LoadedCrossEncoder(model, new_head=not trained)


def _is_cross_encoder(name: str, source: dict[str, Any]) -> bool:
    """Whether its output layer is one that was trained to give one score for a pair."""
    file = load_file_path(name, "config_sentence_transformers.json", revision=source["revision"])
    kind = None if file is None else read_json(file).get("model_type")
    if kind is not None and kind != "CrossEncoder":
        return False
    config = AutoConfig.from_pretrained(_transformer_source(name), **source)
    made_for = (config.architectures or [""])[0]
    if made_for.endswith("ForSequenceClassification"):
        return bool(config.num_labels == 1)
    return kind == "CrossEncoder"


def _transformer_source(name: str) -> str:
    """Where the transformer of a sentence-transformers folder lies: in it, or one folder down."""
    folder = Path(name)
    if not folder.is_dir() or (folder / "config.json").is_file():
        return name
    for file in sorted(folder.glob("*/config.json")):
        if "model_type" in read_json(file):
            return str(file.parent)
    return name


def _with_new_head(name: str, source: dict[str, Any], progress: Progress) -> Transformer:
    overrides = attends_both_ways(name, source["revision"], source["trust_remote_code"], progress)
    return Transformer(
        name,
        transformer_task="sequence-classification",
        model_kwargs={
            **source,
            "use_safetensors": True,
            "dtype": torch.float32,
            # A classifier with more classes loses its output layer.
            "ignore_mismatched_sizes": True,
        },
        processor_kwargs=dict(source),
        config_kwargs={**source, **overrides, "num_labels": 1},
        # Plain pairs of texts, also where the tokenizer has a template for chats.
        modality_config={"text": {"method": "forward", "method_output_name": "logits"}},
        module_output_name="scores",
    )


def _prepare(module: Transformer, name: str, max_tokens: int) -> None:
    """Padding that no score depends on, and the token bound."""
    tokenizer = module.tokenizer
    pad_token_set(tokenizer, name)
    is_classifier = module.transformer_task == "sequence-classification"
    if is_classifier and isinstance(tokenizer, PreTrainedTokenizerBase):
        # Learned positions count from the left: padding there would shift a text.
        tokenizer.padding_side = "right"
        # Models that read the last token find it by the pad token of their config.
        for settings in (module.model.config, module.model.config.get_text_config()):
            settings.pad_token_id = tokenizer.pad_token_id
    own = module.max_seq_length
    module.max_seq_length = max_tokens if own is None else min(max_tokens, int(own))
