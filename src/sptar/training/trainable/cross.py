"""A cross-encoder while it is trained: each pair and its hard negatives as binary rows.

As in the paper's BM25CE, after Nogueira and Cho (arXiv 1901.04085).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from sptar.config import TrainConfig
from sptar.retrieval.cross.reranker import CrossEncoderReranker
from sptar.retrieval.specs import retriever_spec
from sptar.training.card import prompts_in_words
from sptar.training.losses.cached import embed_batch
from sptar.training.protocols import TrainingBatch
from sptar.types import Document, Query, Run

__all__ = ["CrossEncoderTrainable"]


class CrossEncoderTrainable:
    """A cross-encoder while it is trained, see :class:`~sptar.retrieval.retriever`.

    Args:
        reranker: the start.
        config: resolved recipe.
        candidates: the documents that :meth:`rank` orders for each dev query; ``None`` for all.
    """

    def __init__(
        self, reranker: CrossEncoderReranker, config: TrainConfig, candidates: Run | None
    ) -> None:
        self.spec = retriever_spec(config)
        self.reranker = reranker
        self.module: torch.nn.Module = reranker.model
        self._config = config
        self._candidates = candidates

    def loss(self, batch: TrainingBatch) -> torch.Tensor:
        """Mean binary cross-entropy of all rows: each positive (1) and its hard negatives (0).

        With ``micro_batch_size`` so many rows are read at once, twice: the first time only their
        scores are kept, and ``backward`` reads them again, piece by piece, to the same gradient.
        """
        queries = [
            query
            for query, negatives in zip(batch.queries, batch.negatives, strict=True)
            for _ in range(1 + len(negatives))
        ]
        documents = [
            text
            for positive, negatives in zip(batch.positives, batch.negatives, strict=True)
            for text in (positive, *negatives)
        ]
        labels = [
            label for negatives in batch.negatives for label in (1.0, *(0.0 for _ in negatives))
        ]
        rows = self.reranker.readable(queries, documents)
        device = torch.device(str(self.reranker.model.device))

        def read(numbers: Sequence[int]) -> tuple[torch.Tensor]:
            with torch.autocast(
                device.type, torch.bfloat16, enabled=self._config.dtype == "bfloat16"
            ):
                return (self.reranker.logits([rows[number] for number in numbers]),)

        lengths = [len(query) + len(document) for query, document in rows]
        (logits,) = embed_batch(read, lengths, self._config.micro_batch_size, device)
        return binary_cross_entropy_with_logits(logits, torch.tensor(labels, device=device))

    def rank(self, queries: Sequence[Query], documents: Sequence[Document], top_k: int) -> Run:
        """Each query's candidates among ``documents`` (all of these without candidates)."""
        by_id = {document.doc_id: document for document in documents}
        wanted: Run = {}
        for query in queries:
            found = by_id if self._candidates is None else self._candidates.get(query.query_id, {})
            wanted[query.query_id] = dict.fromkeys(filter(by_id.__contains__, found), 0.0)
        return self.reranker._order(queries, wanted, by_id.__getitem__, top_k)

    def reading(self) -> list[Any]:
        """Token bounds and prompts."""
        return [
            self.reranker.max_tokens,
            self.reranker.max_query_tokens,
            self.reranker.prompt("query"),
            self.reranker.prompt("document"),
        ]

    def reading_in_words(self) -> str:
        """The same for the model card."""
        reranker = self.reranker
        of_query = reranker.max_query_tokens
        bounds = f"{reranker.max_tokens or 'unlimited'} tokens of both"
        bounds += "" if of_query is None else f" and {of_query} of the query"
        return (
            f"A query and a document are read together, at most {bounds}; the longer one is cut. "
            "The score is a raw number, no probability. "
            + prompts_in_words(reranker.prompt("query"), reranker.prompt("document"))
        )

    def save(self, folder: Path) -> None:
        """See :meth:`CrossEncoderReranker.save`."""
        self.reranker.save(folder)
