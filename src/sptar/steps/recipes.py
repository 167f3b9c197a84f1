"""Retrievers' recipes: which a run uses, and what of them counts for which artefact."""

from __future__ import annotations

from typing import Any

from sptar.config import RunConfig, TrainConfig, did_you_mean, result_settings
from sptar.errors import ConfigError
from sptar.identity import HashCache, model_identity
from sptar.retrieval.specs import RETRIEVERS, RetrieverSpec, recipe, retriever_spec

__all__ = [
    "ModelIdentities",
    "mining_settings",
    "models_of",
    "parts_of",
    "reading_settings",
    "recipe_of",
    "retrievers_of",
    "start_identities",
    "training_settings",
]

_NAMES = ("start", "query_start", "revision", "teacher", "in_batch_teacher")
"""Models are told apart by their content, not by what they are called."""
_MINING = ("negatives", "negatives_per_pair", "mine_depth", "mine_skip", "mine_margin")
_READING = (
    "retriever",
    "pooling",
    "max_tokens",
    "query_prompt",
    "document_prompt",
    "max_query_tokens",
    "towers",
    "encode_dtype",
)


class ModelIdentities:
    """Identities of models, each read once and only when it is asked for: a hub model may be out
    of reach before that.
    """

    def __init__(self, hashes: HashCache) -> None:
        self._hashes = hashes
        self._known: dict[tuple[str, str | None], str] = {}

    def of(self, name: str, revision: str | None = None) -> str:
        """The identity of a folder or hub model.

        Raises:
            ModelError: there is none of this name within reach.
        """
        key = (name, revision)
        if key not in self._known:
            self._known[key] = model_identity(name, revision, self._hashes)
        return self._known[key]


def parts_of(retriever: str) -> tuple[str, ...]:
    """The retrievers that a name joins: itself, or both of a fusion.

    >>> parts_of("bm25+dpr"), parts_of("dpr")
    (('bm25', 'dpr'), ('dpr',))
    """
    return tuple(retriever.split("+"))


def recipe_of(config: RunConfig, row: str) -> TrainConfig:
    """The settings with which a run trains a row of the table, defaults of the row included.

    A row that reranks by another row's encoder has the recipe of that row.

    Raises:
        ConfigError: no such row, or its recipe is wrong.
    """
    spec = RETRIEVERS.get(row)
    name = row if spec is None or spec.reranks is None else spec.reranks
    return recipe(config.train, name, config.recipes.get(name))


def retrievers_of(config: RunConfig) -> tuple[str, ...]:
    """Names of the retrievers and fusions of a run, all of them checked.

    Raises:
        ConfigError: an unknown retriever, or a recipe that cannot be.
    """
    where = "retrievers" if config.retrievers else "train.retriever"
    names = tuple(config.retrievers) or (config.train.retriever,)
    for name in names:
        for part in parts_of(name):
            known = ["bm25", *RETRIEVERS] if len(parts_of(name)) > 1 else list(RETRIEVERS)
            if part not in known:
                raise ConfigError(
                    f"{where}: there is no retriever '{part}'{did_you_mean(part, known)}"
                )
    for row in config.recipes:
        if row not in RETRIEVERS:
            raise ConfigError(
                f"recipes: there is no retriever '{row}'{did_you_mean(row, list(RETRIEVERS))}",
                hint="Each retriever has its own recipe; a fusion takes those of its parts."
                if "+" in row
                else None,
            )
        if RETRIEVERS[row].reranks is not None:
            raise ConfigError(
                f"recipes.{row}: {row} trains nothing of its own.",
                hint=f"Set recipes.{RETRIEVERS[row].reranks}.",
            )
    used = [part for name in names for part in parts_of(name) if part != "bm25"]
    for row in dict.fromkeys([*used, *config.recipes]):
        _check(recipe_of(config, row))
    return names


def _check(resolved: TrainConfig) -> None:
    spec = retriever_spec(resolved)
    if spec.loss != "in_batch_negatives" and resolved.negatives == "none":
        raise ConfigError(
            f"recipes.{spec.name}: {spec.name} learns from hard negatives, and `negatives: none` "
            "gives it none.",
            hint="Set negatives to random, bm25 or dense.",
        )


def start_identities(resolved: TrainConfig, models: ModelIdentities) -> dict[str, str]:
    """The start encoder's identity, and the query encoder's where it is another one."""
    found = {"start": models.of(resolved.start, resolved.revision)}
    if resolved.query_start is not None and retriever_spec(resolved).family == "bi_encoder":
        found["query_start"] = models.of(resolved.query_start, resolved.revision)
    return found


def models_of(resolved: TrainConfig) -> tuple[str, ...]:
    """Folders and hub names of all models that a recipe names: starts and teachers."""
    named = (resolved.start, resolved.query_start, resolved.teacher, resolved.in_batch_teacher)
    return tuple(name for name in named if name is not None)


def mining_settings(resolved: TrainConfig) -> dict[str, Any]:
    """What decides about the hard negatives of given pairs."""
    kept = _MINING[:2] if resolved.negatives == "random" else _MINING
    return {name: getattr(resolved, name) for name in kept}


def reading_settings(resolved: TrainConfig) -> dict[str, Any]:
    """What of a recipe changes the vectors of a start encoder that is taken as it is."""
    spec = retriever_spec(resolved)
    own = _of_family(spec)
    kept = [name for name in (*_READING, "token_dimension") if name not in _FAMILY_SETTINGS - own]
    settings = {**result_settings(resolved), **_unread(spec)}
    return {name: settings[name] for name in kept if name in settings}


def training_settings(resolved: TrainConfig) -> dict[str, Any]:
    """What of a recipe changes the trained retriever; models, negatives and teachers come in as
    inputs, and settings of other families stay out.
    """
    spec = retriever_spec(resolved)
    foreign = _FAMILY_SETTINGS - _of_family(spec)
    settings = result_settings(resolved, leave_out=[*_NAMES, *_MINING, *foreign])
    return {**settings, **_unread(spec)}


def _unread(spec: RetrieverSpec) -> dict[str, Any]:
    """Settings that a row never reads, with the row's own values, whatever the user set.

    They have stood in the identity from the beginning: left out, artefacts that were made with
    the row's own values would not be found again.
    """
    unread = []
    if spec.family == "cross_encoder":
        unread.append("scale")
    if spec.family != "bi_encoder" or spec.start_layers == "token_table":
        unread.append("pooling")
    own = TrainConfig().model_copy(update=dict(spec.defaults))
    return {name: getattr(own, name) for name in unread}


_FAMILY_SETTINGS = {
    "towers",
    "encode_dtype",
    "token_dimension",
    "query_sparsity",
    "document_sparsity",
    "lora_rank",
    "lora_alpha",
    "in_batch_weight",
    "topics",
    "margin_bins",
}


def _of_family(spec: RetrieverSpec) -> set[str]:
    """Those of the settings above that mean something to a row."""
    own: set[str] = set()
    if spec.family in ("bi_encoder", "sparse"):
        own |= {"towers"}
    if spec.family == "bi_encoder":
        own |= {"encode_dtype"}
    if spec.family == "late_interaction":
        own |= {"token_dimension"}
    if spec.family == "sparse":
        own |= {"query_sparsity", "document_sparsity"}
    if spec.start_layers == "lora":
        own |= {"lora_rank", "lora_alpha"}
    if spec.loss == "margin_mse":
        own |= {"in_batch_weight"}
    if spec.batching == "topics":
        own |= {"topics", "margin_bins"}
    return own
