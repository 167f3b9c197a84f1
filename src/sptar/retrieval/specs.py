"""The table of retrievers: one frozen row for each, read by loading, training and search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from sptar.config import TrainConfig, problems_of
from sptar.errors import ConfigError

__all__ = ["RETRIEVERS", "Family", "RetrieverSpec", "recipe", "retriever_spec"]

Family = Literal["bi_encoder", "late_interaction", "sparse", "cross_encoder"]
"""``bi_encoder``: one vector for a text. ``late_interaction``: one for each token. ``sparse``: a
weight for each word of the vocabulary. ``cross_encoder``: reads query and document together and
reranks."""


@dataclass(frozen=True, slots=True)
class RetrieverSpec:
    """What makes one retriever different from another.

    ``similarity`` is how two vectors are compared, ``loss`` names the training objective and
    ``batching`` how pairs come together in a batch: ``conflict_free`` (no false negatives among
    in-batch negatives), ``shuffled`` (pairs do not meet) or ``topics`` (queries of one cluster,
    balanced teacher margins). ``start_layers`` says what of the start model is used: all of it, its
    token table alone, or all with a low-rank update (LoRA). ``zero_shot`` tells whether the start
    can search before any training. ``reranks`` names the row whose trained encoder this row uses
    to rerank BM25; such a row trains nothing of its own. ``defaults`` are the row's values for
    settings of ``train`` that the user did not set.
    """

    name: str
    description: str
    family: Family
    similarity: Literal["cosine", "dot", "maxsim", "score"]
    loss: Literal["in_batch_negatives", "binary", "margin_mse"]
    batching: Literal["conflict_free", "shuffled", "topics"] = "conflict_free"
    start_layers: Literal["all", "token_table", "lora"] = "all"
    zero_shot: bool = True
    reranks: str | None = None
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def normalise(self) -> bool:
        """Whether vectors are brought to length 1, so that search needs only a dot product."""
        return self.similarity == "cosine"

    @property
    def is_reranker(self) -> bool:
        """Whether it orders BM25's documents anew instead of finding documents itself."""
        return self.family == "cross_encoder" or self.reranks is not None


