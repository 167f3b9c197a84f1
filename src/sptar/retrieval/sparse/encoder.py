"""SPLADE: a text becomes a weight for each word of the model's vocabulary, most of them zero.

The model is sentence-transformers' ``SparseEncoder``; encoding in bounded memory, and the loss with
its regulariser, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sentence_transformers import SparseEncoder
from sentence_transformers.sentence_transformer.modules import Transformer
from sentence_transformers.util import batch_to_device, select_max_active_dims
from transformers import PreTrainedTokenizerBase

from sptar.config import TrainConfig
from sptar.errors import ModelError
from sptar.progress import silent
from sptar.retrieval.ranking import DocumentIds
from sptar.retrieval.retriever import Role
from sptar.retrieval.sparse.index import (
    SparseIndex,
    SparseSearcher,
    SparseVectors,
    save_sparse_block,
    sparse_rows,
)
from sptar.retrieval.sparse.start import load_sparse_model
from sptar.retrieval.specs import RetrieverSpec, retriever_spec
from sptar.retrieval.start import input_module
from sptar.tensors.memory import free_cached_memory, is_out_of_memory
from sptar.types import Document, Progress, Query

__all__ = ["SparseVectorEncoder", "load_sparse_encoder"]

_ROLES: tuple[Role, ...] = ("query", "document")
_PROMPT_NAMES: dict[Role, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
"""Names under which sentence-transformers models keep their prompts, the first is ours."""

_LOGITS_AT_ONCE = 1 << 27
"""Logits of one batch (texts × tokens × words) when nothing is trained: half a GB in float32."""


class SparseVectorEncoder:
    """A ``SparseEncoder`` as a :class:`sptar.retrieval.retriever.CorpusEncoder`.

    Vectors are rows of a SciPy CSR matrix, float32, with words ascending. A vector depends on its
    text alone: the batch changes it by rounding only. What exceeds the token bound is cut; an empty
    text has a vector too, which may hold nothing.
    """

    block_suffix = ".safetensors"

    def __init__(
        self,
        model: SparseEncoder,
        spec: RetrieverSpec,
        *,
        query_prompt: str = "",
        document_prompt: str = "",
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> None:
        self.model = model
        self.spec = spec
        self._batch_size = batch_size
        self._progress = progress
        # A prompt of ours wins over the model's; without one the model keeps its own.
        ours_by_role: dict[Role, str] = {"query": query_prompt, "document": document_prompt}
        for role, ours in ours_by_role.items():
            names = _PROMPT_NAMES[role]
            known = next((model.prompts[name] for name in names if model.prompts.get(name)), "")
            model.prompts[names[0]] = ours or known
        model.similarity_fn_name = spec.similarity
        self._empty_text = {role: self._stand_in(role) for role in _ROLES}
        if any(getattr(module, "embedding_dimension", 0) is None for module in model.modules()):
            # A SPLADE pooling knows the number of words after its first text; until then the
            # library would take the width of the states for it.
            model.eval()
            with torch.inference_mode():
                self.embed(["a"], "document")

    def _stand_in(self, role: Role) -> str:
        """What is read for a text without any token: models cannot attend to nothing."""
        tokenizer = getattr(input_module(self.model, role), "tokenizer", None)
        if isinstance(tokenizer, PreTrainedTokenizerBase) and not tokenizer("")["input_ids"]:
            return str(tokenizer.eos_token or tokenizer.pad_token)
        return ""

    @property
    def dimension(self) -> int:
        """Words of the vocabulary: the length of a vector, zeros included."""
        return int(self.model.get_embedding_dimension())

    @property
    def max_tokens(self) -> int | None:
        """Tokens of a document that are read, special tokens and prompt included."""
        return _token_bound(input_module(self.model, "document"))

    @property
    def max_query_tokens(self) -> int | None:
        """The same for a query."""
        reader = input_module(self.model, "query")
        own: int | None = getattr(reader, "query_length", None)
        return _token_bound(reader) if own is None else own

    @property
    def pooling(self) -> str:
        """How the tokens' logits become word weights, in words."""
        modes = [
            f"{module.pooling_strategy} over {module.activation_function}"
            for module in self.model.modules()
            if hasattr(module, "pooling_strategy")
        ]
        return ", ".join(dict.fromkeys(modes)) or "built-in"

    def prompt(self, role: Role) -> str:
        """Text in front of every query, or document."""
        return str(self.model.prompts[role])

    def readable(self, text: str, role: Role) -> str:
        """The text as the model gets it, without the prompt."""
        if not text.strip() and not self.prompt(role):
            return self._empty_text[role]
        return text.strip()

    def embed(self, texts: Sequence[str], role: Role) -> torch.Tensor:
        """Word weights [n, words], dense, on the model's device, with their gradients."""
        features: dict[str, Any] = self.model.preprocess(
            [self.readable(text, role) for text in texts],
            prompt=self.prompt(role) or None,
            task=role,
        )
        bound = self.model.max_active_dims
        settings = {} if bound is None else {"max_active_dims": bound}
        features = batch_to_device(features, self.model.device)
        weights: torch.Tensor = self.model(features, task=role, **settings)["sentence_embedding"]
        if bound is not None and not self.model.training:
            weights = select_max_active_dims(weights, max_active_dims=bound)
        return weights

    def encode_texts(self, texts: Sequence[str], role: Role) -> SparseVectors:
        """Vectors [n, words] of texts in the order given."""
        self.model.eval()
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
        parts: list[SparseVectors] = []
        done = 0
        while done < len(order):
            size = self._texts_at_once(len(texts[order[done]]), role)
            batch = [texts[number] for number in order[done : done + size]]
            try:
                parts.append(self._encode(batch, role))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise ModelError(
                        "The device has too little memory to encode even one text.",
                        hint="Lower train.max_tokens, or set train.device=cpu.",
                    ) from None
                self._batch_size = size // 2
                free_cached_memory()
                self._progress.message(
                    f"Out of memory: encoding goes on with {self._batch_size} texts at once."
                )
                continue
            done += len(batch)
        if not parts:
            return sparse.csr_matrix((0, self.dimension), dtype=np.float32)
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        return self.join_blocks(parts)[places]

    def _texts_at_once(self, characters: int, role: Role) -> int:
        """How many texts of this length fit; a token is a character at least, as a rule."""
        bound = self.max_query_tokens if role == "query" else self.max_tokens
        tokens = characters + len(self.prompt(role)) + 2
        tokens = tokens if bound is None else min(tokens, bound)
        return min(self._batch_size, max(1, _LOGITS_AT_ONCE // (tokens * self.dimension)))

    def _encode(self, texts: Sequence[str], role: Role) -> SparseVectors:
        with torch.inference_mode():
            weights = self.embed(texts, role).float()
            rows, words = torch.nonzero(weights, as_tuple=True)
            values = weights[rows, words]
        counts = np.bincount(rows.cpu().numpy(), minlength=len(texts))
        starts = np.concatenate([[0], np.cumsum(counts)])
        return sparse_rows(values.cpu().numpy(), words.cpu().numpy(), starts, self.dimension)

    def encode_documents(self, documents: Sequence[Document]) -> SparseVectors:
        """Vectors of titles and texts, [n, words], in the order of the documents."""
        return self.encode_texts([document.full_text for document in documents], "document")

    def encode_queries(self, queries: Sequence[Query]) -> SparseVectors:
        """Vectors of query texts, [n, words], in the order of the queries."""
        return self.encode_texts([query.text for query in queries], "query")

    def encode_block(self, documents: Sequence[Document]) -> SparseVectors:
        """A block of the corpus: :meth:`encode_documents`."""
        return self.encode_documents(documents)

    def join_blocks(self, blocks: Sequence[SparseVectors]) -> SparseVectors:
        """One block [n, words] of several; at least one is given."""
        return sparse.vstack(blocks, format="csr", dtype=np.float32)

    def save_block(self, path: Path, block: SparseVectors) -> None:
        """Write a block as safetensors."""
        save_sparse_block(path, block)

    def searcher(self, blocks: Sequence[Any], ids: DocumentIds) -> SparseSearcher:
        """Exact search over blocks (vectors, or paths of saved ones) of the documents ``ids``."""
        return SparseSearcher(self, SparseIndex(blocks, ids))

    def save(self, folder: Path) -> None:
        """Write a folder that plain ``SparseEncoder(folder)`` loads, without a model card.

        Prompts go along: ``encode_query`` and ``encode_document`` of that library use them.
        """
        # The name under which the start was loaded can be a path of this machine.
        for module in self.model.modules():
            if isinstance(module, Transformer):
                module.model.config.name_or_path = ""
                if module.tokenizer is not None:
                    module.tokenizer.name_or_path = ""
        self.model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)


def _token_bound(reader: Any) -> int | None:
    bound: int | None = getattr(reader, "max_seq_length", None)
    return bound


def load_sparse_encoder(
    name: str | Path | None, config: TrainConfig, *, progress: Progress = silent
) -> SparseVectorEncoder:
    """Load a start or a trained sparse encoder, ready to encode.

    Args:
        name: folder or hub name; ``None`` takes the config's ``start``.
        config: resolved recipe.

    Raises:
        ConfigError, ModelError: see :func:`sptar.retrieval.sparse.start.load_sparse_model`.
    """
    source = config.start if name is None else str(name)
    return SparseVectorEncoder(
        load_sparse_model(source, config, progress=progress),
        retriever_spec(config),
        query_prompt=config.query_prompt,
        document_prompt=config.document_prompt,
        batch_size=config.encode_batch_size,
        progress=progress,
    )
