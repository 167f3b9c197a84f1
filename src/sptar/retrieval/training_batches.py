"""The batches of an epoch, as a row of the table wants them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from sptar.config import TrainConfig
from sptar.errors import ConfigError
from sptar.retrieval.batches import conflict_free_batches
from sptar.retrieval.specs import retriever_spec
from sptar.retrieval.training_texts import TrainingTexts

if TYPE_CHECKING:
    from sptar.retrieval.retriever import TrainableRetriever

__all__ = ["Batches", "TrainingBatches", "conflict_free"]

Batches: TypeAlias = list[list[int]]
"""Positions of the pairs in each batch."""


@runtime_checkable
class _QueryEncoder(Protocol):
    def query_vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


def conflict_free(
    texts: TrainingTexts, config: TrainConfig, seed: int, epoch: int
) -> tuple[Batches, int]:
    """Batches of one epoch without false negatives, and the number of pairs left alone.

    No document of a batch, hard negatives included, answers the query of another of its pairs. A
    pair that is alone is left out, unless it brings hard negatives of its own.
    """
    keys = list(zip(texts.queries, texts.documents, strict=True))
    smallest = 1 if any(texts.negatives) else 2
    batches: Batches = []
    alone = 0
    for repeat in range(max(1, config.min_steps_per_epoch)):
        one_pass = conflict_free_batches(
            keys,
            texts.positives,
            config.batch_size,
            seed,
            epoch,
            repeat,
            negatives=texts.negatives if smallest == 1 else (),
        )
        useful = [batch for batch in one_pass if len(batch) >= smallest]
        alone += len(one_pass) - len(useful)
        batches += useful
        if len(batches) >= config.min_steps_per_epoch or not useful:
            break
    return batches, alone


class TrainingBatches:
    """The batches of each epoch of one run.

    Args:
        texts: the training pairs; one at least.
        teacher_scores: [pairs, 1 + n]; needed for topics.
        config: resolved recipe.
        seed: of the run.
        trainable: still untrained; for topics it encodes the queries, once, here.
    """

    def __init__(
        self,
        texts: TrainingTexts,
        teacher_scores: npt.NDArray[np.float32] | None,
        config: TrainConfig,
        seed: int,
        trainable: TrainableRetriever,
    ) -> None:
        self._texts = texts
        self._config = config
        self._seed = seed
        self._batching = retriever_spec(config).batching
        if self._batching == "topics":
            self._cluster(teacher_scores, trainable)

    def of_epoch(self, epoch: int) -> tuple[Batches, int]:
        """Batches of an epoch (counted from 1), and how many pairs were left alone and out.

        Passes over a small training set are joined until there are ``min_steps_per_epoch``.
        """
        if self._batching == "conflict_free":
            return conflict_free(self._texts, self._config, self._seed, epoch)
        batches: Batches = []
        repeat = 0
        while not batches or len(batches) < self._config.min_steps_per_epoch:
            one_pass = self._topics if self._batching == "topics" else self._shuffled
            batches += one_pass(epoch, repeat)
            repeat += 1
        return batches, 0

    def _shuffled(self, epoch: int, repeat: int) -> Batches:
        order = list(range(len(self._texts.queries)))
        random.Random(f"batches:{self._seed}:{epoch}:{repeat}").shuffle(order)
        size = self._config.batch_size
        return [order[first : first + size] for first in range(0, len(order), size)]

    def _cluster(
        self, teacher_scores: npt.NDArray[np.float32] | None, trainable: TrainableRetriever
    ) -> None:
        from sptar.retrieval.parallel import told_by_first
        from sptar.retrieval.topics import cluster_queries, default_topics, mean_margins

        if teacher_scores is None or not isinstance(trainable, _QueryEncoder):
            raise ConfigError(
                f"The retriever {self._config.retriever} cannot be trained in batches by topic: "
                "that takes one vector for each query, and teacher scores."
            )
        distinct = list(dict.fromkeys(self._texts.queries))
        row_of = {text: row for row, text in enumerate(distinct)}
        rows = [row_of[text] for text in self._texts.queries]
        count = self._config.topics
        if count is None:
            count = default_topics(len(self._texts.queries), self._config.batch_size)

        def topics() -> list[int]:
            vectors = trainable.query_vectors(distinct)[rows]
            found: list[int] = cluster_queries(vectors, count, self._seed).tolist()
            return found

        # Rounding decides about a query between two topics, and all must make the same batches.
        self._topic_of = np.array(told_by_first(topics), dtype=np.int64)
        self._margins = mean_margins(teacher_scores)

    def _topics(self, epoch: int, repeat: int) -> Batches:
        from sptar.retrieval.topics import topic_batches

        return topic_batches(
            self._topic_of,
            self._margins,
            list(zip(self._texts.queries, self._texts.documents, strict=True)),
            self._texts.positives,
            self._config.batch_size,
            self._config.margin_bins,
            self._seed,
            epoch,
            repeat,
        )
