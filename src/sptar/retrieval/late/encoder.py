"""Texts to a vector for each token, with a late-interaction model, trained or as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.util import batch_to_device
from transformers import PreTrainedTokenizerBase

from sptar.config import TrainConfig
from sptar.errors import DataError, ModelError
from sptar.progress import silent
from sptar.retrieval.late.index import LateIndex, LateSearcher
from sptar.retrieval.late.scores import TokenVectors
from sptar.retrieval.late.start import load_multi_vector_encoder
from sptar.retrieval.ranking import DocumentIds, ListedIds
from sptar.retrieval.retriever import Role
from sptar.retrieval.specs import RetrieverSpec, retriever_spec
from sptar.tensors.memory import free_cached_memory, is_out_of_memory
from sptar.types import Corpus, Document, Progress, Query, Run

__all__ = ["LateEncoder", "load_late_encoder"]

_PROMPT_NAMES: dict[Role, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}

_DOCUMENTS_AT_ONCE = 512


class LateEncoder:
    """A multi-vector model together with what a retriever demands of it.

    It is a :class:`~sptar.retrieval.retriever.CorpusEncoder`, and a
    :class:`~sptar.retrieval.retriever.Reranker` that encodes the candidates. The vectors of a text
    depend on it alone: the batch changes them by rounding only. Padding and what the model leaves
    out (punctuation of documents) have no vectors; an empty text is read as the tokenizer writes
    it, which is an end token at least.
    """

    block_suffix = ".safetensors"

    def __init__(
        self,
        model: MultiVectorEncoder,
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
        self._empty_text = self._stand_in()

    def _stand_in(self) -> str:
        """What is read for a text without any token: models cannot attend to nothing."""
        tokenizer = self.model.tokenizer
        if isinstance(tokenizer, PreTrainedTokenizerBase) and not tokenizer("")["input_ids"]:
            return str(tokenizer.eos_token or tokenizer.pad_token)
        return ""

    @property
    def dimension(self) -> int:
        """d, the length of a token's vector."""
        return int(self.model.get_embedding_dimension())

    def prompt(self, role: Role) -> str:
        """Text in front of every query, or document."""
        return str(self.model.prompts[role])

    def readable(self, text: str, role: Role) -> str:
        """The text as the model gets it, without the prompt."""
        if self._empty_text and not text.strip() and not self.prompt(role):
            return self._empty_text
        return text.strip()

    def reading(self) -> list[Any]:
        """How texts are read, as JSON values."""
        body = self.model[0]
        lengths = (
            [body.document_length, body.query_length, body.max_seq_length, body.query_expansion]
            if isinstance(body, Transformer)
            else []
        )
        skipped = [
            [module.skiplist_words, module.skiplist_tasks, module.keep_only_token_ids]
            for module in self.model
            if isinstance(module, MultiVectorMask)
        ]
        modules = [type(module).__name__ for module in self.model]
        prompts = [self.prompt("query"), self.prompt("document")]
        return [modules, self.dimension, lengths, prompts, skipped]

    def bounds_in_words(self) -> str:
        """How many tokens are read, and which get no vector, in sentences (or none)."""
        body = self.model[0]
        if not isinstance(body, Transformer):
            return ""
        expansion = body.query_expansion
        if expansion is None:
            queries = f"at most {body.query_length or body.max_seq_length} tokens"
        else:
            queries = f"{expansion['length']} tokens (filled up where it is shorter)"
        skips = any(isinstance(m, MultiVectorMask) and m.skiplist_words for m in self.model)
        skipped = "; its punctuation gets no vector" if skips else ""
        documents = f"at most {body.document_length or body.max_seq_length} tokens"
        return f"Of a query {queries} are read, of a document {documents}{skipped}. "

    def save(self, folder: Path) -> None:
        """Write a folder that plain ``MultiVectorEncoder(folder)`` loads, without a model card.

        Prompts, lengths, query augmentation and skipped tokens go along: ``encode_query`` and
        ``encode_document`` of that library read texts as this class does.
        """
        # The name under which the start was loaded can be a path of this machine.
        for module in self.model.modules():
            if isinstance(module, Transformer):
                module.model.config.name_or_path = ""
                if module.tokenizer is not None:
                    module.tokenizer.name_or_path = ""
        self.model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)

    def embed(self, texts: Sequence[str], role: Role) -> tuple[torch.Tensor, torch.Tensor]:
        """[n, t, d] padded token vectors with their gradients, [n, t] which of them count."""
        features: dict[str, Any] = self.model.preprocess(
            [self.readable(text, role) for text in texts],
            prompt=self.prompt(role) or None,
            task=role,
        )
        output = self.model(batch_to_device(features, self.model.device), task=role)
        return output["token_embeddings"], output["attention_mask"].bool()

    def encode_queries(self, queries: Sequence[Query]) -> TokenVectors:
        """Token vectors of query texts, in the order of the queries."""
        return self._encode([query.text for query in queries], "query")

    def encode_documents(self, documents: Sequence[Document]) -> TokenVectors:
        """Token vectors of titles and texts, in the order of the documents."""
        return self._encode([document.full_text for document in documents], "document")

    def _encode(self, texts: Sequence[str], role: Role) -> TokenVectors:
        readable = [self.readable(text, role) for text in texts]
        while True:
            try:
                found = self.model.encode(
                    readable,
                    prompt=self.prompt(role),
                    task=role,
                    batch_size=self._batch_size,
                    show_progress_bar=False,
                    convert_to_numpy=True,
                )
                return TokenVectors.of(found, self.dimension)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._batch_size == 1:
                    raise ModelError(
                        "The device has too little memory to encode even one text.",
                        hint="Lower train.max_tokens, or set train.device=cpu.",
                    ) from None
                self._batch_size //= 2
                free_cached_memory()
                self._progress.message(
                    f"Out of memory: encoding goes on with {self._batch_size} texts at once."
                )

    def encode_block(self, documents: Sequence[Document]) -> TokenVectors:
        """The same as :meth:`encode_documents`."""
        return self.encode_documents(documents)

    def join_blocks(self, blocks: Sequence[TokenVectors]) -> TokenVectors:
        """One block that holds those of several blocks in order; at least one is given."""
        return TokenVectors.join(blocks)

    def save_block(self, path: Path, block: TokenVectors) -> None:
        """Write a block to one safetensors file, which :meth:`searcher` memory-maps."""
        block.save(path)

    def searcher(
        self, blocks: Sequence[TokenVectors | str | Path], ids: DocumentIds
    ) -> LateSearcher:
        """Exact search over blocks in memory or saved ones."""
        return LateSearcher(self, LateIndex(blocks, ids))

    def rerank(self, queries: Sequence[Query], candidates: Run, corpus: Corpus, top_k: int) -> Run:
        """The ``top_k`` best candidates of each query, encoded here; 512 documents at once.

        Scores are those of a search over encoded blocks, but for the rounding of the encoder.

        Raises:
            DataError: a candidate is not in the corpus.
        """
        vectors = self.encode_queries(queries)
        found: Run = {query.query_id: {} for query in queries}
        for documents in self._candidates(queries, candidates, corpus):
            index = LateIndex(self.encode_documents(documents), ListedIds(documents))
            here = {document.doc_id for document in documents}
            part = {
                query.query_id: {
                    doc_id: score
                    for doc_id, score in candidates.get(query.query_id, {}).items()
                    if doc_id in here
                }
                for query in queries
            }
            for query_id, scores in index.search(vectors, queries, top_k, part).items():
                ranked = sorted(
                    [*found[query_id].items(), *scores.items()],
                    key=lambda item: (-item[1], item[0]),
                )
                found[query_id] = dict(ranked[:top_k])
        return found

    @staticmethod
    def _candidates(
        queries: Sequence[Query], candidates: Run, corpus: Corpus
    ) -> Iterator[list[Document]]:
        """Every document that some query has as a candidate, once, in pieces."""
        wanted = {doc_id for query in queries for doc_id in candidates.get(query.query_id, {})}
        for doc_id in sorted(wanted):
            if doc_id not in corpus:
                raise DataError(
                    f"Document {doc_id}, a candidate, is not in the corpus.",
                    hint="Candidates and corpus belong to different collections.",
                )
        positions = sorted(corpus.position(doc_id) for doc_id in wanted)
        for first in range(0, len(positions), _DOCUMENTS_AT_ONCE):
            yield [corpus[position] for position in positions[first : first + _DOCUMENTS_AT_ONCE]]


def load_late_encoder(
    name: str | Path | None, config: TrainConfig, *, progress: Progress = silent
) -> LateEncoder:
    """Load a start or a trained retriever for late interaction, ready to encode.

    Args:
        name: folder or hub name; ``None`` takes the config's ``start``.
        config: resolved recipe. A prompt of the model's own is kept where the config has none.

    Raises:
        ModelError: see :func:`sptar.retrieval.late.start.load_multi_vector_encoder`.
    """
    model = load_multi_vector_encoder(
        config.start if name is None else str(name), config, progress=progress
    )
    return LateEncoder(
        model,
        retriever_spec(config),
        query_prompt=config.query_prompt,
        document_prompt=config.document_prompt,
        batch_size=config.encode_batch_size,
        progress=progress,
    )
