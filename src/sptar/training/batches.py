"""The batches of an epoch, as a row of the table wants them."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from sptar.config import TrainConfig
from sptar.errors import ConfigError, DataError
from sptar.retrieval.specs import retriever_spec
from sptar.training.plain_batches import conflict_free_batches
from sptar.training.texts import TrainingTexts

if TYPE_CHECKING:
    from sptar.training.protocols import TrainableRetriever

__all__ = ["Batches", "TrainingBatches", "conflict_free"]

Batches: TypeAlias = list[list[int]]
"""Positions of the pairs in each batch."""


@runtime_checkable
class _QueryEncoder(Protocol):
    def query_vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


def conflict_free(
    texts: TrainingTexts, config: TrainConfig, seed: int, number: int
) -> tuple[Batches, int]:
    """Batches of one pass without false negatives, and the number of pairs left alone.

    No document of a batch, hard negatives included, answers the query of another of its pairs. A
    pair that is alone is left out, unless it brings hard negatives of its own.
    """
    keys = list(zip(texts.queries, texts.documents, strict=True))
    smallest = 1 if any(texts.negatives) else 2
    dealt = conflict_free_batches(
        keys,
        texts.positives,
        config.batch_size,
        seed,
        number,
        negatives=texts.negatives if smallest == 1 else (),
    )
    useful = [batch for batch in dealt if len(batch) >= smallest]
    return useful, len(dealt) - len(useful)


class TrainingBatches:
    """The batches of each epoch of one run.

    With a number of ``steps_per_epoch`` the passes over the pairs follow one another without a
    break, and each epoch takes so many batches from where the one before it stopped. Otherwise an
    epoch is a pass. Either way an epoch's batches follow from its number alone.

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
        self._ends: list[int] = []
        """Batches of all passes up to each one."""
        self._last: tuple[int, tuple[Batches, int]] | None = None
        if self._batching == "topics":
            self._cluster(teacher_scores, trainable)

    def of_epoch(self, epoch: int) -> tuple[Batches, int]:
        """Batches of an epoch (counted from 1), and how many pairs were left alone and out.

        Pairs left alone are counted in the epoch in which their pass begins.
        """
        size = self._config.steps_per_epoch
        if not isinstance(size, int):
            return self._pass(epoch)
        first, stop = (epoch - 1) * size, epoch * size
        while not self._ends or self._ends[-1] < stop:
            place = len(self._ends)
            self._ends.append(self._begin(place) + len(self._pass(place + 1)[0]))
        batches: Batches = []
        alone = 0
        for place in range(bisect_right(self._ends, first), len(self._ends)):
            begin = self._begin(place)
            if begin >= stop:
                break
            dealt, lone = self._pass(place + 1)
            batches += dealt[max(0, first - begin) : stop - begin]
            alone += lone if begin >= first else 0
        return batches, alone

    def _begin(self, place: int) -> int:
        return self._ends[place - 1] if place else 0

    def _pass(self, number: int) -> tuple[Batches, int]:
        """The batches of a pass over all pairs (counted from 1), and how many are left alone."""
        if self._last is None or self._last[0] != number:
            dealt = self._deal(number)
            if not dealt[0]:
                raise DataError(
                    f"In pass {number} over the training pairs no two of them stand in one batch.",
                    hint="Training needs pairs of at least two different queries and documents.",
                )
            self._last = (number, dealt)
        return self._last[1]

    def _deal(self, number: int) -> tuple[Batches, int]:
        if self._batching == "conflict_free":
            return conflict_free(self._texts, self._config, self._seed, number)
        return (self._topics if self._batching == "topics" else self._shuffled)(number), 0

    def _shuffled(self, number: int) -> Batches:
        order = list(range(len(self._texts.queries)))
        random.Random(f"batches:{self._seed}:{number}").shuffle(order)
        size = self._config.batch_size
        return [order[first : first + size] for first in range(0, len(order), size)]

    def _cluster(
        self, teacher_scores: npt.NDArray[np.float32] | None, trainable: TrainableRetriever
    ) -> None:
        from sptar.training.distributed import broadcast
        from sptar.training.topics import cluster_queries, default_topics, mean_margins

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
        self._topic_of = np.array(broadcast(topics), dtype=np.int64)
        self._margins = mean_margins(teacher_scores)

    def _topics(self, number: int) -> Batches:
        from sptar.training.topics import topic_batches

        return topic_batches(
            self._topic_of,
            self._margins,
            list(zip(self._texts.queries, self._texts.documents, strict=True)),
            self._texts.positives,
            self._config.batch_size,
            self._config.margin_bins,
            self._seed,
            number,
        )
