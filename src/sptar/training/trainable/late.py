"""Late interaction (ColBERT) while it is trained: a vector for each token, compared by MaxSim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sptar.config import TrainConfig
from sptar.retrieval.late.encoder import LateEncoder
from sptar.retrieval.ranking import ListedIds
from sptar.retrieval.retriever import Role
from sptar.training.card import prompts_in_words
from sptar.training.losses.cached import embed_batch
from sptar.training.protocols import TrainingBatch
from sptar.types import Document, Query, Run

__all__ = ["LateTrainable", "maxsim"]

_SIMILARITIES_AT_ONCE = 1 << 24
"""Similarities of a training batch held at once: 64 MiB."""


def maxsim(
    queries: torch.Tensor,
    query_mask: torch.Tensor,
    documents: torch.Tensor,
    document_mask: torch.Tensor,
    similarities_at_once: int = _SIMILARITIES_AT_ONCE,
) -> torch.Tensor:
    """[b, c] MaxSim of every query with every document, for training.

    Args:
        queries: [b, s, d] padded token vectors, ``query_mask`` [b, s] true where one counts.
        documents: [c, t, d], ``document_mask`` [c, t].
        similarities_at_once: bound on b · s · t · (documents in a piece); the pieces are only
            about memory.

    Masked tokens of documents count as −∞ and never win, those of queries add 0. A document
    without tokens scores as in :class:`sptar.retrieval.late.scores.MaxSim`.
    """
    batch, words, _ = queries.shape
    count, tokens, _ = documents.shape
    width = max(1, similarities_at_once // max(1, batch * words * tokens))
    floors = -queries.detach().norm(dim=-1).unsqueeze(1)
    columns = []
    for first in range(0, count, width):
        mask = document_mask[first : first + width]
        similar = torch.einsum("bsd,ctd->bcst", queries, documents[first : first + width])
        similar = similar.masked_fill(~mask[None, :, None, :], -torch.inf)
        best = torch.where(mask.any(dim=1)[None, :, None], similar.max(dim=-1).values, floors)
        columns.append(best.masked_fill(~query_mask[:, None, :], 0.0).sum(dim=-1))
    return torch.cat(columns, dim=1)


class LateTrainable:
    """ColBERT while it is trained: softmax over the documents of the batch.

    For each query its positive stands against all other positives and all hard negatives of the
    batch; scores are MaxSim times ``config.scale``. One random negative for each pair gives the
    triples of the paper, with the other pairs of the batch besides.
    """

    def __init__(self, encoder: LateEncoder, config: TrainConfig) -> None:
        self.spec = encoder.spec
        self.module: torch.nn.Module = encoder.model
        self.encoder = encoder
        self._config = config
        self._device = torch.device(str(encoder.model.device))

    def loss(self, batch: TrainingBatch) -> torch.Tensor:
        """Mean loss of the pairs, a float32 scalar."""
        negatives = [text for texts in batch.negatives for text in texts]
        queries, query_mask = self._embed(batch.queries, "query")
        documents, document_mask = self._embed([*batch.positives, *negatives], "document")
        scores = maxsim(queries, query_mask, documents, document_mask)
        own = torch.arange(len(batch.queries), device=scores.device)
        return torch.nn.functional.cross_entropy(self._config.scale * scores, own)

    def _embed(self, texts: Sequence[str], role: Role) -> tuple[torch.Tensor, torch.Tensor]:
        """[n, t, d] token vectors and [n, t] which of them count."""

        def embed(numbers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.autocast(
                self._device.type, torch.bfloat16, enabled=self._config.dtype == "bfloat16"
            ):
                vectors, mask = self.encoder.embed([texts[number] for number in numbers], role)
            # Similarities stay in float32: in bfloat16 they have two digits.
            return vectors.float(), mask

        vectors, mask = embed_batch(
            embed, [len(text) for text in texts], self._config.micro_batch_size, self._device
        )
        return vectors, mask

    def rank(self, queries: Sequence[Query], documents: Sequence[Document], top_k: int) -> Run:
        """Exact rankings over documents in memory."""
        blocks = [self.encoder.encode_documents(documents)]
        return self.encoder.searcher(blocks, ListedIds(documents)).search(queries, top_k)

    def reading(self) -> list[Any]:
        """How texts are read, as JSON values."""
        return self.encoder.reading()

    def reading_in_words(self) -> str:
        """The same for the model card."""
        encoder = self.encoder
        return (
            f"A text becomes a vector of {encoder.dimension} numbers for each token; a query's "
            "tokens take their most similar one of the document (MaxSim, dot product). "
            + encoder.bounds_in_words()
            + prompts_in_words(encoder.prompt("query"), encoder.prompt("document"))
        )

    def save(self, folder: Path) -> None:
        """Write a folder that plain ``MultiVectorEncoder(folder)`` loads."""
        self.encoder.save(folder)
