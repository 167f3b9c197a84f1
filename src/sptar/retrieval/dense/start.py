"""The untrained start of a bi-encoder: a whole model, two towers, or a token table alone."""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Router,
    StaticEmbedding,
    Transformer,
)
from tokenizers import Tokenizer
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from sptar.config import TrainConfig
from sptar.errors import ModelError
from sptar.progress import silent
from sptar.retrieval.retriever import Role
from sptar.retrieval.specs import retriever_spec
from sptar.retrieval.start import (
    bound_tokens,
    load_sentence_transformer,
    loading_safely,
    pick_device,
)
from sptar.retrieval.trial import try_encoder
from sptar.types import Progress

__all__ = ["load_start"]


def load_start(config: TrainConfig, *, progress: Progress = silent) -> SentenceTransformer:
    """The start of a resolved recipe, untrained, in float32 and evaluation mode.

    With ``towers: separate`` it has an encoder for queries and one for documents, loaded from
    ``query_start`` and ``start``, or both from ``start``. A start that has two towers of its own
    keeps them in any case. With ``start_layers`` ``token_table`` it is the mean of the start's
    input token embeddings (a start that is a table already stays one); special tokens do not
    count.

    Raises:
        ModelError: a start cannot be loaded, has no such table, fails its trial, or the two towers
            give vectors of different lengths.
    """
    if config.towers == "shared":
        model = _one(config.start, config, progress)
    else:
        documents = _one(config.start, config, progress)
        queries = _one(config.query_start or config.start, config, progress)
        model = _two_towers(queries, documents, config)
    bound_tokens(model, config.max_tokens, config.max_query_tokens)
    try_encoder(model.eval().float(), config.start)
    return model


def _one(name: str, config: TrainConfig, progress: Progress) -> SentenceTransformer:
    table = retriever_spec(config).start_layers == "token_table"
    device = pick_device(config.device)
    if table and _is_model2vec(name, config):
        with loading_safely(name):
            loaded = StaticEmbedding.load(name, revision=config.revision)
            return SentenceTransformer(modules=[loaded], device=device)
    model = load_sentence_transformer(
        name,
        pooling=config.pooling,
        max_tokens=None,
        device=device,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        progress=progress,
    )
    if table and not any(isinstance(module, StaticEmbedding) for module in model.modules()):
        return SentenceTransformer(
            modules=[_token_table(model, name)], prompts=dict(model.prompts), device=device
        )
    return model


def _is_model2vec(name: str, config: TrainConfig) -> bool:
    """Whether it is a model2vec table without the files of sentence-transformers beside it."""
    folder = Path(name)
    if folder.is_dir() and (folder / "modules.json").is_file():
        return False
    with loading_safely(name):
        settings, _ = PretrainedConfig.get_config_dict(name, revision=config.revision)
    return bool(settings.get("model_type") == "model2vec")


def _token_table(model: SentenceTransformer, name: str) -> StaticEmbedding:
    body = next((module for module in model.modules() if isinstance(module, Transformer)), None)
    if body is None or not isinstance(body.tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"The start '{name}' has no token table with a fast tokenizer.",
            hint="Choose another start for static embeddings.",
        )
    # A copy: this one neither pads nor cuts.
    tokenizer = Tokenizer.from_str(body.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    table: torch.Tensor = body.model.get_input_embeddings().weight
    if tokenizer.get_vocab_size() > len(table):
        raise ModelError(
            f"The tokenizer of '{name}' knows {tokenizer.get_vocab_size()} tokens, its model only "
            f"{len(table)}.",
            hint="Choose another start.",
        )
    return StaticEmbedding(tokenizer, embedding_weights=table.detach().float().clone())


def _tower(model: SentenceTransformer, role: Role) -> list[torch.nn.Module]:
    first, *rest = list(model)
    return [*first.sub_modules[role], *rest] if isinstance(first, Router) else [first, *rest]


def _two_towers(
    queries: SentenceTransformer, documents: SentenceTransformer, config: TrainConfig
) -> SentenceTransformer:
    lengths = (queries.get_embedding_dimension(), documents.get_embedding_dimension())
    if lengths[0] != lengths[1]:
        raise ModelError(
            f"The query encoder's vectors have {lengths[0]} numbers, the document encoder's "
            f"{lengths[1]}.",
            hint="Give a train.query_start that fits train.start.",
        )
    router = Router.for_query_document(
        query_modules=_tower(queries, "query"), document_modules=_tower(documents, "document")
    )
    prompts = {
        name: prompt
        for name, prompt in (*documents.prompts.items(), ("query", queries.prompts.get("query")))
        if prompt
    }
    return SentenceTransformer(modules=[router], prompts=prompts, device=pick_device(config.device))
