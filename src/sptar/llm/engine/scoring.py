"""The loss of given queries under a prompt: what example selection compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from sptar.errors import ModelError
from sptar.llm.engine.batching import LengthBatches, most_tokens_on, pad_right
from sptar.llm.engine.prefix import Prefix
from sptar.llm.loading import LanguageModel
from sptar.llm.soft_prompt import SoftPrompt
from sptar.llm.template import PromptTemplate
from sptar.progress import silent
from sptar.tensors.products import PackedLayers
from sptar.types import Pair, Progress, QueryLoss

__all__ = ["PromptedScorer", "mean_pair_loss"]


def mean_pair_loss(losses: Sequence[QueryLoss]) -> float:
    """Mean over pairs of the mean loss of a query token.

    This is the evaluation loss of the published code, which evaluates with batches of one pair.

    >>> mean_pair_loss([QueryLoss(4.0, 2), QueryLoss(3.0, 1)])
    2.5
    """
    if not losses:
        raise ValueError("the mean loss of no pairs is not defined")
    return sum(loss.mean for loss in losses) / len(losses)


@dataclass(frozen=True, slots=True)
class _Scored:
    """A pair as token ids: its document's part of the prompt, and its query."""

    document: list[int]
    query: list[int]


class PromptedScorer:
    """Scores queries with one soft prompt; implements :class:`sptar.types.QueryScorer`.

    Args:
        language_model: the frozen model.
        template: how documents and queries are written into the prompt. It cuts texts that are
            too long, examples and evaluation pairs alike, so that every loss is defined.
        soft_prompt: the learned virtual tokens, or ``None``.
        batch_size: pairs scored together, at most.
        progress: told in a sentence when memory runs out.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        template: PromptTemplate,
        soft_prompt: SoftPrompt | None,
        batch_size: int,
        progress: Progress = silent,
    ) -> None:
        self._language_model = language_model
        self._template = template
        self._soft_prompt = soft_prompt
        self._weights = PackedLayers(language_model.model)
        self._batches = LengthBatches(batch_size, progress)
        self._tokens: dict[Pair, _Scored] = {}

    def query_losses(self, examples: Sequence[Pair], pairs: Sequence[Pair]) -> list[QueryLoss]:
        """Loss of each pair's query (with its end, where it is not cut) given its document.

        The prefix (soft prompt and examples) runs once. In float32 a loss equals that of the
        whole prompt run alone up to rounding.

        Raises:
            ModelError: a pair does not fit into the model's context, or into memory on its own.
        """
        ids = self._template.prefix_ids(examples)
        with self._in_use():
            prefix = Prefix(self._language_model, self._soft_prompt, ids)
        scored = [self._scored(pair) for pair in pairs]
        if not scored:
            return []
        lengths = [len(item.document) + len(item.query) for item in scored]
        self._check_room(prefix.length + max(lengths) - 1)
        shared = prefix.can_share(max(lengths))
        shortest = min(len(item.document) for item in scored)
        alone = not shared or prefix.needs_equal_lengths(shortest)

        @torch.inference_mode()
        def losses(batch: list[int]) -> list[QueryLoss]:
            chosen = [scored[item] for item in batch]
            if not alone:
                return self._batch_losses(prefix, chosen)
            return [self._single_loss(prefix, item, shared=shared) for item in chosen]

        most_tokens = most_tokens_on(self._language_model.device)
        with self._in_use():
            return self._batches.run(lengths, losses, most_tokens=most_tokens)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with self._weights.in_use():
            yield

    def _scored(self, pair: Pair) -> _Scored:
        """Token ids of a pair, made once for all groups of examples."""
        known = self._tokens.get(pair)
        if known is None:
            known = _Scored(
                list(self._template.document_ids(pair.document).ids),
                list(self._template.target_ids(pair.query.text)),
            )
            if not known.document or not known.query:
                raise ValueError("a pair needs a token in front of its query and one in it")
            self._tokens[pair] = known
        return known

    def _check_room(self, tokens: int) -> None:
        context = self._language_model.context_tokens
        if context is not None and tokens > context:
            raise ModelError(
                f"A prompt with its query takes {tokens} tokens, the model's context has "
                f"{context}.",
                hint="Lower `prompt.max_document_tokens` or `prompt.examples`.",
            )

    def _batch_losses(self, prefix: Prefix, items: list[_Scored]) -> list[QueryLoss]:
        device = self._language_model.device
        rows = prefix.open(len(items), shared=True)
        # Documents first, without logits; then the queries, which so begin in one column and are
        # the only tokens whose logits are computed.
        documents, document_lengths = pad_right([item.document[:-1] for item in items], device)
        if documents.shape[1]:
            rows.extend(documents, document_lengths, keep=1)
        read, lengths = pad_right([[item.document[-1], *item.query[:-1]] for item in items], device)
        logits = rows.extend(read, lengths, keep=read.shape[1])
        targets, _ = pad_right([item.query for item in items], device)
        loss = _token_losses(logits, targets)
        real = torch.arange(targets.shape[1], device=device)[None] < lengths[:, None]
        totals = torch.where(real, loss, torch.zeros_like(loss)).sum(dim=1).tolist()
        return [
            QueryLoss(total, len(item.query)) for total, item in zip(totals, items, strict=True)
        ]

    def _single_loss(self, prefix: Prefix, item: _Scored, *, shared: bool) -> QueryLoss:
        device = self._language_model.device
        rows = prefix.open(1, shared=shared)
        read, lengths = pad_right([[*item.document, *item.query[:-1]]], device)
        logits = rows.extend(read, lengths, keep=len(item.query))
        targets, _ = pad_right([item.query], device)
        return QueryLoss(float(_token_losses(logits, targets).sum()), len(item.query))


def _token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each target [rows, tokens] under logits [rows, tokens, vocab]."""
    return torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), targets, reduction="none"
    )
