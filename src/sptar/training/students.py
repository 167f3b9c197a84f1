"""From a row of the table to what is trained.

Each family's module is imported when it is needed: they bring torch along.
"""

from __future__ import annotations

from sptar.config import TrainConfig
from sptar.errors import ConfigError
from sptar.progress import silent
from sptar.retrieval.specs import retriever_spec
from sptar.training.dev_set import DevSet
from sptar.training.protocols import TrainableRetriever
from sptar.types import Progress

__all__ = ["load_trainable"]


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
        from sptar.retrieval.late.encoder import load_late_encoder
        from sptar.training.trainable.late import LateTrainable

        return LateTrainable(load_late_encoder(None, config, progress=progress), config)
    if spec.family == "sparse":
        from sptar.retrieval.sparse.encoder import load_sparse_encoder
        from sptar.training.trainable.sparse import SparseTrainable

        return SparseTrainable(load_sparse_encoder(None, config, progress=progress), config)
    if spec.family == "cross_encoder":
        from sptar.retrieval.cross.reranker import load_cross_encoder
        from sptar.training.trainable.cross import CrossEncoderTrainable

        reranker = load_cross_encoder(None, config, progress=progress)
        return CrossEncoderTrainable(reranker, config, dev.candidates)
    from sptar.retrieval.dense.encoder import load_encoder
    from sptar.training.trainable.bi_encoder import BiEncoderTrainable

    return BiEncoderTrainable(load_encoder(None, config, progress=progress), config)
