"""From a row of the table to its encoder, its reranker, or what is trained: one place that knows.

Each family's module is imported when it is needed: they bring torch along.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sptar.config import TrainConfig
from sptar.errors import ConfigError
from sptar.progress import silent
from sptar.retrieval.retriever import CorpusEncoder, Reranker
from sptar.retrieval.specs import retriever_spec
from sptar.types import Progress

if TYPE_CHECKING:
    pass

__all__ = ["load_corpus_encoder", "load_reranker"]


def load_corpus_encoder(
    name: str | Path | None, config: TrainConfig, *, progress: Progress = silent
) -> CorpusEncoder:
    """The encoder of a corpus that a row stands for.

    Args:
        name: folder of a trained retriever, or hub name; ``None`` takes the start, or the two
            starts, of the config as they come (zero-shot).
        config: resolved recipe.

    Raises:
        ConfigError: the row reranks and encodes no corpus.
        ModelError: nothing loadable under this name.
    """
    spec = retriever_spec(config)
    if spec.family == "late_interaction":
        from sptar.retrieval.late.encoder import load_late_encoder

        return load_late_encoder(name, config, progress=progress)
    if spec.family == "sparse":
        from sptar.retrieval.sparse.encoder import load_sparse_encoder

        return load_sparse_encoder(name, config, progress=progress)
    if spec.family == "bi_encoder":
        from sptar.retrieval.dense.encoder import load_encoder

        return load_encoder(name, config, progress=progress)
    raise ConfigError(
        f"The retriever {spec.name} reranks what another one found and encodes no corpus.",
        hint="Choose a row that searches, such as dpr.",
    )


def load_reranker(
    name: str | Path | None, config: TrainConfig, *, progress: Progress = silent
) -> Reranker:
    """The reranker that a row stands for; arguments as for :func:`load_corpus_encoder`.

    A row that reranks by another row's vectors gets its blocks of encoded documents from the
    caller, see :class:`sptar.retrieval.dense.rerank.VectorReranker`.

    Raises:
        ConfigError: the row is no cross-encoder.
        ModelError: nothing loadable under this name.
    """
    spec = retriever_spec(config)
    if spec.family == "cross_encoder":
        from sptar.retrieval.cross.reranker import load_cross_encoder

        return load_cross_encoder(name, config, progress=progress)
    raise ConfigError(
        f"The retriever {spec.name} is no cross-encoder.", hint="Choose bm25ce for reranking."
    )
