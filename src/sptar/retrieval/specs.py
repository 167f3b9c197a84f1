"""The table of retrievers: one frozen row for each, read by loading and training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sptar.config import TrainConfig
from sptar.errors import ConfigError

__all__ = ["RETRIEVERS", "RetrieverSpec", "retriever_spec"]


@dataclass(frozen=True, slots=True)
class RetrieverSpec:
    """What makes one dense retriever different from another.

    ``pooling`` turns token vectors into one vector, unless the start model brings a pooling of its
    own. ``similarity`` is how a query and a document vector are compared; ``scale`` is the factor
    on it in the softmax. ``max_tokens`` bounds a text, together with the start model's own bound.
    ``loss`` names the training objective, ``weight_decay`` (matrices only) and
    ``max_gradient_norm`` complete the optimiser.
    """

    name: str
    description: str
    pooling: Literal["mean", "cls"]
    similarity: Literal["cosine", "dot"]
    scale: float
    max_tokens: int
    loss: Literal["in_batch_negatives"]
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0

    @property
    def normalise(self) -> bool:
        """Whether vectors are brought to length 1, so that search needs only a dot product."""
        return self.similarity == "cosine"


RETRIEVERS: dict[str, RetrieverSpec] = {
    row.name: row
    for row in (
        RetrieverSpec(
            name="dpr",
            description="DPR bi-encoder: one encoder for queries and documents, mean of the token "
            "vectors, cosine, softmax over the other documents of the batch",
            pooling="mean",
            similarity="cosine",
            scale=20.0,
            max_tokens=350,
            loss="in_batch_negatives",
        ),
    )
}
"""Name → row. The values are those of the paper's published training scripts."""


def retriever_spec(config: TrainConfig) -> RetrieverSpec:
    """The row that the config names, with the config's own values where it has a setting.

    Raises:
        ConfigError: the table has no such row.

    >>> retriever_spec(TrainConfig(scale=10.0)).scale
    10.0
    """
    try:
        row = RETRIEVERS[config.retriever]
    except KeyError:
        raise ConfigError(
            f"train.retriever: there is no retriever '{config.retriever}'.",
            hint=f"Known are: {', '.join(RETRIEVERS)}.",
        ) from None
    return replace(row, pooling=config.pooling, scale=config.scale, max_tokens=config.max_tokens)