RETRIEVERS: dict[str, RetrieverSpec] = {
    row.name: row
    for row in (
        RetrieverSpec(
            name="dpr",
            description="DPR bi-encoder: one encoder for queries and documents (or one for each), "
            "mean of the token vectors, cosine, softmax over the other documents of the batch",
            family="bi_encoder",
            similarity="cosine",
            loss="in_batch_negatives",
        ),
        RetrieverSpec(
            name="colbert",
            description="ColBERT: a vector for each token, each query token takes its most similar "
            "document token, softmax over the documents of the batch and one random negative",
            family="late_interaction",
            similarity="maxsim",
            loss="in_batch_negatives",
            defaults={
                "scale": 1.0,
                "max_query_tokens": 32,
                "negatives": "random",
                "negatives_per_pair": 1,
                "batch_size": 32,
                "learning_rate": 1e-5,
            },
        ),
        RetrieverSpec(
            name="tas_b",
            description="TAS-B: topic-aware batches with balanced margins, the margins of a "
            "cross-encoder and of a late-interaction teacher, [CLS] vector, dot product",
            family="bi_encoder",
            similarity="dot",
            loss="margin_mse",
            batching="topics",
            defaults={
                "pooling": "cls",
                "scale": 1.0,
                "negatives": "bm25",
                "negatives_per_pair": 1,
            },
        ),
        RetrieverSpec(
            name="contriever",
            description="Contriever: mean of the token vectors, dot product, softmax over the "
            "other documents of the batch",
            family="bi_encoder",
            similarity="dot",
            loss="in_batch_negatives",
            defaults={"start": "facebook/contriever", "scale": 1.0},
        ),
        RetrieverSpec(
            name="recontriever",
            description="ReContriever: trained as Contriever, from a start of its own",
            family="bi_encoder",
            similarity="dot",
            loss="in_batch_negatives",
            defaults={"start": "Yibin-Lei/ReContriever", "scale": 1.0},
        ),
        RetrieverSpec(
            name="dragon",
            description="DRAGON: separate encoders for queries and documents, [CLS] vector, dot "
            "product, softmax over the other documents of the batch",
            family="bi_encoder",
            similarity="dot",
            loss="in_batch_negatives",
            defaults={
                "start": "facebook/dragon-plus-context-encoder",
                "query_start": "facebook/dragon-plus-query-encoder",
                "towers": "separate",
                "pooling": "cls",
                "scale": 1.0,
                "batch_size": 80,
            },
        ),
        RetrieverSpec(
            name="splade",
            description="SPLADE: a weight for each word of the vocabulary, kept sparse by the "
            "FLOPS regulariser, dot product, softmax over the other documents of the batch",
            family="sparse",
            similarity="dot",
            loss="in_batch_negatives",
            defaults={"scale": 1.0},
        ),
        RetrieverSpec(
            name="static",
            description="Static embeddings: the mean of the start model's token embeddings, no "
            "attention; trains in seconds on a CPU",
            family="bi_encoder",
            similarity="cosine",
            loss="in_batch_negatives",
            start_layers="token_table",
            defaults={"batch_size": 64, "learning_rate": 1e-2, "max_tokens": 512},
        ),
        RetrieverSpec(
            name="lora",
            description="LoRA bi-encoder: a large (causal) model with a low-rank update, last "
            "token's vector, cosine, softmax over the other documents of the batch",
            family="bi_encoder",
            similarity="cosine",
            loss="in_batch_negatives",
            start_layers="lora",
            defaults={"pooling": "last", "learning_rate": 1e-4},
        ),
        RetrieverSpec(
            name="bm25ce",
            description="BM25CE: a cross-encoder with four negatives for each positive and binary "
            "loss reranks BM25's best documents",
            family="cross_encoder",
            similarity="score",
            loss="binary",
            batching="shuffled",
            zero_shot=False,
            defaults={
                "max_tokens": 512,
                "negatives": "random",
                "negatives_per_pair": 4,
            },
        ),
        RetrieverSpec(
            name="bm25dpr",
            description="BM25DPR: the trained DPR reranks BM25's best documents",
            family="bi_encoder",
            similarity="cosine",
            loss="in_batch_negatives",
            reranks="dpr",
        ),
    )
}
"""Name → row. The values are those of the paper's published training scripts where it has the
retriever (see docs/method.md for each that differs)."""


def _known(name: str) -> RetrieverSpec:
    try:
        return RETRIEVERS[name]
    except KeyError:
        raise ConfigError(
            f"train.retriever: there is no retriever '{name}'.",
            hint=f"Known are: {', '.join(RETRIEVERS)}.",
        ) from None


def retriever_spec(config: TrainConfig) -> RetrieverSpec:
    """The row that the config names.

    Raises:
        ConfigError: the table has no such row.

    >>> retriever_spec(TrainConfig()).similarity
    'cosine'
    """
    return _known(config.retriever)


def recipe(
    config: TrainConfig,
    retriever: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """The settings with which a retriever is trained: the row's values where the user set none.

    Args:
        config: the section ``train``; only fields that were given explicitly count as set.
        retriever: row; by default ``config.retriever``.
        overrides: the retriever's own settings (``recipes``); they win over ``config``.

    Raises:
        ConfigError: no such row, or an override that ``train`` does not know or take.

    >>> recipe(TrainConfig(), "dragon").towers
    'separate'
    >>> recipe(TrainConfig(batch_size=16), "dragon").batch_size
    16
    >>> recipe(TrainConfig(batch_size=16), "dragon", {"batch_size": 8}).batch_size
    8
    >>> recipe(TrainConfig(start="my/encoder"), "dragon").query_start is None
    True
    """
    row = _known(config.retriever if retriever is None else retriever)
    given = {name: getattr(config, name) for name in config.model_fields_set}
    chosen = {**given, **(overrides or {})}
    values: dict[str, Any] = {**row.defaults, **chosen, "retriever": row.name}
    if "start" in chosen and "query_start" not in chosen:
        # A start of the user's own must not meet the published query tower of the row.
        values.pop("query_start", None)
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            f"recipes.{row.name}: {problems_of(error)}",
            hint="A recipe takes the settings of the section `train`.",
        ) from None
