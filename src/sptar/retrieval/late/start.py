"""A late-interaction model from any start: loaded as it is, or built around a transformer."""

from __future__ import annotations

import json
import math
import string
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.util import load_file_path

from sptar.config import TrainConfig
from sptar.errors import ModelError
from sptar.progress import silent
from sptar.retrieval.start import (
    load_sentence_transformer,
    loading_safely,
    pad_token_set,
    pick_device,
)
from sptar.retrieval.trial import try_encoder
from sptar.types import Progress

__all__ = ["load_multi_vector_encoder", "punctuation_tokens"]

_PROJECTION_SEED = 20040712832
"""Names the stream of the projection's first weights; the digits are those of the ColBERT paper."""

_WORD_STARTS = "Ġ▁Ċĉ"
"""How byte-level and SentencePiece vocabularies write blanks, line ends and tabs."""


def load_multi_vector_encoder(
    name: str, config: TrainConfig, *, progress: Progress = silent
) -> MultiVectorEncoder:
    """Load a late-interaction model in float32 and evaluation mode.

    A folder or repository of such a model (sentence-transformers', PyLate's, Stanford's) is taken
    as it is; ``max_tokens`` can only lower its bound for documents. Any other encoder becomes
    ColBERT (arXiv 2004.12832, section 3): its transformer, whatever pooling follows left out, then

    - a linear projection without bias to ``token_dimension``, drawn from one fixed seed, so that
      loading twice gives the same model;
    - vectors of length 1;
    - queries filled up to exactly ``max_query_tokens`` with [MASK] tokens (end tokens where the
      tokenizer has none), which are not attended to and are compared as the others are;
    - documents of at most ``max_tokens``, the vectors of their punctuation left out.

    Raises:
        ModelError: nothing loadable under this name; weights that are not safetensors; code of the
            repository's own without ``trust_remote_code``; a start without a transformer, or
            one that fails its trial.
    """
    with loading_safely(name):
        if _is_multi_vector(name, config.revision):
            model = MultiVectorEncoder(
                name,
                device=pick_device(config.device),
                revision=config.revision,
                trust_remote_code=config.trust_remote_code,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
            body = model[0]
            if isinstance(body, Transformer):
                pad_token_set(body.tokenizer, name)
                own = body.document_length or body.max_seq_length
                body.document_length = _smaller(config.max_tokens, own)
        else:
            model = _built_around(name, config, progress)
    try_encoder(model.eval().float(), name)
    return model


def _is_multi_vector(name: str, revision: str | None) -> bool:
    def read(file: str) -> dict[str, Any]:
        path = load_file_path(name, file, revision=revision)
        found = {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}

    if read("config_sentence_transformers.json").get("model_type") in (
        "MultiVectorEncoder",
        "ColBERT",
    ):
        return True
    return "HF_ColBERT" in (read("config.json").get("architectures") or ())


def _smaller(bound: int, own: int | None) -> int:
    return bound if own is None else min(bound, int(own))


def _built_around(name: str, config: TrainConfig, progress: Progress) -> MultiVectorEncoder:
    device = pick_device(config.device)
    start = load_sentence_transformer(
        name,
        pooling="mean",
        max_tokens=None,
        device=device,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        progress=progress,
    )
    body = start[0]
    if not isinstance(body, Transformer) or body.tokenizer is None:
        raise ModelError(
            f"The start '{name}' has no transformer that gives a vector for each token.",
            hint="Late interaction starts from a plain transformer: set train.start to one.",
        )
    own = body.max_seq_length
    length = _smaller(config.max_query_tokens or config.max_tokens, own)
    # A chat template would put a conversation around every text, and fill up what is none.
    body.modality_config = {"text": body.modality_config["text"]}
    body.input_formatter.supported_modalities = ["text"]
    # Tokens that are filled in stand behind the query, where they see all of it.
    body.tokenizer.padding_side = "right"
    body.document_length = _smaller(config.max_tokens, own)
    body.max_seq_length = body.document_length
    body.query_length = None
    body.query_expansion = {
        "strategy": "fixed",
        "length": length,
        "attend": False,
        "token": body.tokenizer.mask_token or body.tokenizer.eos_token or body.tokenizer.pad_token,
    }
    width = body.get_embedding_dimension()
    return MultiVectorEncoder(
        modules=[
            body,
            Dense(
                width,
                config.token_dimension,
                bias=False,
                activation_function=torch.nn.Identity(),
                init_weight=_first_weights(width, config.token_dimension),
                module_input_name="token_embeddings",
            ),
            MultiVectorMask(skiplist_words=punctuation_tokens(body.tokenizer)),
            Normalize(module_input_name="token_embeddings"),
        ],
        device=device,
        prompts={role: text for role, text in start.prompts.items() if text},
        similarity_fn_name="maxsim",
    )


def _first_weights(width: int, dimension: int) -> torch.Tensor:
    """[dimension, width], uniform within 1/√width: a linear layer's usual start, by a seed."""
    generator = torch.Generator().manual_seed(_PROJECTION_SEED)
    return (2 * torch.rand(dimension, width, generator=generator) - 1) / math.sqrt(width)


def punctuation_tokens(tokenizer: Any) -> list[str]:
    """The tokens of a vocabulary that are nothing but ASCII punctuation, blanks before it aside.

    ColBERT lists single marks, which is all that BERT's vocabulary has; byte-level vocabularies
    have them with a blank in front and in groups too.
    """
    special = set(tokenizer.all_special_tokens)
    marks = set(string.punctuation)
    return sorted(
        token
        for token in tokenizer.get_vocab()
        if token not in special and (bare := token.strip(_WORD_STARTS)) and marks.issuperset(bare)
    )
