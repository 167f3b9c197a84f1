"""D_unlabeled: the documents that may get a weak query."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sptar.config import SplitConfig
from sptar.data.collection import Collection
from sptar.errors import ConfigError

__all__ = ["documents_to_augment", "refuse_none"]


def refuse_none(documents: int, config: SplitConfig) -> None:
    """Make sure that there are documents to write weak queries for.

    Raises:
        ConfigError: there is none.
    """
    if documents:
        return
    if config.augment_from == "unjudged":
        raise ConfigError(
            "Every document is judged for some query: none is left to write weak queries for.",
            hint="Set `split.augment_from: not_evaluated`, or `all`, or run methods that write "
            "nothing.",
        )
    raise ConfigError(
        "Every document is judged for a dev, S_eval or test query: none is left to write weak "
        "queries for.",
        hint="Set `split.augment_from: all`, or run methods that write nothing.",
    )


def documents_to_augment(
    collection: Collection, config: SplitConfig, kept_apart: Iterable[str], seed: int
) -> tuple[npt.NDArray[np.int64], int]:
    """Positions to augment, ascending, and how many documents the labels keep out.

    Nothing judged, with any grade, for a query of ``kept_apart`` is among them, unless
    ``augment_from`` is ``all``. There may be none: :func:`refuse_none` is for methods that write.
    """
    corpus = collection.corpus
    free = np.ones(len(corpus), dtype=bool)
    out = set(kept_apart)
    if config.augment_from == "unjudged":
        out.update(query_id for qrels in collection.qrels.values() for query_id in qrels)
    if config.augment_from == "all":
        out.clear()
    for judged in collection.judgements(sorted(out)).values():
        for doc_id in judged:
            if doc_id in corpus:
                free[corpus.position(doc_id)] = False
    positions = np.flatnonzero(free).astype(np.int64)
    excluded = len(corpus) - len(positions)
    if config.max_documents is not None and config.max_documents < len(positions):
        # The front of one permutation: a larger sample of the same seed contains the smaller.
        order = np.random.default_rng([seed, 0x646F6373]).permutation(len(positions))
        positions = np.sort(positions[order[: config.max_documents]])
    return positions, excluded
