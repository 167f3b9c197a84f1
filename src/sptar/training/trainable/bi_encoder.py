"""A bi-encoder while it is trained: one vector for a text, the similarity of two as score.

The model, its tokenisation and the softmax loss are sentence-transformers', LoRA is PEFT's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import cos_sim, dot_score

from sptar.config import TrainConfig
from sptar.retrieval.dense.encoder import Encoder, Role
from sptar.retrieval.dense.index import DenseIndex
from sptar.retrieval.ranking import ListedIds
from sptar.training.card import prompts_in_words
from sptar.training.losses.cached import vectors_in_pieces
from sptar.training.losses.margin_mse import tas_b_loss
from sptar.training.low_rank import add_low_rank, merge_low_rank
from sptar.training.protocols import TrainingBatch
from sptar.types import Document, Query, Run

__all__ = ["BiEncoderTrainable"]

_SIMILARITIES = {"cosine": cos_sim, "dot": dot_score}


class BiEncoderTrainable:
    """Trains all of an encoder's weights, or a low-rank update of them (rows with ``lora``).

    Args:
        encoder: the start. With ``lora`` its weights are frozen from now on.
        config: resolved recipe.
    """

    def __init__(self, encoder: Encoder, config: TrainConfig) -> None:
        self.encoder = encoder
        self.spec = encoder.spec
        self.module: torch.nn.Module = encoder.model
        self._config = config
        self._device = torch.device(str(encoder.model.device))
        self._similarity = _SIMILARITIES[self.spec.similarity]
        self._softmax = MultipleNegativesRankingLoss(
            encoder.model, scale=config.scale, similarity_fct=self._similarity
        )
        if self.spec.start_layers == "lora":
            add_low_rank(encoder.model, config.lora_rank, config.lora_alpha)

    def loss(self, batch: TrainingBatch) -> torch.Tensor:
        """Mean loss of the pairs: softmax over the batch's documents, or its teachers' margins.

        Hard negatives are further columns of the softmax, for every query of the batch.
        """
        size, count = len(batch.queries), len(batch.negatives[0])
        documents = [*batch.positives]
        for column in range(count):
            documents += [negatives[column] for negatives in batch.negatives]
        queries = self._embed(batch.queries, "query")
        columns = self._embed(documents, "document").reshape(1 + count, size, -1)
        if self.spec.loss == "in_batch_negatives":
            loss: torch.Tensor = self._softmax.compute_loss_from_embeddings(
                [queries, *columns], None
            )
            return loss
        if batch.teacher is None:
            raise ValueError("margins are learned from teacher scores")
        if self.spec.normalise:
            queries = torch.nn.functional.normalize(queries, dim=-1)
            columns = torch.nn.functional.normalize(columns, dim=-1)
        scale = self._config.scale
        own = torch.einsum("bd,nbd->bn", queries, columns) * scale
        others = queries @ columns[0].T * scale
        return tas_b_loss(
            own,
            torch.from_numpy(batch.teacher).to(self._device),
            others,
            None if batch.in_batch is None else torch.from_numpy(batch.in_batch).to(self._device),
            self._config.in_batch_weight,
        )

    def _embed(self, texts: Sequence[str], role: Role) -> torch.Tensor:
        def embed(part: Sequence[str]) -> torch.Tensor:
            with torch.autocast(
                self._device.type, torch.bfloat16, enabled=self._config.dtype == "bfloat16"
            ):
                vectors = self.encoder.embed(part, role)
            # The loss stays in float32: a cosine in bfloat16 has two digits.
            return vectors.float()

        return vectors_in_pieces(embed, texts, self._config.micro_batch_size, self._device)

    def query_vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors [n, d] of query texts, for clustering (module in evaluation mode)."""
        self.module.eval()
        return self.encoder.encode_texts(texts, "query")

    def rank(self, queries: Sequence[Query], documents: Sequence[Document], top_k: int) -> Run:
        """Exact ranking of documents in memory."""
        index = DenseIndex(self.encoder.encode_documents(documents), ListedIds(documents))
        return index.search(self.encoder.encode_queries(queries), queries, top_k)

    def reading(self) -> list[Any]:
        """Pooling, token bounds, prompts."""
        return [
            self.encoder.pooling,
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
            f"A text becomes a vector of {encoder.dimension} numbers; {bounds} "
            f"({encoder.pooling} pooling); vectors are compared by {self.spec.similarity}. "
            + prompts_in_words(encoder.prompt("query"), encoder.prompt("document"))
        )

    def save(self, folder: Path) -> None:
        """Write a folder for plain ``SentenceTransformer(folder)``.

        A low-rank update is added to the weights, here and in the folder, and is gone as such.
        """
        merge_low_rank(self.encoder.model)
        self.encoder.save(folder)
