"""The rows of the table with recipes by which they learn eight pairs in a second or two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sptar.config import TrainConfig
from sptar.retrieval.dense.rerank import VectorReranker
from sptar.retrieval.families import load_corpus_encoder, load_reranker
from sptar.retrieval.ranking import ListedIds
from sptar.retrieval.specs import RETRIEVERS, retriever_spec
from sptar.training.dev_set import DevSet
from sptar.training.loop import TrainingData, TrainingResult, train_retriever
from tiny import DOCUMENTS, PAIRS, QUERIES

QRELS = {pair.query.query_id: {pair.document.doc_id: 1} for pair in PAIRS}
SPARE = DOCUMENTS[len(PAIRS) :]
"""Documents that answer no query: hard negatives."""

STARTS = {
    "tas_b": ["wide"],
    "bm25ce": ["wide"],
    "dragon": ["wide"],
    "splade": ["wide"],
    "static": ["encoder", "llama"],
    "lora": ["llama", "wide"],
}
"""Where it is not the tiny encoder: a single token's state must depend on the text."""

ROWS = [(name, start) for name in RETRIEVERS for start in STARTS.get(name, ["encoder"])]
SETTINGS = {
    "static": {"learning_rate": 3e-2},
    "lora": {"learning_rate": 1e-2},
    # It learns from negatives alone, so that here each other document must be one.
    "bm25ce": {"negatives_per_pair": len(DOCUMENTS) - 1},
}


def share_at_rank_one(run, qrels):
    hits = 0
    for query_id, judged in qrels.items():
        best = min(run[query_id].items(), key=lambda item: (-item[1], item[0]))[0]
        hits += judged.get(best, 0) > 0
    return hits / len(qrels)


class ListedCorpus(ListedIds):
    """Documents in memory as a corpus."""

    def __init__(self, documents):
        super().__init__(documents)
        self._documents = documents

    def __getitem__(self, position):
        return self._documents[position]

    def __iter__(self):
        return iter(self._documents)

    def get(self, doc_id):
        return self._documents[self.position(doc_id)]


class OwnDocument:
    """An in-batch teacher that finds each query's own document much better than the others."""

    def scores(self, numbers):
        return 8.0 * np.eye(len(numbers), dtype=np.float32)


def everything(queries, documents):
    """Candidates for a reranker: all documents."""
    return {query.query_id: {item.doc_id: 0.0 for item in documents} for query in queries}


def training_data(config):
    wanted = 0 if config.negatives == "none" else config.negatives_per_pair
    if not wanted:
        return TrainingData(PAIRS)
    # A softmax has the other pairs' documents anyway, and a pair whose answer is another one's
    # negative could not stand in its batch.
    pool = DOCUMENTS if retriever_spec(config).loss == "binary" else SPARE
    negatives = [
        [pool[(number + 1 + column) % len(pool)] for column in range(wanted)]
        for number in range(len(PAIRS))
    ]
    if retriever_spec(config).loss != "margin_mse":
        return TrainingData(PAIRS, negatives)
    scores = np.tile(np.array([8.0] + [0.0] * wanted, dtype=np.float32), (len(PAIRS), 1))
    return TrainingData(PAIRS, negatives, scores, OwnDocument())


DEV = DevSet(QUERIES, DOCUMENTS, QRELS, candidates=everything(QUERIES, DOCUMENTS))


@dataclass(frozen=True)
class Trained:
    """``config`` is that of the row that was trained: for bm25dpr the one that it reranks with."""

    row: str
    folder: Path
    config: TrainConfig
    result: TrainingResult

    @property
    def spec(self):
        return retriever_spec(self.config)

    def search(
        self,
        documents=DOCUMENTS,
        queries=QUERIES,
        *,
        batch_size=32,
        block=100,
        disk=None,
        **settings,
    ):
        """Documents go through blocks of the given size; ``disk`` is a folder for their files."""
        config = self.config.model_copy(update={"encode_batch_size": batch_size, **settings})
        corpus, candidates = ListedCorpus(documents), everything(queries, documents)
        if self.spec.is_reranker:
            return load_reranker(self.folder, config).rerank(queries, candidates, corpus, 100)
        encoder = load_corpus_encoder(self.folder, config)
        blocks = [
            encoder.encode_block(documents[first : first + block])
            for first in range(0, len(documents), block)
        ]
        if disk is not None:
            paths = [disk / f"{number}{encoder.block_suffix}" for number in range(len(blocks))]
            for path, found in zip(paths, blocks, strict=True):
                encoder.save_block(path, found)
            blocks = paths
        if RETRIEVERS[self.row].reranks is not None:
            reranker = VectorReranker(encoder, blocks, corpus)
            return reranker.rerank(queries, candidates, corpus, 100)
        return encoder.searcher(blocks, corpus).search(queries, 100)


def train(config, folder, dev_score=share_at_rank_one, state="state"):
    return train_retriever(
        training_data(config),
        DEV,
        config,
        11,
        folder,
        dev_score,
        folder.parent / state,
        dev_measure="share at rank 1",
    )
