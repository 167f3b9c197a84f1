"""Soft prompt augmentor's engine: from requests to answers, behind a shared prefix.

What a request is answered depends on that request alone. In float32 the batched text is that of
the slow way (whole prompt, no cache, one document) token for token; ``tests`` hold this.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sptar.config import AugmentConfig
from sptar.errors import ModelError
from sptar.llm.engine.batching import BatchLimit
from sptar.llm.engine.decoding import Answer, Decoder, Prompt
from sptar.llm.engine.prefix import Prefix
from sptar.llm.engine.sampling import draw, random_stream
from sptar.llm.loading import LanguageModel
from sptar.llm.soft_prompt import SoftPrompt
from sptar.llm.template import DocumentTokens, PromptTemplate
from sptar.progress import silent
from sptar.tensors.products import PackedLayers
from sptar.types import Generation, GenerationRequest, Pair, Progress

__all__ = ["LOG_PROBABILITY_DECIMALS", "PromptedGenerator", "draw", "random_stream"]

LOG_PROBABILITY_DECIMALS = 4
"""A sum of log-probabilities is rounded to this: its further digits depend on which other
documents shared the batch, because matrix products of different shapes round differently."""


class PromptedGenerator:
    """Writes queries with one prompt; implements :class:`sptar.types.Generator`.

    Args:
        language_model: the frozen model.
        template: how documents and queries are written into the prompt.
        soft_prompt: the learned virtual tokens, or ``None`` (hard prompts, LoRA).
        examples: the M example pairs in front of every document.
        config: decoding, temperature, budget of new tokens, batch size.
        seed: names the random streams.
        progress: told about each document that is done (first attempts only, so that the sum is
            the number of rows), and in a sentence when memory runs out or the prefix cannot be
            shared.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        template: PromptTemplate,
        soft_prompt: SoftPrompt | None,
        examples: Sequence[Pair],
        config: AugmentConfig,
        seed: int,
        progress: Progress = silent,
    ) -> None:
        self._language_model = language_model
        self._template = template
        self._config = config
        # What the config leaves open was read off the labels when the template was made.
        self._new_tokens = config.max_new_tokens or template.max_new_tokens
        self._seed = seed
        self._progress = progress
        self._prefix = Prefix(language_model, soft_prompt, template.prefix_ids(examples))
        self._weights = PackedLayers(language_model.model)
        self._limit = BatchLimit(config.batch_size, progress)
        self._told_unshared = False

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of each document: virtual tokens and examples."""
        return self._prefix.length

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One answer for each request, in their order.

        Raises:
            ModelError: a document leaves no room for a query in the model's context, or does not
                fit into memory on its own.
        """
        if not requests:
            return []
        documents = [self._template.document_ids(request.document) for request in requests]
        prompts = [
            self._prompt(request, document)
            for request, document in zip(requests, documents, strict=True)
        ]
        lengths = [len(prompt.ids) for prompt in prompts]
        shared = self._prefix.can_share(max(lengths) + self._new_tokens)
        if not shared and not self._told_unshared:
            self._told_unshared = True
            self._progress.message(
                "This model cannot reuse the cache of a shared prefix; every prompt is run whole."
            )
        decoder = Decoder(
            self._language_model,
            self._prefix,
            self._limit,
            None if self._config.decoding == "greedy" else self._config.temperature,
            on_end=lambda number: self._progress.advance(int(requests[number].attempt == 0)),
        )
        equal_lengths = not shared or self._prefix.needs_equal_lengths(min(lengths))
        with self._weights.in_use():
            answers = decoder.run(prompts, shared=shared, equal_lengths=equal_lengths)
        return [
            self._generation(answer, document)
            for answer, document in zip(answers, documents, strict=True)
        ]

    def _prompt(self, request: GenerationRequest, document: DocumentTokens) -> Prompt:
        if not document.ids:
            raise ValueError("a document's part of the prompt has no token to continue from")
        doc_id = request.document.doc_id
        stream = partial(random_stream, self._seed, doc_id, request.number, request.attempt)
        return Prompt(document.ids, self._room(doc_id, len(document.ids)), stream)

    def _room(self, doc_id: str, tokens: int) -> int:
        """New tokens that a prompt may get: the budget, or what the context leaves."""
        context = self._language_model.context_tokens
        if context is None:
            return self._new_tokens
        # The last token is never read again, so it needs no position.
        room = min(self._new_tokens, context - self._prefix.length - tokens + 1)
        if room < 1:
            raise ModelError(
                f"Prompt and document '{doc_id}' take {self._prefix.length + tokens} tokens, the "
                f"model's context has {context}.",
                hint="Lower `prompt.max_document_tokens` or `prompt.examples`.",
            )
        return room

    def _generation(self, answer: Answer, document: DocumentTokens) -> Generation:
        return Generation(
            raw=self._template.decode(answer.tokens),
            log_probability=round(sum(answer.log_probabilities), LOG_PROBABILITY_DECIMALS),
            tokens=len(answer.tokens),
            stopped=answer.stopped,
            cut_tokens=document.cut_tokens,
        )
