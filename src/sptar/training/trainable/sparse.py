"""A learned sparse encoder while it is trained: softmax over the batch, FLOPS regulariser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from sptar.config import TrainConfig
from sptar.retrieval.ranking import ListedIds
from sptar.retrieval.retriever import Role
from sptar.retrieval.sparse.encoder import SparseVectorEncoder
from sptar.training.card import prompts_in_words
from sptar.training.losses.cached import vectors_in_pieces
from sptar.training.protocols import TrainingBatch
from sptar.types import Document, Query, Run

__all__ = ["SparseTrainable", "flops"]


def flops(weights: torch.Tensor) -> torch.Tensor:
    """FLOPS regulariser of n vectors [n, words]: the sum over words of their mean weight, squared.

    It estimates how many multiplications an inverted index needs, and presses hardest on words
    that are active in many texts: Paria, Yeh, Yen, Xu, Ravikumar and Póczos, *Minimizing FLOPs to
    Learn Efficient Sparse Representations*, ICLR 2020 (arXiv 2004.05665).

    >>> flops(torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]]))
    tensor(5.)
    """
    return weights.mean(dim=0).square().sum()


class SparseTrainable:
    """Trains all weights of a sparse encoder.

    The loss is the softmax of the dot products over all documents of the batch, plus
    ``query_sparsity`` and ``document_sparsity`` times :func:`flops` of the queries' and of the
    documents' vectors. These weights are constant from the first step on: the SPLADE papers raise
    theirs quadratically over the first steps, which a loss that depends on its batch alone cannot.

    Args:
        encoder: the start.
        config: resolved recipe.
    """

    def __init__(self, encoder: SparseVectorEncoder, config: TrainConfig) -> None:
        self.encoder = encoder
        self.spec = encoder.spec
        self.module: torch.nn.Module = encoder.model
        self._config = config
        self._device = torch.device(str(encoder.model.device))

    def loss(self, batch: TrainingBatch) -> torch.Tensor:
        """Mean loss of the pairs; hard negatives are further columns for every query.

        Gradients need the module in training mode: in evaluation the library's pooling works in
        place.
        """
        negatives = [text for texts in batch.negatives for text in texts]
        queries = self._embed(batch.queries, "query")
        documents = self._embed([*batch.positives, *negatives], "document")
        scores = queries @ documents.T * self._config.scale
        own = torch.arange(len(batch.queries), device=scores.device)
        return (
            cross_entropy(scores, own)
            + self._config.query_sparsity * flops(queries)
            + self._config.document_sparsity * flops(documents)
        )

    def _embed(self, texts: Sequence[str], role: Role) -> torch.Tensor:
        def embed(part: Sequence[str]) -> torch.Tensor:
            with torch.autocast(
                self._device.type, torch.bfloat16, enabled=self._config.dtype == "bfloat16"
            ):
                weights = self.encoder.embed(part, role)
            # A dot product over thousands of words needs more than bfloat16's two digits.
            return weights.float()

        return vectors_in_pieces(embed, texts, self._config.micro_batch_size, self._device)

    def rank(self, queries: Sequence[Query], documents: Sequence[Document], top_k: int) -> Run:
        """Exact ranking of documents in memory."""
        block = self.encoder.encode_documents(documents)
        return self.encoder.searcher([block], ListedIds(documents)).search(queries, top_k)

    def reading(self) -> list[Any]:
        """Pooling, bounds, prompts."""
        return [
            self.encoder.pooling,
            self.encoder.model.max_active_dims,
            self.encoder.max_tokens,
            self.encoder.max_query_tokens,
            self.encoder.prompt("query"),
            self.encoder.prompt("document"),
        ]

    def reading_in_words(self) -> str:
        """The same for the model card."""
        encoder = self.encoder
        bounds = (
            f"at most {encoder.max_tokens or 'unlimited'} tokens of it are read"
            if encoder.max_tokens == encoder.max_query_tokens
            else f"at most {encoder.max_query_tokens} tokens of a query and {encoder.max_tokens} "
            "of a document are read"
        )
        return (
            f"A text becomes a weight for each of {encoder.dimension} words, most of them zero; "
            f"{bounds}; vectors are compared by {self.spec.similarity}. "
            + prompts_in_words(encoder.prompt("query"), encoder.prompt("document"))
        )

    def save(self, folder: Path) -> None:
        """Write a folder for plain ``SparseEncoder(folder)``."""
        self.encoder.save(folder)
