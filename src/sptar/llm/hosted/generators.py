"""Generators behind which another engine writes: vLLM with a soft prompt, any server without.

A soft prompt reaches another engine as token ids of an exported vocabulary
(:mod:`sptar.llm.vocabulary_export`). Prompt embeddings are a second way for vLLM servers started
with ``--enable-prompt-embeds``; there are reports of wrong text where they meet prefix caching, so
``sptar doctor generation`` should be asked first. Hosted services take neither: they get the
written-out prompt alone.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sptar.config import AugmentConfig, LanguageModelConfig, PromptConfig
from sptar.errors import ConfigError, ModelError
from sptar.llm.hosted.answer_log import AnswerLog
from sptar.llm.hosted.answers import Completion
from sptar.llm.hosted.completions import CompletionsClient
from sptar.llm.loading import LanguageModel
from sptar.llm.soft_prompt import SoftPrompt
from sptar.llm.template import PromptTemplate, bad_question
from sptar.llm.vocabulary_export import load_export
from sptar.methods import WORDINGS
from sptar.progress import silent
from sptar.types import Document, Generation, GenerationRequest, Pair, Progress

__all__ = [
    "HardPromptGenerator",
    "SoftPromptServerGenerator",
    "completions_client",
    "hard_prompt",
    "request_seed",
]

_NEVER = -100


def completions_client(
    llm: LanguageModelConfig, model: str, log: AnswerLog | None = None
) -> CompletionsClient:
    """The client that a config asks for, which keeps its answers in ``log``.

    Raises:
        ConfigError: there is no ``llm.base_url``.
    """
    if llm.base_url is None:
        raise ConfigError(
            f"`llm.backend: {llm.backend}` needs `llm.base_url`.",
            hint="Give the address of its server, such as http://127.0.0.1:8000/v1",
        )
    return CompletionsClient(
        llm.base_url,
        model,
        interface=llm.interface,
        api_key_variable=llm.api_key_variable,
        concurrency=llm.concurrency,
        timeout=llm.timeout,
        log=log,
    )


def request_seed(seed: int, request: GenerationRequest) -> int:
    """The seed that a server gets with a request: 31 bits named by (seed, document, try).

    >>> request_seed(1, GenerationRequest(Document("d", ""))) == request_seed(
    ...     1, GenerationRequest(Document("d", "other text"))
    ... )
    True
    """
    name = f"{seed}\x1f{request.number}\x1f{request.attempt}\x1f{request.document.doc_id}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") >> 1


def _sampling(config: AugmentConfig, seed: int, request: GenerationRequest) -> dict[str, Any]:
    greedy = config.decoding == "greedy"
    return {
        "max_tokens": config.max_new_tokens,
        "temperature": 0 if greedy else config.temperature,
        "top_p": 1,
        "seed": request_seed(seed, request),
        "stop": ["\n"],
        "logprobs": 1,
    }


def _generation(completion: Completion, cut_tokens: int) -> Generation:
    return Generation(
        raw=completion.text.lstrip().split("\n", 1)[0].strip(),
        log_probability=completion.log_probability,
        tokens=completion.tokens or 0,
        stopped=completion.stopped,
        cut_tokens=cut_tokens,
        refusal=completion.refusal,
    )


def _asked(
    client: CompletionsClient,
    bodies: Sequence[dict[str, Any]],
    requests: Sequence[GenerationRequest],
    progress: Progress,
) -> list[Completion]:
    """The answers, with a bar that counts what is written for the first time."""

    def on_answer(number: int) -> None:
        progress.advance(int(requests[number].attempt == 0))

    return client.complete(bodies, on_answer)


class SoftPromptServerGenerator:
    """A :class:`sptar.types.Generator` that a vLLM server answers, soft prompt included.

    Args:
        client: the server, with the exported folder as its model.
        template: makes the ids of prompts; its tokenizer is that of the original model.
        soft_prompt: the one that was exported.
        export: the exported folder, or ``None`` to send prompt embeddings.
        examples: pairs in the prompt.
        config: decoding.
        seed: of sampling.
        progress: advances with every answer.

    Raises:
        ModelError: the export holds another prompt than this run's.
    """

    def __init__(
        self,
        client: CompletionsClient,
        language_model: LanguageModel,
        template: PromptTemplate,
        soft_prompt: SoftPrompt,
        examples: Sequence[Pair],
        config: AugmentConfig,
        seed: int,
        export: str | Path | None,
        progress: Progress = silent,
    ) -> None:
        self._client = client
        self._progress = progress
        self._language_model = language_model
        self._template = template
        self._soft_prompt = soft_prompt
        self._config = config
        self._seed = seed
        self._behind = template.prefix_ids(examples)
        self._exported = None if export is None else load_export(export)
        if self._exported is not None:
            own = self._exported.prefix_ids[len(self._exported.virtual_token_ids) :]
            if self._exported.soft_prompt != soft_prompt.digest or list(own) != self._behind:
                raise ModelError(
                    f"The export in {export} was made from another soft prompt or other examples "
                    "than this run's.",
                    hint="Export again: sptar export soft-prompt CONFIG --as-vocabulary FOLDER",
                )

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One answer for each request, in the order of the requests."""
        documents = [self._template.document_ids(request.document) for request in requests]
        bodies = []
        for request, document in zip(requests, documents, strict=True):
            body = _sampling(self._config, self._seed, request)
            body["stop_token_ids"] = sorted(self._language_model.stop_token_ids)
            if self._exported is not None:
                body["prompt"] = [*self._exported.prefix_ids, *document.ids]
                body["logit_bias"] = {
                    str(token_id): _NEVER for token_id in self._exported.virtual_token_ids
                }
            else:
                body["prompt_embeds"] = self._embedded([*self._behind, *document.ids])
            bodies.append(body)
        return [
            _generation(completion, document.cut_tokens)
            for completion, document in zip(
                _asked(self._client, bodies, requests, self._progress), documents, strict=True
            )
        ]

    def _embedded(self, ids: Sequence[int]) -> str:
        """Soft prompt and ids as embeddings, in the form that vLLM's interface takes."""
        import torch

        soft = self._soft_prompt.embeddings(self._language_model)
        text = self._language_model.embed(torch.tensor(list(ids)))
        stream = io.BytesIO()
        torch.save(torch.cat([soft, text]).cpu(), stream)
        return base64.b64encode(stream.getvalue()).decode()


