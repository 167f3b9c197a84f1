"""A cross-encoder: reads a query and a document together and gives one score; loaded and trained.

It reranks what another retriever found. Training is that of the paper's BM25CE: each pair and its
hard negatives are rows of a binary classification, as in Nogueira and Cho (arXiv 1901.04085).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.sentence_transformer.modules import Transformer
from sentence_transformers.util import batch_to_device
from transformers import PreTrainedTokenizerBase

from sptar.config import TrainConfig
from sptar.errors import DataError, ModelError
from sptar.progress import silent
from sptar.retrieval.cross.start import load_cross_encoder_model
from sptar.tensors.memory import free_cached_memory, is_out_of_memory
from sptar.types import Corpus, Document, Progress, Query, Run

__all__ = ["CrossEncoderReranker", "load_cross_encoder"]

_PAIRS_AT_ONCE = 4096
"""Pairs whose texts are in memory at once while reranking (a query's candidates stay together)."""

_Texts = tuple[str, str]
"""A query and a document, as they are read."""


class CrossEncoderReranker:
    """A sentence-transformers ``CrossEncoder`` with one output, and how it reads texts.

    The score of a query and a document is the raw output (a logit, no sigmoid). It depends on
    these two texts alone: the batch changes it by rounding only (about 1e-6), and equal texts get
    equal scores. What exceeds the token bound is cut from the longer of the two texts until both
    are equally long, so in practice from the document; ``max_query_tokens`` bounds the query
    before that, its prompt included. Where no tokenizer rule parts the two texts, as with many
    causal language models, they only touch: a ``document_prompt`` such as a newline parts them.

    Attributes:
        model: the library's model; ``predict`` gives the same scores for texts with the prompts
            in front (queries within ``max_query_tokens``).
        new_head: whether the output layer is untrained, so that scores mean nothing yet.
    """

    def __init__(
        self,
        model: CrossEncoder,
        *,
        query_prompt: str = "",
        document_prompt: str = "",
        max_query_tokens: int | None = None,
        batch_size: int = 32,
        new_head: bool = False,
        progress: Progress = silent,
    ) -> None:
        self.model = model
        self.new_head = new_head
        self.max_query_tokens = max_query_tokens
        self._batch_size = batch_size
        self._progress = progress
        # The library would put a sigmoid on a single output: that rounds high scores to ties.
        model.activation_fn = torch.nn.Identity()
        for role, ours in (("query", query_prompt), ("document", document_prompt)):
            model.prompts[role] = ours or model.prompts.get(role) or ""
        self._empty_document = self._stand_in()

    def _stand_in(self) -> str:
        """The document that is read when neither text has a token: models cannot read nothing."""
        tokenizer = self.model.tokenizer
        if isinstance(tokenizer, PreTrainedTokenizerBase) and not tokenizer("", "")["input_ids"]:
            return str(tokenizer.eos_token or tokenizer.pad_token)
        return ""

    @property
    def max_tokens(self) -> int | None:
        """Tokens that are read of query and document together, special tokens included."""
        bound: int | None = self.model.max_seq_length
        return bound

    @property
    def dimension(self) -> int:
        """Outputs for a pair: one."""
        return 1

    def prompt(self, role: str) -> str:
        """Text in front of every query, or document."""
        return str(self.model.prompts[role])

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> npt.NDArray[np.float32]:
        """Raw scores [n] of ``queries[i]`` with ``documents[i]``, in order.

        Raises:
            ModelError: a score is no number, or not even one pair fits into memory.
        """
        if len(queries) != len(documents):
            raise ValueError(f"{len(queries)} queries for {len(documents)} documents")
        rows = self.readable(queries, documents)
        # Each pair of texts once: copies then tie exactly, whatever batches they would fall into.
        distinct = sorted(set(rows), key=lambda row: (-len(row[0]) - len(row[1]), row))
        found: list[float] = []
        with self._evaluation_mode(), torch.inference_mode():
            while len(found) < len(distinct):
                batch = distinct[len(found) : len(found) + self._batch_size]
                try:
                    found += self.logits(batch).tolist()
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    self._halve()
        score_of = dict(zip(distinct, found, strict=True))
        scores = np.array([score_of[row] for row in rows], dtype=np.float32)
        if not np.isfinite(scores).all():
            raise ModelError(
                "The cross-encoder gives scores that are no numbers.",
                hint="Its training diverged: lower train.learning_rate.",
            )
        return scores

    def _halve(self) -> None:
        if self._batch_size == 1:
            raise ModelError(
                "The device has too little memory to score even one pair.",
                hint="Lower train.max_tokens, or set train.device=cpu.",
            ) from None
        self._batch_size //= 2
        free_cached_memory()
        self._progress.message(
            f"Out of memory: scoring goes on with {self._batch_size} pairs at once."
        )

    @contextmanager
    def _evaluation_mode(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)

    def readable(self, queries: Sequence[str], documents: Sequence[str]) -> list[_Texts]:
        """Both texts of each pair as the model gets them: with prompts, the query within bounds."""
        read = {text: self._bounded(self.prompt("query") + text.strip()) for text in set(queries)}
        front = self.prompt("document")
        rows = []
        for query, document in zip(queries, documents, strict=True):
            pair = (read[query], front + document.strip())
            rows.append(pair if any(pair) else ("", self._empty_document))
        return rows

    def _bounded(self, query: str) -> str:
        tokenizer, bound = self.model.tokenizer, self.max_query_tokens
        if bound is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
            return query
        limits: dict[str, Any] = {"add_special_tokens": False, "truncation": True}
        if not tokenizer.is_fast:
            ids = tokenizer(query, max_length=bound, **limits)["input_ids"]
            return str(tokenizer.decode(ids)) if len(ids) == bound else query
        places = tokenizer(query, max_length=bound, return_offsets_mapping=True, **limits)
        offsets = places["offset_mapping"]
        return query[: offsets[-1][1]] if len(offsets) == bound else query

    def logits(self, rows: Sequence[_Texts]) -> torch.Tensor:
        """Raw float32 scores [n] of pairs as :meth:`readable` gives them, with their gradients."""
        # A foreign reranker may put an instruction of its own in front of everything.
        name = self.model.default_prompt_name
        features: dict[str, Any] = self.model.preprocess(
            [list(row) for row in rows], prompt=self.model.prompts.get(name) if name else None
        )
        output = self.model(batch_to_device(features, self.model.device))
        scores: torch.Tensor = output["scores"]
        return scores.float().reshape(len(rows))

    def rerank(self, queries: Sequence[Query], candidates: Run, corpus: Corpus, top_k: int) -> Run:
        """The ``top_k`` best candidates of each query; ties broken by document id, ascending.

        The candidates' scores and order do not matter. A document whose id equals the query's is
        left out; a query without candidates gets an empty ranking.

        Raises:
            DataError: the corpus lacks a candidate.
        """

        def document_of(doc_id: str) -> Document:
            try:
                return corpus.get(doc_id)
            except KeyError:
                raise DataError(
                    f"Document {doc_id} is to be reranked, and the corpus does not hold it.",
                    hint="Search again: the candidates belong to another collection.",
                ) from None

        return self._order(queries, candidates, document_of, top_k)

    def _order(
        self,
        queries: Sequence[Query],
        candidates: Run,
        document_of: Callable[[str], Document],
        top_k: int,
    ) -> Run:
        if top_k < 1:
            raise ValueError("top_k is at least 1")
        if len({query.query_id for query in queries}) != len(queries):
            raise ValueError("a query id stands twice among the queries")
        run: Run = {}
        waiting: list[tuple[Query, str]] = []
        for number, query in enumerate(queries, start=1):
            run[query.query_id] = {}
            found = (doc_id for doc_id in candidates.get(query.query_id, {}))
            waiting += [(query, doc_id) for doc_id in found if doc_id != query.own_doc_id]
            if waiting and (number == len(queries) or len(waiting) >= _PAIRS_AT_ONCE):
                scores = self.scores(
                    [asked.text for asked, _ in waiting],
                    [document_of(doc_id).full_text for _, doc_id in waiting],
                )
                for (asked, doc_id), score in zip(waiting, scores.tolist(), strict=True):
                    run[asked.query_id][doc_id] = score
                waiting = []
        return {
            query_id: dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:top_k])
            for query_id, found in run.items()
        }

    def save(self, folder: Path) -> None:
        """Write a folder that plain ``CrossEncoder(folder)`` loads, without a model card.

        Its activation is the identity, so ``predict`` gives raw scores. The prompts are kept under
        ``query`` and ``document``; the library itself puts none of them in front.
        """
        # The name under which the start was loaded can be a path of this machine.
        for module in self.model.modules():
            if isinstance(module, Transformer):
                module.model.config.name_or_path = ""
                if module.tokenizer is not None:
                    module.tokenizer.name_or_path = ""
        self.model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)


def load_cross_encoder(
    name: str | Path | None, config: TrainConfig, *, progress: Progress = silent
) -> CrossEncoderReranker:
    """A trained cross-encoder, or the start of one, ready to score.

    Args:
        name: folder or hub name; ``None`` for the ``start`` of the config.
        config: resolved recipe. A prompt that it does not set is the model's own.

    Raises:
        ModelError: see
            :func:`sptar.retrieval.cross.start.load_cross_encoder_model`.
    """
    found = load_cross_encoder_model(
        config.start if name is None else str(name), config, progress=progress
    )
    return CrossEncoderReranker(
        found.model,
        query_prompt=config.query_prompt,
        document_prompt=config.document_prompt,
        max_query_tokens=config.max_query_tokens,
        batch_size=config.encode_batch_size,
        new_head=found.new_head,
        progress=progress,
    )
