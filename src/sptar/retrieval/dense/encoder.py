"""Texts to vectors with a bi-encoder, trained or as it comes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from sptar.config import TrainConfig
from sptar.errors import ModelError
from sptar.io import atomic_path
from sptar.progress import silent
from sptar.retrieval.dense.index import DenseIndex, DenseSearcher
from sptar.retrieval.ranking import DocumentIds
from sptar.retrieval.retriever import Role
from sptar.retrieval.specs import RetrieverSpec, retriever_spec
from sptar.tensors.memory import free_cached_memory, is_out_of_memory
from sptar.types import Document, Progress, Query

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

__all__ = ["Encoder", "Role", "load_encoder"]

Vectors = npt.NDArray[np.float32]

_ROLES: tuple[Role, ...] = ("query", "document")

_PROMPT_NAMES: dict[Role, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
"""Names under which sentence-transformers models keep their prompts, the first is ours."""

_TOKENS_AT_ONCE = 1024
"""Of a batch on a processor: what lies between two layers stays in its cache then."""
_PACKED_FROM = 512
"""For fewer tokens the weights are read faster than they would be laid out."""


class Encoder:
    """A sentence-transformers model together with what a retriever demands of it.

    Vectors are float32; they have length 1 when the retriever compares by cosine. A vector depends
    on its text alone: the batch changes it by rounding only (about 1e-7 of its length). Texts are
    sorted by length for the batches, on a processor with a bound on the tokens of a batch, and come
    back in the order given; what exceeds the token bound is cut; an empty text has a vector too.
    The model can have one encoder for both roles or one for each. An encoder is a
    :class:`sptar.retrieval.retriever.CorpusEncoder`.
    """

    block_suffix = ".npy"

    def __init__(
        self,
        model: SentenceTransformer,
        spec: RetrieverSpec,
        *,
        query_prompt: str = "",
        document_prompt: str = "",
        batch_size: int = 32,
        dtype: Literal["float32", "bfloat16"] = "float32",
        progress: Progress = silent,
    ) -> None:
        self.model = model
        self.spec = spec
        self._dtype = dtype
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

    def _stand_in(self, role: Role) -> str:
        """What is read for a text without any token: models cannot attend to nothing."""
        from transformers import PreTrainedTokenizerBase

        tokenizer = self._reader(role).tokenizer
        if isinstance(tokenizer, PreTrainedTokenizerBase) and not tokenizer("")["input_ids"]:
            return str(tokenizer.eos_token or tokenizer.pad_token)
        return ""

    def _reader(self, role: Role) -> Any:
        from sptar.retrieval.start import input_module

        return input_module(self.model, role)

    @property
    def two_towers(self) -> bool:
        """Whether queries and documents have an encoder each."""
        return self._reader("query") is not self._reader("document")

    @property
    def dimension(self) -> int:
        """d, the length of a vector."""
        return int(self.model.get_embedding_dimension())

    @property
    def max_tokens(self) -> int | None:
        """Tokens of a document that are read, special tokens and prompt included."""
        return _token_bound(self._reader("document"))

    @property
    def max_query_tokens(self) -> int | None:
        """The same for a query."""
        reader = self._reader("query")
        own: int | None = getattr(reader, "query_length", None)
        return _token_bound(reader) if own is None else own

    @property
    def pooling(self) -> str:
        """How token vectors become one, in words."""
        modes = [
            mode if isinstance(mode, str) else " and ".join(mode)
            for mode in (getattr(module, "pooling_mode", None) for module in self.model.modules())
            if mode is not None
        ]
        return ", ".join(dict.fromkeys(modes)) or "built-in"

    def save(self, folder: Path) -> None:
        """Write a folder that plain ``SentenceTransformer(folder)`` loads, without a model card.

        Prompts go along: ``encode_query`` and ``encode_document`` of that library use them.
        """
        from sentence_transformers.sentence_transformer.modules import Transformer

        # The name under which the start was loaded can be a path of this machine.
        for module in self.model.modules():
            if isinstance(module, Transformer):
                module.model.config.name_or_path = ""
                if module.tokenizer is not None:
                    module.tokenizer.name_or_path = ""
        self.model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)

    def prompt(self, role: Role) -> str:
        """Text in front of every query, or document."""
        return str(self.model.prompts[role])

    def readable(self, text: str, role: Role) -> str:
        """The text as the model gets it, without the prompt."""
        if not text.strip() and not self.prompt(role):
            return self._empty_text[role]
        return text.strip()

    def embed(self, texts: Sequence[str], role: Role) -> torch.Tensor:
        """Vectors [n, d] on the model's device, as the model gives them, with their gradients."""
        from sentence_transformers.util import batch_to_device

        features: dict[str, Any] = self.model.preprocess(
            [self.readable(text, role) for text in texts],
            prompt=self.prompt(role) or None,
            task=role,
        )
        output = self.model(batch_to_device(features, self.model.device), task=role)
        vectors: torch.Tensor = output["sentence_embedding"]
        return vectors

    def encode_documents(self, documents: Sequence[Document]) -> Vectors:
        """Vectors of titles and texts, [n, d], in the order of the documents."""
        return self.encode_texts([document.full_text for document in documents], "document")

    def encode_queries(self, queries: Sequence[Query]) -> Vectors:
        """Vectors of query texts, [n, d], in the order of the queries."""
        return self.encode_texts([query.text for query in queries], "query")

    def encode_block(self, documents: Sequence[Document]) -> Vectors:
        """A block of the corpus: :meth:`encode_documents`."""
        return self.encode_documents(documents)

    def join_blocks(self, blocks: Sequence[Vectors]) -> Vectors:
        """One block [n, d] of several; at least one is given."""
        return np.concatenate(blocks)

    def save_block(self, path: Path, block: Vectors) -> None:
        """Write a block as a NumPy file."""
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, block, allow_pickle=False)

    def searcher(self, blocks: Sequence[Any], ids: DocumentIds) -> DenseSearcher:
        """Exact search over blocks (arrays, or paths of saved ones) of the documents ``ids``."""
        return DenseSearcher(self, DenseIndex(blocks, ids))

    def encode_texts(self, texts: Sequence[str], role: Role) -> Vectors:
        """Vectors [n, d] of texts in the order given."""
        import torch

        from sptar.tensors.products import PackedLayers

        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        readable = [self.readable(text, role) for text in texts]
        bound = self.max_query_tokens if role == "query" else self.max_tokens
        lengths = _estimated_tokens(readable, bound)
        dtype: torch.dtype = getattr(torch, self._dtype)
        with contextlib.ExitStack() as stack:
            if self._dtype != "float32":
                stack.enter_context(torch.autocast(self.model.device.type, dtype))
            if lengths.sum() >= _PACKED_FROM:
                stack.enter_context(PackedLayers(self.model, dtype).in_use())
            for batch in self._batches(lengths, role):
                vectors[batch] = self._encode([readable[place] for place in batch], role)
        return vectors

    def _batches(self, lengths: npt.NDArray[np.int64], role: Role) -> list[npt.NDArray[np.int64]]:
        """Places of texts that are handed to the model together, the longest first."""
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        order = np.argsort(-lengths, kind="stable")
        if self.model.device.type != "cpu" or isinstance(self._reader(role), StaticEmbedding):
            return [order]
        batches = []
        start = 0
        while start < len(order):
            rows = max(1, _TOKENS_AT_ONCE // int(lengths[order[start]]))
            batches.append(order[start : start + min(rows, self._batch_size)])
            start += len(batches[-1])
        return batches

    def _encode(self, readable: list[str], role: Role) -> Vectors:

        while True:
            try:
                vectors = self.model.encode(
                    readable,
                    prompt=self.prompt(role),
                    task=role,
                    batch_size=self._batch_size,
                    normalize_embeddings=self.spec.normalise,
                    show_progress_bar=False,
                )
                return np.asarray(vectors, dtype=np.float32)
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


def _estimated_tokens(texts: Sequence[str], bound: int | None) -> npt.NDArray[np.int64]:
    """About how many tokens a model reads of each text; it decides on batches only."""
    # Four bytes for a token, in most tokenizers and languages, and two special tokens.
    lengths = np.array([len(text.encode("utf-8", "replace")) // 4 + 2 for text in texts])
    return lengths if bound is None else np.minimum(lengths, bound)


def _token_bound(reader: Any) -> int | None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    if isinstance(reader, StaticEmbedding):
        cut = reader.tokenizer.truncation
        return None if cut is None else int(cut["max_length"])
    bound: int | None = reader.max_seq_length
    return bound


def load_encoder(
    name: str | Path | None,
    config: TrainConfig | None = None,
    *,
    progress: Progress = silent,
) -> Encoder:
    """Load a start encoder or a trained retriever, ready to encode.

    A folder's own settings are respected: its pooling, its prompts where the config has none, and
    its token bound, which the config's ``max_tokens`` can only lower. So all-MiniLM-L6-v2 reads
    256 tokens under the default of 350.

    Args:
        name: folder or hub name of a whole model; ``None`` takes the start (or the two) of the
            config, as the row of the table uses it. The config's ``revision`` counts for both.
        config: resolved recipe; ``None`` takes a trained folder entirely as it is.

    Raises:
        ModelError: see :func:`sptar.retrieval.start.load_sentence_transformer` and
            :func:`sptar.retrieval.dense.start.load_start`.
    """
    from sptar.retrieval.start import load_sentence_transformer, pick_device
    from sptar.retrieval.trial import try_encoder

    recipe = config if config is not None else TrainConfig()
    if name is None:
        from sptar.retrieval.dense.start import load_start

        model = load_start(recipe, progress=progress)
    else:
        model = load_sentence_transformer(
            str(name),
            pooling=recipe.pooling,
            max_tokens=None if config is None else recipe.max_tokens,
            max_query_tokens=None if config is None else recipe.max_query_tokens,
            device=pick_device(recipe.device),
            revision=recipe.revision,
            trust_remote_code=recipe.trust_remote_code,
            progress=progress,
        )
        try_encoder(model, str(name))
    return Encoder(
        model,
        retriever_spec(recipe),
        query_prompt=recipe.query_prompt,
        document_prompt=recipe.document_prompt,
        batch_size=recipe.encode_batch_size,
        dtype="bfloat16" if recipe.encode_dtype == "bfloat16" else "float32",
        progress=progress,
    )