def hard_prompt(
    prompt: PromptConfig, style: str, examples: Sequence[Pair], document: Document
) -> str:
    """The prompt as text, for engines whose tokenizer is not at hand.

    Documents are cut by words only. The parts are those of
    :class:`sptar.llm.template.PromptTemplate`; tokens may differ where two parts meet.

    >>> from sptar.types import Query
    >>> pair = Pair(Query("q", "how often to feed"), Document("a", "Feed it daily."))
    >>> hard_prompt(PromptConfig(), "sptar", [pair], Document("b", "Glass.")).split(" \\n ")[2:]
    ['Document: Glass.', 'Relevant Query:']
    """
    row = WORDINGS[style]
    head, newline, tail = prompt.separator.partition("\n")
    end = head + newline or "\n"
    query_label = row.query_label or prompt.query_label

    def block(number: int, shown: Document) -> str:
        words = shown.full_text.split()[: prompt.max_document_words]
        title = f"Example {number}:{end}{tail}" if row.numbered and prompt.examples else ""
        opened = f"{title}{prompt.document_label} {' '.join(words)}"
        return f"{opened}{prompt.separator}{query_label}"

    text = f"{row.instruction}{end}{tail}" if row.instruction else ""
    for number, pair in enumerate(examples, start=1):
        text += f"{block(number, pair.document)} {' '.join(pair.query.text.split())}{end}{tail}"
        if row.bad_query_label:
            text += f"{row.bad_query_label} {bad_question(pair.document)}{end}{tail}"
    return text + block(len(examples) + 1, document)


class HardPromptGenerator:
    """A :class:`sptar.types.Generator` for a server that is given the written-out prompt."""

    def __init__(
        self,
        client: CompletionsClient,
        prompt: PromptConfig,
        style: str,
        examples: Sequence[Pair],
        config: AugmentConfig,
        seed: int,
        *,
        answer_only: bool = False,
        progress: Progress = silent,
    ) -> None:
        self._client = client
        self._progress = progress
        self._seed = seed
        self._config = config
        # A chat model likes to explain itself; a plain continuation does not need to be told.
        asked = "\n\nAnswer with the query alone, on one line." if answer_only else ""
        self._text: Callable[[Document], str] = lambda document: (
            hard_prompt(prompt, style, examples, document) + asked
        )

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One answer for each request, in the order of the requests."""
        bodies = []
        for request in requests:
            body = _sampling(self._config, self._seed, request)
            body["prompt"] = self._text(request.document)
            bodies.append(body)
        answers = _asked(self._client, bodies, requests, self._progress)
        return [_generation(completion, 0) for completion in answers]
