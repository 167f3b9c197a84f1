"""What the training loop knows of a retriever, of a batch, and of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from sptar.retrieval.specs import RetrieverSpec
from sptar.types import Document, Query, Run

if TYPE_CHECKING:
    import torch

__all__ = ["InBatchTeacher", "TrainableRetriever", "TrainingBatch"]


class InBatchTeacher(Protocol):
    """Scores every query of a batch against every document of it."""

    def scores(self, numbers: Sequence[int]) -> npt.NDArray[np.float32]:
        """``[b, b]``: teacher's score of pair i's query and pair j's document."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """b pairs that are trained together.

    ``numbers`` are their positions in the training set. ``negatives[i]`` are pair i's hard
    negatives, the same number n ≥ 0 for every pair. ``teacher`` holds the teacher's scores
    ``[b, 1 + n]`` of the positive and the negatives, ``in_batch`` the ``[b, b]`` scores of an
    :class:`InBatchTeacher`; both are ``None`` for losses without a teacher.
    """

    numbers: tuple[int, ...]
    queries: tuple[str, ...]
    positives: tuple[str, ...]
    negatives: tuple[tuple[str, ...], ...]
    teacher: npt.NDArray[np.float32] | None = None
    in_batch: npt.NDArray[np.float32] | None = None


class TrainableRetriever(Protocol):
    """A retriever while it is trained: the loop knows nothing else of it."""

    spec: RetrieverSpec
    module: torch.nn.Module
    """Holds every parameter; its parameter names are stable. The loop puts it into training or
    evaluation mode, and only parameters with ``requires_grad`` are trained."""

    def loss(self, batch: TrainingBatch) -> torch.Tensor:
        """Mean loss of the pairs, a float32 scalar.

        With ``config.micro_batch_size`` it comes from a cached loss: its ``backward`` then
        embeds the texts again, piece by piece.
        """
        ...

    def rank(self, queries: Sequence[Query], documents: Sequence[Document], top_k: int) -> Run:
        """Rankings over documents in memory, to choose the checkpoint (module in evaluation mode).

        Rerankers order what the caller's candidates hold, see ``candidates`` of the dev set.
        """
        ...

    def reading(self) -> list[Any]:
        """How texts are read (pooling, bounds, prompts …) as JSON values: part of the identity."""
        ...

    def save(self, folder: Path) -> None:
        """Write a folder that the plain library loads: safetensors, no path of this machine."""
        ...
