"""What a retriever learns from, and the refusal of what it cannot learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sptar.config import TrainConfig
from sptar.errors import DataError
from sptar.retrieval.specs import RetrieverSpec
from sptar.training.batches import conflict_free
from sptar.training.protocols import InBatchTeacher
from sptar.training.texts import TrainingTexts
from sptar.types import Document, Pair

__all__ = ["TrainingData", "refuse_unfit"]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a retriever learns from.

    ``negatives[i]`` are the hard negatives of ``pairs[i]``, equally many (n) for each pair; empty
    for none. ``teacher_scores`` ``[pairs, 1 + n]`` are a teacher's scores of the positive, then of
    its negatives. The ``in_batch_teacher`` scores pairs by their positions in ``pairs``.
    """

    pairs: Sequence[Pair]
    negatives: Sequence[Sequence[Document]] = ()
    teacher_scores: npt.NDArray[np.float32] | None = None
    in_batch_teacher: InBatchTeacher | None = None


def refuse_unfit(
    data: TrainingData,
    texts: TrainingTexts,
    spec: RetrieverSpec,
    config: TrainConfig,
    seed: int,
) -> None:
    """Refuse data from which the recipe cannot learn.

    Raises:
        DataError: too few pairs, none that could stand in one batch with another, negatives or
            teacher scores that do not fit the pairs or that the recipe lacks.
    """
    negatives = len(texts.negatives[0]) if data.negatives else 0
    fewest = 1 if spec.batching == "shuffled" or negatives else 2
    if len(data.pairs) < fewest:
        raise DataError(
            f"{len(data.pairs)} training pairs are too few: other pairs of a batch are the "
            "negatives.",
            hint="Label more queries, or raise filter.k to keep more weak pairs.",
        )
    if spec.loss != "in_batch_negatives" and not negatives:
        raise DataError(
            f"The retriever {spec.name} learns from hard negatives, and its training data hold "
            "none.",
            hint="Set train.negatives to random, bm25 or dense.",
        )
    if spec.loss == "margin_mse" and data.teacher_scores is None:
        raise DataError(
            f"The retriever {spec.name} learns a teacher's margins, and its training data hold no "
            "teacher scores.",
            hint="Set train.teacher=own, or name a cross-encoder.",
        )
    if data.teacher_scores is not None:
        expected = (len(data.pairs), 1 + negatives)
        if data.teacher_scores.shape != expected:
            raise DataError(
                f"Teacher scores have the shape {data.teacher_scores.shape}, not {expected}: "
                "pairs, 1 + hard negatives."
            )
        if not np.isfinite(data.teacher_scores).all():
            raise DataError("Teacher scores hold values that are no numbers.")
    if spec.batching == "conflict_free" and not conflict_free(texts, config, seed, 1)[0]:
        raise DataError(
            f"No two of the {len(data.pairs)} training pairs can stand in one batch: they share "
            "their query or document, so there are no negatives.",
            hint="Training needs pairs of at least two different queries and documents.",
        )
