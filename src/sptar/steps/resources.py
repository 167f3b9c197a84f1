"""What opens an artefact, and what steps of one process share: collection, language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sptar.config import LanguageModelConfig, TrainConfig
from sptar.data.collection import Collection
from sptar.data.splits import Split
from sptar.io import read_jsonl
from sptar.packaged import name_of
from sptar.progress import silent
from sptar.steps.base import Context
from sptar.types import Document, Pair, Progress, Query
from sptar.workspace import Artefact

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sptar.llm.loading import LanguageModel
    from sptar.retrieval.lexical.bm25 import Bm25Index
    from sptar.retrieval.retriever import CorpusEncoder
    from sptar.training.protocols import InBatchTeacher

VECTORS = "vectors"
"""Folder of an ``encode`` artefact with its blocks."""
TEACHER_SCORES = "scores.npy"
IN_BATCH_TEACHER = "in_batch"
"""File and folder of a ``teach`` artefact."""

__all__ = [
    "IN_BATCH_TEACHER",
    "TEACHER_SCORES",
    "VECTORS",
    "bm25_index",
    "count_pairs",
    "encoder_of",
    "labelled_pairs",
    "language_model",
    "mined_documents",
    "open_collection",
    "open_split",
    "queries_of",
    "release_language_model",
    "teacher_scores",
    "training_pairs",
    "vector_files",
]


def open_collection(inputs: Mapping[str, Artefact], context: Context) -> Collection:
    """The collection that a step reads, opened once in a process."""
    artefact = inputs["collection"]
    key = ("collection", artefact.fingerprint)
    if key not in context.loaded:
        context.loaded[key] = Collection.open(artefact.path("collection"))
    found: Collection = context.loaded[key]
    return found


def open_split(inputs: Mapping[str, Artefact], context: Context) -> Split:
    """The split that a step reads."""
    artefact = inputs["split"]
    key = ("split", artefact.fingerprint)
    if key not in context.loaded:
        context.loaded[key] = Split.load(artefact.path("split"))
    found: Split = context.loaded[key]
    return found


def queries_of(collection: Collection, query_ids: Sequence[str]) -> list[Query]:
    """The queries with these ids, in order."""
    return [collection.queries[query_id] for query_id in query_ids]


def labelled_pairs(
    collection: Collection, query_ids: Sequence[str], per_query: int | None = None, seed: int = 0
) -> list[Pair]:
    """All positive pairs of these queries, or ``per_query`` of each at most, drawn by seed."""
    from sptar.data.labelled import pairs

    return pairs(collection, query_ids, per_query, seed)


def training_pairs(inputs: Mapping[str, Artefact], context: Context) -> list[Pair]:
    """The training set that a step reads, in the order of its file."""
    collection = open_collection(inputs, context)
    return [
        # A weak query is no document, whatever its id is.
        Pair(
            collection.queries[row["query_id"]]
            if row["source"] == "label"
            else Query(row["query_id"], row["text"], is_document=False),
            collection.corpus.get(row["doc_id"]),
        )
        for _, row in read_jsonl(inputs["pairs"].path("pairs.jsonl"))
    ]


def count_pairs(inputs: Mapping[str, Artefact]) -> int:
    """Size of the training set that a step reads."""
    summary = inputs["pairs"].manifest.summary
    return int(summary["labels"]) + int(summary["weak"])


def mined_documents(inputs: Mapping[str, Artefact], context: Context) -> list[tuple[Document, ...]]:
    """The hard negatives of each training pair; none at all when none were mined."""
    if "mine" not in inputs:
        return []
    corpus = open_collection(inputs, context).corpus
    known: dict[str, Document] = {}
    found = []
    for _, row in read_jsonl(inputs["mine"].path("negatives.jsonl")):
        for doc_id in row["negatives"]:
            if doc_id not in known:
                known[doc_id] = corpus.get(doc_id)
        found.append(tuple(known[doc_id] for doc_id in row["negatives"]))
    return found


def bm25_index(inputs: Mapping[str, Artefact], context: Context) -> Bm25Index:
    """The BM25 index that a step reads, opened once in a process."""
    from sptar.retrieval.lexical.bm25 import Bm25Index

    artefact = inputs["bm25_index"]
    key = ("bm25_index", artefact.fingerprint)
    if key not in context.loaded:
        corpus = open_collection(inputs, context).corpus
        context.loaded[key] = Bm25Index.load(artefact.path("index"), corpus)
    found: Bm25Index = context.loaded[key]
    return found


def language_model(config: LanguageModelConfig, context: Context) -> LanguageModel:
    """The language model, loaded once in a process."""
    from sptar.llm.loading import load_language_model

    key: Any = ("language_model", config)
    if key not in context.loaded:
        release_language_model(context)
        context.progress.message(f"Loading the language model {name_of(config.name)}")
        context.loaded[key] = load_language_model(config)
    found: LanguageModel = context.loaded[key]
    return found


def release_language_model(context: Context) -> None:
    """Let go of a loaded language model, so that its memory serves the retriever."""
    for key in [key for key in context.loaded if key[0] == "language_model"]:
        del context.loaded[key]


def encoder_of(
    recipe: TrainConfig, trained: Artefact | None, progress: Progress = silent
) -> CorpusEncoder:
    """A trained retriever, or the start encoder as it is (``zero_shot``)."""
    from sptar.retrieval.families import load_corpus_encoder

    name = None if trained is None else trained.path("model")
    return load_corpus_encoder(name, recipe, progress=progress)


def vector_files(encoded: Artefact) -> list[Path]:
    """The blocks of an ``encode`` artefact, in order."""
    return sorted(encoded.path(VECTORS).glob("block-*"))


def teacher_scores(
    taught: Artefact, negatives_per_pair: int
) -> tuple[npt.NDArray[np.float32], InBatchTeacher | None]:
    """What a ``teach`` artefact holds: scores ``[pairs, 1 + n]`` and the in-batch teacher."""
    from sptar.training.teachers import LateTeacher, load_pair_scores

    summary = taught.manifest.summary
    scores = load_pair_scores(
        taught.path(TEACHER_SCORES), int(summary["pairs"]), negatives_per_pair
    )
    late = LateTeacher.load(taught.path(IN_BATCH_TEACHER)) if summary["in_batch"] else None
    return scores, late
