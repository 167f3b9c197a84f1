"""The texts of training pairs, and the batches of an epoch made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sptar.config import TrainConfig
from sptar.retrieval.batches import conflict_free_batches
from sptar.types import Pair

__all__ = ["TrainingTexts"]


@dataclass(frozen=True, slots=True)
class TrainingTexts:
    """Training texts with equal ones under one key."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    positives: dict[str, set[str]]

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> TrainingTexts:
        queries = tuple(pair.query.text.strip() for pair in pairs)
        documents = tuple(pair.document.full_text for pair in pairs)
        positives: dict[str, set[str]] = {}
        for query, document in zip(queries, documents, strict=True):
            positives.setdefault(query, set()).add(document)
        return cls(queries, documents, positives)

    def batches(self, config: TrainConfig, seed: int, epoch: int) -> tuple[list[list[int]], int]:
        """Batches of one epoch that teach something, and the number of pairs left alone."""
        keys = list(zip(self.queries, self.documents, strict=True))
        batches: list[list[int]] = []
        alone = 0
        for repeat in range(max(1, config.min_steps_per_epoch)):
            one_pass = conflict_free_batches(
                keys, self.positives, config.batch_size, seed, epoch, repeat
            )
            useful = [batch for batch in one_pass if len(batch) > 1]
            alone += len(one_pass) - len(useful)
            batches += useful
            if len(batches) >= config.min_steps_per_epoch or not useful:
                break
        return batches, alone
