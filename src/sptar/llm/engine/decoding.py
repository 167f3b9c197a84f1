"""Continuous batching: where an answer has ended, a prompt that waits takes its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from sptar.llm.engine.batching import BatchLimit, pad_right
from sptar.llm.engine.prefix import Prefix
from sptar.llm.engine.prompt_rows import PromptRows
from sptar.llm.engine.sampling import DRAWS_PER_TOKEN, draw
from sptar.llm.loading import LanguageModel
from sptar.tensors.memory import is_out_of_memory

__all__ = ["Answer", "Decoder", "Prompt"]

_PREFILL_TOKENS = {"cpu": 1024}
_PREFILL_TOKENS_ELSEWHERE = 8192
"""Tokens of new prompts in one forward pass, padding included: few enough that what passes from
layer to layer stays in a processor's cache, enough that matrix products run at their peak."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What stands behind the prefix, and what may follow.

    Attributes:
        ids: token ids, at least one.
        room: new tokens that it may get.
        stream: opens the random numbers of its answer.
    """

    ids: Sequence[int]
    room: int
    stream: Callable[[], np.random.Generator]


@dataclass(slots=True)
class Answer:
    """The tokens of one answer, the stop token included, as they are written."""

    number: int
    prompt: Prompt
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    stopped: bool = False
    _uniforms: np.random.Generator | None = None

    @property
    def last(self) -> int:
        """The token that the model reads next."""
        return self.tokens[-1] if self.tokens else self.prompt.ids[-1]

    @property
    def ended(self) -> bool:
        """Whether it has stopped or used up its room."""
        return self.stopped or len(self.tokens) == self.prompt.room

    def uniforms(self) -> np.ndarray:
        """Random numbers for the next token."""
        if self._uniforms is None:
            self._uniforms = self.prompt.stream()
        return self._uniforms.random(DRAWS_PER_TOKEN)


class Decoder:
    """Answers prompts behind one prefix; each answer is that of its prompt alone.

    A forward pass reads either one token of every answer, or several new prompts, the longest
    first: what does not fit into memory shows at once.

    Args:
        language_model: the frozen model.
        prefix: what all prompts begin with.
        limit: how many answers are written at a time, at most.
        temperature: ``None`` takes the likeliest token.
        on_end: told the number of each prompt whose answer has ended.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        prefix: Prefix,
        limit: BatchLimit,
        temperature: float | None,
        on_end: Callable[[int], None],
    ) -> None:
        self._language_model = language_model
        self._prefix = prefix
        self._limit = limit
        self._temperature = temperature
        self._on_end = on_end
        kind = language_model.device.type
        self._prefill_tokens = _PREFILL_TOKENS.get(kind, _PREFILL_TOKENS_ELSEWHERE)

    @torch.inference_mode()
    def run(self, prompts: Sequence[Prompt], *, shared: bool, equal_lengths: bool) -> list[Answer]:
        """Answer of each prompt, in their order.

        Args:
            prompts: what to answer.
            shared: whether they can reuse the prefix's cache.
            equal_lengths: whether only prompts of equal length may begin together.

        Raises:
            ModelError: a single prompt does not fit into memory.
        """
        ended: dict[int, Answer] = {}
        while len(ended) < len(prompts):
            # What had begun when memory ran out begins again, in a smaller batch.
            left = [number for number in range(len(prompts)) if number not in ended]
            left.sort(key=lambda number: -len(prompts[number].ids))
            waiting = deque(Answer(number, prompts[number]) for number in left)
            batch: list[Answer] = []
            if not self._write(waiting, batch, ended, shared, equal_lengths):
                self._limit.halve(len(batch), max(len(answer.prompt.ids) for answer in batch))
        return [ended[number] for number in range(len(prompts))]

    def _write(
        self,
        waiting: deque[Answer],
        batch: list[Answer],
        ended: dict[int, Answer],
        shared: bool,
        equal_lengths: bool,
    ) -> bool:
        """Write all answers; ``False`` when memory ran out, on those left in ``batch``."""
        rows: PromptRows | None = None
        try:
            while waiting or batch:
                while new := self._next(waiting, len(batch), shared, equal_lengths):
                    batch += new
                    opened = self._read(new, shared)
                    if rows is None:
                        rows = opened
                    else:
                        rows.join(opened)
                assert rows is not None
                self._append_tokens(batch, rows)
                for answer in batch:
                    if answer.ended:
                        ended[answer.number] = answer
                        self._on_end(answer.number)
                kept = _closed_up([not answer.ended for answer in batch])
                if not kept:
                    rows = None
                elif len(kept) < len(batch):
                    rows.select(torch.tensor(kept, device=self._language_model.device))
                batch[:] = [batch[row] for row in kept]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # The frames of a caught exception keep its tensors alive: retry outside.
            return False
        return True

    def _next(
        self, waiting: deque[Answer], busy: int, shared: bool, equal_lengths: bool
    ) -> list[Answer]:
        """The prompts to begin with now; none while it is better to wait for more room."""
        if not waiting:
            return []
        length = len(waiting[0].prompt.ids)
        count = self._limit.rows
        if shared and self._prefix.rows_can_join:
            count = max(1, min(self._prefill_tokens // length, count // 2))
            if busy + count > self._limit.rows:
                return []
        elif busy:
            return []
        new: list[Answer] = []
        while waiting and len(new) < count:
            if equal_lengths and len(waiting[0].prompt.ids) != length:
                break
            new.append(waiting.popleft())
        return new

    def _read(self, answers: Sequence[Answer], shared: bool) -> PromptRows:
        """Rows that hold all of their prompts but the last tokens, with which decoding begins."""
        rows = self._prefix.open(len(answers), shared=shared)
        ids, lengths = pad_right(
            [answer.prompt.ids[:-1] for answer in answers], self._language_model.device
        )
        if ids.shape[1]:
            rows.extend(ids, lengths, keep=1)
        return rows

    def _append_tokens(self, answers: Sequence[Answer], rows: PromptRows) -> None:
        """One more token for each answer."""
        device = self._language_model.device
        last = torch.tensor([[answer.last] for answer in answers], device=device)
        one = torch.ones(len(answers), dtype=torch.long, device=device)
        logits = rows.extend(last, one, keep=1)[:, 0].float()
        token_ids = self._choose(logits, answers)
        chosen = logits.gather(1, token_ids[:, None])[:, 0]
        log_probabilities = (chosen - logits.logsumexp(dim=-1)).tolist()
        for answer, token_id, value in zip(
            answers, token_ids.tolist(), log_probabilities, strict=True
        ):
            answer.tokens.append(token_id)
            answer.log_probabilities.append(value)
            answer.stopped = token_id in self._language_model.stop_token_ids

    def _choose(self, logits: torch.Tensor, answers: Sequence[Answer]) -> torch.Tensor:
        """The next token of each answer [rows]."""
        if self._temperature is None:
            return logits.argmax(dim=-1)
        uniforms = torch.from_numpy(np.stack([answer.uniforms() for answer in answers]))
        # Apple's GPUs have no float64.
        device = torch.device("cpu") if logits.device.type == "mps" else logits.device
        token_ids = draw(logits.to(device), uniforms.to(device), self._temperature)
        return token_ids.to(logits.device)


def _closed_up(stays: Sequence[bool]) -> list[int]:
    """Rows that stay; the last of them fill the gaps, so that few have to be moved.

    >>> _closed_up([True, False, True, False, True])
    [0, 4, 2]
    """
    count = sum(stays)
    movers = [row for row in range(count, len(stays)) if stays[row]]
    return [row if stays[row] else movers.pop() for row in range(count)]
