"""The texts of training pairs and of their hard negatives, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sptar.errors import DataError
from sptar.types import Document, Pair

__all__ = ["TrainingTexts"]


@dataclass(frozen=True, slots=True)
class TrainingTexts:
    """Training texts with equal ones under one key.

    ``negatives[i]`` belong to pair i, equally many for each. ``positives`` holds the known answers
    of each query text.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    negatives: tuple[tuple[str, ...], ...]
    positives: dict[str, set[str]]

    @classmethod
    def of(
        cls, pairs: Sequence[Pair], negatives: Sequence[Sequence[Document]] = ()
    ) -> TrainingTexts:
        """The texts of pairs and, where there are any, of their hard negatives.

        Raises:
            DataError: negatives for another number of pairs, pairs with different numbers of them,
                or a negative that is known to answer its query.
        """
        queries = tuple(pair.query.text.strip() for pair in pairs)
        documents = tuple(pair.document.full_text for pair in pairs)
        positives: dict[str, set[str]] = {}
        for query, document in zip(queries, documents, strict=True):
            positives.setdefault(query, set()).add(document)
        if negatives and len(negatives) != len(pairs):
            raise DataError(
                f"There are hard negatives for {len(negatives)} pairs, and {len(pairs)} pairs."
            )
        if len({len(found) for found in negatives}) > 1:
            raise DataError(
                "Training pairs have different numbers of hard negatives.",
                hint="Lower train.negatives_per_pair, or train.mine_skip.",
            )
        for pair, query, found in zip(pairs, queries, negatives, strict=False):
            for negative in found:
                if negative.full_text in positives[query]:
                    raise DataError(
                        f"Document {negative.doc_id} is a hard negative of query "
                        f"{pair.query.query_id}, whose training pairs say that it answers it.",
                        hint="Mine the negatives again, from these pairs.",
                    )
        texts = tuple(tuple(document.full_text for document in found) for found in negatives)
        return cls(queries, documents, texts or ((),) * len(pairs), positives)
