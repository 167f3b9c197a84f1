"""What a model's trial finds out: how the engine will run it, or why it refuses it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sptar.config import LanguageModelConfig, TrainConfig
from sptar.errors import ConfigError
from sptar.io import read_json
from sptar.packaged import folder_of, name_of, refuse_missing
from sptar.retrieval.specs import recipe, retriever_spec

__all__ = ["ModelCheck", "check_model"]

_WRITES = ("ForCausalLM", "LMHeadModel")
"""Ends of the architectures' names that are language models."""


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """One model that passed its trial.

    Attributes:
        name: folder or hub name.
        kind: ``language model``, or the row of the table of retrievers that it was loaded for.
        facts: the verdict, plain values for machines.
        lines: the same for people: what, and the finding.
        seconds: to load and try it.
    """

    name: str
    kind: str
    facts: dict[str, Any]
    lines: tuple[tuple[str, str], ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return {
            "name": self.name,
            "kind": self.kind,
            "verdict": self.facts,
            "seconds": round(self.seconds, 3),
        }


def check_model(
    name: str,
    *,
    retriever: str | None = None,
    language_model: LanguageModelConfig | None = None,
    train: TrainConfig | None = None,
) -> ModelCheck:
    """Load a model as a run would, and tell what its trial found.

    Args:
        name: folder, hub name, or a name of this package.
        retriever: load it as the start of this row; without one, a model whose config says that it
            writes is a language model, and any other the start of ``dpr``.
        language_model: settings of a language model (device, number format).
        train: settings of an encoder.

    Raises:
        ModelError: it is refused, with the reason.
        ConfigError: there is no such row or name.
    """
    if not name.strip():
        raise ConfigError("The model's name is empty.", hint="Give a folder or a hub name.")
    folder = folder_of(name)
    refuse_missing(folder)
    started = time.perf_counter()
    if retriever is None and _writes(folder):
        settings = (language_model or LanguageModelConfig(name=folder)).model_copy(
            update={"name": folder}
        )
        facts, lines = _language_model(settings)
        kind = "language model"
    else:
        kind = retriever or "dpr"
        given = (train or TrainConfig()).model_dump(exclude_unset=True) | {"start": folder}
        facts, lines = _encoder(recipe(TrainConfig(**given), kind))
    return ModelCheck(name_of(folder), kind, facts, tuple(lines), time.perf_counter() - started)


def _writes(name: str) -> bool:
    """Whether a model is there to write: by its config, which sentence-transformers lacks."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if (folder / "modules.json").is_file() or not (folder / "config.json").is_file():
            return False
        config = read_json(folder / "config.json")
        made_for = config.get("architectures") if isinstance(config, dict) else None
    else:
        from transformers import PretrainedConfig

        try:
            made_for = PretrainedConfig.get_config_dict(name)[0].get("architectures")
        except Exception:  # the loader says what is wrong with the name
            return False
    return str((made_for or [""])[0]).endswith(_WRITES)


def _language_model(
    settings: LanguageModelConfig,
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    from sptar.llm.engine.prefix import Prefix
    from sptar.llm.loading import load_language_model

    model = load_language_model(settings)
    verdict = model.verdict
    apart = Prefix(model, None, model.encode("The ferry leaves at seven.")).rows_can_join
    facts = asdict(verdict) | {
        "attends_apart": apart,
        "context_tokens": model.context_tokens,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }
    cache = verdict.cache_argument
    lines = [
        ("runs", verdict.road),
        ("attention to the shared part", "once for all rows" if apart else "for each row"),
        ("soft prompt", "yes" if verdict.takes_embeddings else "refused: it reads token ids"),
        ("cache", "none" if cache is None else f"passed as `{cache}`"),
        ("positions", "given" if verdict.takes_positions else "the model's own"),
        (
            "texts of different lengths in a batch",
            "yes" if verdict.mixes_lengths else "of equal length only",
        ),
        ("tuned in padded batches", "yes" if verdict.hides_padding else "no, text by text"),
        ("context", _tokens(model.context_tokens)),
        ("number format", f"{facts['dtype']} on {facts['device']}"),
    ]
    return facts, lines


def _encoder(settings: TrainConfig) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    from sptar.retrieval.families import load_corpus_encoder, load_reranker
    from sptar.retrieval.trial import try_encoder

    reranks = retriever_spec(settings).family == "cross_encoder"
    loaded: Any = (load_reranker if reranks else load_corpus_encoder)(None, settings)
    verdicts = try_encoder(loaded.model, str(settings.start))
    facts = {"readers": [asdict(verdict) for verdict in verdicts]}
    lines = []
    for verdict in verdicts:
        table = verdict.table_tokens
        lines += [
            ("architecture", verdict.architecture),
            ("reads", _tokens(verdict.most_tokens)),
            ("table of positions", "none" if table is None else f"for {table} tokens"),
            ("tried with", f"a text of {verdict.tried_tokens} tokens, alone and in a batch"),
        ]
    return facts, lines or [("reads", "a token table: any number of tokens")]


def _tokens(count: int | None) -> str:
    return "any number of tokens" if count is None else f"{count} tokens"
