"""From a row of the table to its encoder, its reranker, or what is trained: one place that knows.

Each family's module is imported when it is needed: they bring torch along.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sptar.config import TrainConfig
from sptar.errors import ConfigError
from sptar.progress import silent
from sptar.retrieval.retriever import CorpusEncoder, Reranker, TrainableRetriever
from sptar.retrieval.specs import retriever_spec
from sptar.types import Progress

if TYPE_CHECKING:
    from sptar.retrieval.reduced_corpus import DevSet

__all__ = ["load_corpus_encoder", "load_reranker", "load_trainable"]


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
        from sptar.retrieval.late import load_late_encoder

        return load_late_encoder(name, config, progress=progress)
    if spec.family == "sparse":
        from sptar.retrieval.sparse import load_sparse_encoder

        return load_sparse_encoder(name, config, progress=progress)
    if spec.family == "bi_encoder":
        from sptar.retrieval.encoding import load_encoder

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
    caller, see :class:`sptar.retrieval.rerank.VectorReranker`.

    Raises:
        ConfigError: the row is no cross-encoder.
        ModelError: nothing loadable under this name.
    """
    spec = retriever_spec(config)
    if spec.family == "cross_encoder":
        from sptar.retrieval.crossencoder import load_cross_encoder

        return load_cross_encoder(name, config, progress=progress)
    raise ConfigError(
        f"The retriever {spec.name} is no cross-encoder.", hint="Choose bm25ce for reranking."
    )


def load_trainable(
    config: TrainConfig, dev: DevSet, *, progress: Progress = silent
) -> TrainableRetriever:
    """The start model of a config, ready to be trained.

    Args:
        config: resolved recipe.
        dev: rerankers take from it the candidates that they order to choose a checkpoint.

    Raises:
        ConfigError: the row has nothing to train.
        ModelError: the start cannot be loaded.
    """
    spec = retriever_spec(config)
    if spec.reranks is not None:
        raise ConfigError(
            f"The retriever {spec.name} trains nothing of its own: it reranks with {spec.reranks}.",
            hint=f"Train {spec.reranks}.",
        )
    if spec.family == "late_interaction":
        from sptar.retrieval.late import LateTrainable, load_late_encoder

        return LateTrainable(load_late_encoder(None, config, progress=progress), config)
    if spec.family == "sparse":
        from sptar.retrieval.sparse import SparseTrainable, load_sparse_encoder

        return SparseTrainable(load_sparse_encoder(None, config, progress=progress), config)
    if spec.family == "cross_encoder":
        from sptar.retrieval.crossencoder import CrossEncoderTrainable, load_cross_encoder

        reranker = load_cross_encoder(None, config, progress=progress)
        return CrossEncoderTrainable(reranker, config, dev.candidates)
    from sptar.retrieval.biencoder import BiEncoderTrainable
    from sptar.retrieval.encoding import load_encoder

    return BiEncoderTrainable(load_encoder(None, config, progress=progress), config)
