"""The slow, obvious way to generate and to score: the whole prompt, no cache, one text at a time.

Everything fast is compared with this. It shares no code with the decoder: embeddings of the whole
prompt are put together and the whole model is run once for each new token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sptar.config import AugmentConfig
from sptar.llm.engine.generation import random_stream
from sptar.llm.loading import LanguageModel
from sptar.llm.soft_prompt import SoftPrompt
from sptar.llm.template import PromptTemplate
from sptar.types import GenerationRequest, Pair

__all__ = ["SlowAnswer", "slow_generate", "slow_query_loss"]


@dataclass(frozen=True)
class SlowAnswer:
    """What the slow way answers: all new token ids, the stop token included."""

    token_ids: list[int]
    text: str
    log_probability: float
    stopped: bool


@torch.no_grad()
def _logits(
    language_model: LanguageModel, soft_prompt: SoftPrompt | None, ids: Sequence[int]
) -> np.ndarray:
    """Logits [length, vocabulary] of soft prompt and ids, as one prompt on its own."""
    model = language_model.model
    parts = []
    if soft_prompt is not None:
        parts.append(soft_prompt.matrix.to(language_model.device, language_model.dtype))
    if ids:
        token_ids = torch.tensor(list(ids), device=language_model.device)
        parts.append(model.get_input_embeddings()(token_ids))
    outputs = model(inputs_embeds=torch.cat(parts)[None], use_cache=False)
    return outputs.logits[0].float().cpu().numpy()


def _log_softmax(row: np.ndarray) -> np.ndarray:
    row = row.astype(np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def _halving(weights: np.ndarray, uniforms: np.ndarray) -> int:
    """Choose a half of the vocabulary, then a half of that, until one token is left."""
    size = 1
    while size < len(weights):
        size *= 2
    begin = 0
    for uniform in uniforms:
        if size == 1:
            break
        size //= 2
        left = weights[begin : begin + size].sum()
        both = weights[begin : begin + 2 * size].sum()
        if uniform * both >= left:
            begin += size
    return begin


def slow_generate(
    language_model: LanguageModel,
    template: PromptTemplate,
    soft_prompt: SoftPrompt | None,
    examples: Sequence[Pair],
    request: GenerationRequest,
    config: AugmentConfig,
    seed: int,
) -> SlowAnswer:
    """Answer one request: one forward pass over everything for each new token."""
    document = request.document
    ids = template.prefix_ids(examples) + template.document_ids(document).ids
    virtual_tokens = 0 if soft_prompt is None else len(soft_prompt.matrix)
    stream = random_stream(seed, document.doc_id, request.number, request.attempt)
    new: list[int] = []
    log_probability = 0.0
    while len(new) < config.max_new_tokens:
        context = language_model.context_tokens
        if context is not None and virtual_tokens + len(ids) + len(new) > context:
            break
        row = _logits(language_model, soft_prompt, ids + new)[-1]
        if config.decoding == "greedy":
            token_id = int(row.argmax())
        else:
            weights = np.exp(_log_softmax(row / config.temperature))
            token_id = _halving(weights, stream.random(24))
        log_probability += float(_log_softmax(row)[token_id])
        new.append(token_id)
        if token_id in language_model.stop_token_ids:
            break
    stopped = bool(new) and new[-1] in language_model.stop_token_ids
    return SlowAnswer(new, template.decode(new), log_probability, stopped)


def slow_query_loss(
    language_model: LanguageModel,
    template: PromptTemplate,
    soft_prompt: SoftPrompt | None,
    examples: Sequence[Pair],
    pair: Pair,
) -> tuple[float, int]:
    """Summed loss and number of the query's tokens, from one pass over the whole sequence."""
    before = template.prefix_ids(examples) + template.document_ids(pair.document).ids
    query = template.target_ids(pair.query.text)
    logits = _logits(language_model, soft_prompt, before + query)
    first = len(logits) - len(query)
    total = math.fsum(
        -_log_softmax(logits[first + number - 1])[token_id] for number, token_id in enumerate(query)
    )
    return total, len(query)
