"""D_unlabeled: the documents that may get a weak query."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sptar.config import SplitConfig
from sptar.data.collection import Collection
from sptar.errors import ConfigError

__all__ = ["documents_to_augment"]


def documents_to_augment(
    collection: Collection, config: SplitConfig, kept_apart: Iterable[str], seed: int
) -> tuple[npt.NDArray[np.int64], int]:
    """Positions to augment, ascending, and how many documents the labels keep out.

    Nothing judged, with any grade, for a query of ``kept_apart`` is among them.

    Raises:
        ConfigError: no document is left.
    """
    corpus = collection.corpus
    free = np.ones(len(corpus), dtype=bool)
    out = set(kept_apart)
    if config.augment_from == "unjudged":
        out.update(query_id for qrels in collection.qrels.values() for query_id in qrels)
    for judged in collection.judgements(sorted(out)).values():
        for doc_id in judged:
            if doc_id in corpus:
                free[corpus.position(doc_id)] = False
    positions = np.flatnonzero(free).astype(np.int64)
    excluded = len(corpus) - len(positions)
    if not len(positions):
        raise ConfigError(
            "Every document is judged for some query: none is left to write weak queries for.",
            hint="Set `split.augment_from: not_evaluated`."
            if config.augment_from == "unjudged"
            else "Add documents without judgements to the corpus.",
        )
    if config.max_documents is not None and config.max_documents < len(positions):
        # The front of one permutation: a larger sample of the same seed contains the smaller.
        order = np.random.default_rng([seed, 0x646F6373]).permutation(len(positions))
        positions = np.sort(positions[order[: config.max_documents]])
    return positions, excluded
