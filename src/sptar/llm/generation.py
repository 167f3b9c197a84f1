"""Soft prompt augmentor's engine: batched decoding behind a shared prefix.

What a request is answered depends on that request alone. In float32 the batched text is that of
the slow way (whole prompt, no cache, one document) token for token; ``tests`` hold this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sptar.config import AugmentConfig
from sptar.errors import ModelError
from sptar.llm.batching import LengthBatches, pad_right
from sptar.llm.loading import LanguageModel
from sptar.llm.prefix import Prefix
from sptar.llm.soft_prompt import SoftPrompt
from sptar.llm.template import PromptTemplate
from sptar.progress import silent
from sptar.types import Generation, GenerationRequest, Pair, Progress

__all__ = ["LOG_PROBABILITY_DECIMALS", "PromptedGenerator", "draw", "random_stream"]

LOG_PROBABILITY_DECIMALS = 4
"""A sum of log-probabilities is rounded to this: its further digits depend on which other
documents shared the batch, because matrix products of different shapes round differently."""

_SHARE_TO_DROP = 0.25
"""Finished rows leave when at least this share of a batch has finished. Taking rows out copies
the cache of those that stay, about the price of one decoding step; leaving them in costs their
share of every later step."""


_DRAWS_PER_TOKEN = 24
"""Uniform numbers set aside for each sampled token: enough for 16 million tokens."""


def random_stream(seed: int, doc_id: str, number: int, attempt: int) -> np.random.Generator:
    """The random numbers of one try at one query: a Philox generator keyed by their SHA-256.

    Whatever else is generated, before it or beside it, the stream is the same.

    >>> a, b = random_stream(1, "d1", 0, 0), random_stream(1, "d1", 0, 1)
    >>> bool(a.random() == b.random())
    False
    """
    name = f"{seed}\x1f{number}\x1f{attempt}\x1f{doc_id}".encode()
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))


def draw(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float) -> torch.Tensor:
    """Sample one token for each row, in float64, each from its own row's logits only.

    The inverse of the distribution function, taken step by step: the vocabulary is halved again
    and again, and one uniform number decides each time between the two halves by their masses.
    One number and one cumulative sum would give the same distribution. But logits differ in
    their last bits between batches, every sum behind a likely token moves with it, and among
    tens of thousands of unlikely tokens such a shift often means a neighbour instead: measured,
    3 of 1,000 tokens changed with the batch size. Halving compares masses only, one comparison
    for each doubling of the vocabulary.

    Args:
        logits: [rows, vocabulary].
        uniforms: numbers in [0, 1) [rows, at least log2(vocabulary)], float64; the first of a row
            decides between the halves of the whole vocabulary (rounded up to a power of two).
        temperature: divides the logits.

    Returns:
        Token ids [rows].

    Raises:
        ValueError: there are too few numbers for the vocabulary.

    >>> draw(torch.zeros(2, 4), torch.tensor([[0.49, 0.51], [0.51, 0.49]]).double(), 0.7)
    tensor([1, 2])
    """
    rows, vocabulary = logits.shape
    depth = max(vocabulary - 1, 1).bit_length()
    if uniforms.shape[1] < depth:
        raise ValueError(f"a vocabulary of {vocabulary} needs {depth} numbers for each token")
    weights = torch.softmax(logits.double() / temperature, dim=-1)
    masses = [torch.nn.functional.pad(weights, (0, 2**depth - vocabulary))]
    for _ in range(depth - 1):
        masses.append(masses[-1].view(rows, -1, 2).sum(dim=-1))
    node = torch.zeros((rows, 1), dtype=torch.long, device=logits.device)
    for level, mass in enumerate(reversed(masses)):
        left = mass.gather(1, 2 * node)
        right = mass.gather(1, 2 * node + 1)
        # An empty half is never entered, as a uniform number is below 1.
        go_right = uniforms[:, level, None] * (left + right) >= left
        node = 2 * node + go_right
    return node[:, 0]


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One request as token ids."""

    request: GenerationRequest
    ids: list[int]
    cut_tokens: int


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
        self._seed = seed
        self._progress = progress
        self._prefix = Prefix(language_model, soft_prompt, template.prefix_ids(examples))
        self._batches = LengthBatches(config.batch_size, progress)
        self._told_unshared = False
        self._stop_ids = torch.tensor(
            sorted(language_model.stop_token_ids), dtype=torch.long, device=language_model.device
        )

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
        prompts = [self._prompt(request) for request in requests]
        lengths = [len(prompt.ids) for prompt in prompts]
        if not prompts:
            return []
        shared = self._prefix.can_share(max(lengths) + self._config.max_new_tokens)
        if not shared and not self._told_unshared:
            self._told_unshared = True
            self._progress.message(
                "This model cannot reuse the cache of a shared prefix; every prompt is run whole."
            )
        equal_lengths = not shared or self._prefix.needs_equal_lengths(min(lengths))

        @torch.inference_mode()
        def answer(batch: list[int]) -> list[Generation]:
            chosen = [prompts[item] for item in batch]
            answers = self._decode(chosen, shared=shared)
            self._progress.advance(sum(prompt.request.attempt == 0 for prompt in chosen))
            return answers

        return self._batches.run(lengths, answer, equal_lengths=equal_lengths)

    def _prompt(self, request: GenerationRequest) -> _Prompt:
        tokens = self._template.document_ids(request.document)
        if not tokens.ids:
            raise ValueError("a document's part of the prompt has no token to continue from")
        return _Prompt(request, list(tokens.ids), tokens.cut_tokens)

    def _room(self, prompt: _Prompt) -> int:
        """New tokens that a prompt may get: the budget, or what the context leaves."""
        context = self._language_model.context_tokens
        if context is None:
            return self._config.max_new_tokens
        # The last token is never read again, so it needs no position.
        room = min(self._config.max_new_tokens, context - self._prefix.length - len(prompt.ids) + 1)
        if room < 1:
            raise ModelError(
                f"Prompt and document '{prompt.request.document.doc_id}' take "
                f"{self._prefix.length + len(prompt.ids)} tokens, the model's context has "
                f"{context}.",
                hint="Lower `prompt.max_document_tokens` or `prompt.examples`.",
            )
        return room

    def _decode(self, prompts: list[_Prompt], *, shared: bool) -> list[Generation]:
        """Answers to one batch, which runs until all rows have ended."""
        device = self._language_model.device
        count = len(prompts)
        room = torch.tensor([self._room(prompt) for prompt in prompts], device=device)
        steps = int(room.max())
        uniforms = self._uniforms(prompts, steps)

        rows = self._prefix.open(count, shared=shared)
        # The last token of each document starts the decoding: so every forward pass that needs
        # logits has one column, and rows of different lengths need no gathering.
        ids, lengths = pad_right([prompt.ids[:-1] for prompt in prompts], device)
        if ids.shape[1]:
            rows.extend(ids, lengths, keep=1)
        last = torch.tensor([prompt.ids[-1] for prompt in prompts], device=device)
        one = torch.ones_like(last)

        tokens = torch.zeros((count, steps), dtype=torch.long, device=device)
        written = torch.zeros(count, dtype=torch.long, device=device)
        stopped = torch.zeros(count, dtype=torch.bool, device=device)
        log_probability = torch.zeros((count, steps), dtype=torch.float32, device=device)
        alive = torch.arange(count, device=device)  # position in the batch of each row left
        running = torch.ones(count, dtype=torch.bool, device=device)  # of the rows left
        for step in range(steps):
            logits = rows.extend(last[:, None], one, keep=1)[:, 0].float()
            last = self._choose(logits, None if uniforms is None else uniforms[alive, step])
            chosen = logits.gather(1, last[:, None])[:, 0]
            tokens[alive, step] = last
            log_probability[alive, step] = chosen - logits.logsumexp(dim=-1)
            written[alive] += running
            stop = running & torch.isin(last, self._stop_ids)
            stopped[alive] |= stop
            running = running & ~stop & (step + 1 < room[alive])
            left = int(running.sum())
            if left == 0:
                break
            if len(alive) - left >= _SHARE_TO_DROP * len(alive):
                keep = running.nonzero()[:, 0]
                rows.select(keep)
                alive, last, one, running = alive[keep], last[keep], one[keep], running[keep]
        return self._answers(prompts, tokens, written, stopped, log_probability)

    def _uniforms(self, prompts: Sequence[_Prompt], steps: int) -> torch.Tensor | None:
        """Random numbers [rows, steps, :], float64; a token's do not depend on ``steps``."""
        if self._config.decoding == "greedy":
            return None
        drawn = [
            random_stream(
                self._seed,
                prompt.request.document.doc_id,
                prompt.request.number,
                prompt.request.attempt,
            ).random((steps, _DRAWS_PER_TOKEN))
            for prompt in prompts
        ]
        return torch.from_numpy(np.stack(drawn)).to(self._arithmetic_device)

    @property
    def _arithmetic_device(self) -> torch.device:
        """Where float64 exists: everywhere but on Apple's GPUs."""
        device = self._language_model.device
        return torch.device("cpu") if device.type == "mps" else device

    def _choose(self, logits: torch.Tensor, uniforms: torch.Tensor | None) -> torch.Tensor:
        """The next token of each row [rows]."""
        if uniforms is None:
            return logits.argmax(dim=-1)
        token_ids = draw(logits.to(uniforms.device), uniforms, self._config.temperature)
        return token_ids.to(logits.device)

    def _answers(
        self,
        prompts: Sequence[_Prompt],
        tokens: torch.Tensor,
        written: torch.Tensor,
        stopped: torch.Tensor,
        log_probability: torch.Tensor,
    ) -> list[Generation]:
        # Out of the tensors once, not once for each row.
        token_lists, counts, stops = tokens.tolist(), written.tolist(), stopped.tolist()
        log_probabilities = log_probability.tolist()
        return [
            Generation(
                raw=self._template.decode(token_lists[row][: counts[row]]),
                log_probability=round(
                    sum(log_probabilities[row][: counts[row]]), LOG_PROBABILITY_DECIMALS
                ),
                tokens=counts[row],
                stopped=stops[row],
                cut_tokens=prompt.cut_tokens,
            )
            for row, prompt in enumerate(prompts)
        ]
