"""Loading a model safely: any sentence-transformers folder or plain transformer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
)
from sentence_transformers.util import is_sentence_transformer_model
from transformers import AutoConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from sptar.adapters import refuse_adapter
from sptar.devices import usable_device
from sptar.errors import ConfigError, ModelError
from sptar.progress import silent
from sptar.retrieval.retriever import Role
from sptar.types import Progress

__all__ = [
    "attends_both_ways",
    "bound_tokens",
    "input_module",
    "load_sentence_transformer",
    "loading_safely",
    "pad_token_set",
    "pick_device",
]

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def pick_device(name: str) -> str:
    """The device that ``auto`` stands for, or the one named.

    Raises:
        ModelError: the device is not there.
    """
    return usable_device(name, "train.device")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the library's bars and its notes on unused heads off the terminal while loading."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _refuse_pickles(folder: Path) -> None:
    for file in sorted(folder.rglob("*")):
        if file.suffix not in _PICKLED or "model" not in file.stem:
            continue
        if not any(file.parent.glob("*.safetensors")):
            raise ModelError(
                f"The encoder '{folder}' has its weights in {file.relative_to(folder)}, a pickle, "
                "which can run code when it is read.",
                hint="Only safetensors are loaded: save the model with safetensors first.",
            )


@contextmanager
def loading_safely(name: str) -> Iterator[None]:
    """Around the loading of any model by its folder or hub name.

    Refuses pickled weights before anything is read, keeps the libraries' bars and notes off the
    terminal, draws what the source lacks (such as BERT's unused pooler) from a fixed seed without
    touching the caller's random state, and turns the libraries' errors into one sentence.

    Raises:
        ModelError: nothing loadable under this name.
    """
    folder = Path(name)
    if folder.is_dir():
        refuse_adapter(name)
        _refuse_pickles(folder)
    elif folder.is_absolute() or name.startswith(".") or name.count("/") > 1 or not name:
        raise ModelError(
            f"There is no encoder folder '{name}'.",
            hint="Give an existing folder or a hub name in train.start.",
        )
    else:
        refuse_adapter(name)
    try:
        with torch.random.fork_rng(devices=[]), _quietly():
            # Weights are made on the processor, so only its random numbers are fixed here.
            torch.default_generator.manual_seed(0)
            yield
    except ModelError:
        raise
    except Exception as error:  # many libraries lie below, each with errors of its own
        raise _explained(name, error) from error


def attends_both_ways(
    name: str, revision: str | None, trust_remote_code: bool, progress: Progress = silent
) -> dict[str, Any]:
    """Settings of a model's config that make an encoder of it, for ``from_pretrained``.

    A BERT-like model that was trained to write attends to the left only; as an encoder each of its
    tokens sees all others. Models that are decoders by nature stay what they are.
    """
    config = AutoConfig.from_pretrained(
        name, revision=revision, trust_remote_code=trust_remote_code
    )
    if getattr(config, "is_decoder", False) and not getattr(config, "is_encoder_decoder", False):
        progress.message(
            f"The start '{Path(name).name}' is a {config.model_type} set up as a decoder; as an "
            "encoder it attends in both directions (is_decoder: false)."
        )
        return {"is_decoder": False}
    return {}


def pad_token_set(tokenizer: Any, name: str) -> None:
    """Let a tokenizer without a pad token pad with its end token.

    Raises:
        ModelError: it has neither.
    """
    if isinstance(tokenizer, PreTrainedTokenizerBase) and tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"The tokenizer of '{name}' has neither a pad nor an end token.",
                hint="Set pad_token in its tokenizer_config.json.",
            )
        tokenizer.pad_token = tokenizer.eos_token


def input_module(model: SentenceTransformer, role: Role) -> torch.nn.Module:
    """The module that reads the texts of a role: with two towers each role has its own."""
    first: torch.nn.Module = model[0]
    if isinstance(first, Router):
        route: torch.nn.Module = first.sub_modules[role][0]
        return route
    return first


def bound_tokens(
    model: SentenceTransformer, max_tokens: int | None, max_query_tokens: int | None = None
) -> None:
    """Let a model read at most so many tokens of a text; what it reads at most itself counts too.

    The bounds are saved with the model.

    Raises:
        ConfigError: a token table that queries and documents share cannot read queries shorter.
    """
    query, document = input_module(model, "query"), input_module(model, "document")
    _bound(document, max_tokens)
    if query is not document:
        _bound(query, max_tokens if max_query_tokens is None else max_query_tokens)
    elif max_query_tokens is not None and isinstance(query, Transformer):
        own = query.max_seq_length
        query.query_length = max_query_tokens if own is None else min(max_query_tokens, int(own))
    elif max_query_tokens is not None:
        raise ConfigError(
            "train.max_query_tokens: this model has one reader for queries and documents, with "
            "one bound.",
            hint="Leave it out, or set train.towers=separate.",
        )


def _bound(module: torch.nn.Module, max_tokens: int | None) -> None:
    if max_tokens is None:
        return
    if isinstance(module, Transformer):
        own = module.max_seq_length
        module.max_seq_length = max_tokens if own is None else min(max_tokens, int(own))
    elif isinstance(module, StaticEmbedding):
        cut = module.tokenizer.truncation
        module.tokenizer.enable_truncation(
            max_tokens if cut is None else min(max_tokens, int(cut["max_length"]))
        )


def _is_sentence_transformer(name: str, revision: str | None) -> bool:
    folder = Path(name)
    if folder.is_dir():
        return (folder / "modules.json").is_file()
    return bool(is_sentence_transformer_model(name, revision=revision))


def _plain_modules(
    name: str,
    revision: str | None,
    trust_remote_code: bool,
    pooling: Literal["mean", "cls", "last"],
    progress: Progress,
) -> list[torch.nn.Module]:
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    overrides = attends_both_ways(name, revision, trust_remote_code, progress)
    body = Transformer(
        name,
        model_kwargs={**source, "use_safetensors": True, "dtype": torch.float32},
        processor_kwargs=dict(source),
        config_kwargs={**source, **overrides},
    )
    # Learned positions count from the left: padding there would shift a text by its neighbours.
    if isinstance(body.tokenizer, PreTrainedTokenizerBase):
        body.tokenizer.padding_side = "right"
    return [
        body,
        Pooling(body.get_embedding_dimension(), "lasttoken" if pooling == "last" else pooling),
    ]


def load_sentence_transformer(
    name: str,
    *,
    pooling: Literal["mean", "cls", "last"],
    max_tokens: int | None,
    max_query_tokens: int | None = None,
    device: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> SentenceTransformer:
    """Load an encoder in float32 and evaluation mode.

    A sentence-transformers folder or repository is loaded as it is: its pooling, prompts and
    modules are kept. Anything else that ``AutoModel`` reads, a causal language model too, gets
    ``pooling`` over the last hidden states (of padding-free positions). A tokenizer without a pad
    token pads with its end token. Parameters that the source lacks (such as BERT's unused pooler)
    start from a fixed seed, so that loading twice gives the same model.

    Args:
        max_tokens: texts are cut to the smaller of this and the model's own bound (its
            ``max_seq_length``, tokenizer or positions); ``None`` keeps the model's own.
        max_query_tokens: the same for queries, where it is another number.

    Raises:
        ModelError: nothing loadable under this name; weights that are not safetensors; code of the
            repository's own without ``trust_remote_code``.
    """
    with loading_safely(name):
        if _is_sentence_transformer(name, revision):
            model = SentenceTransformer(
                name,
                device=device,
                revision=revision,
                trust_remote_code=trust_remote_code,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        else:
            model = SentenceTransformer(
                modules=_plain_modules(name, revision, trust_remote_code, pooling, progress),
                device=device,
            )
    for module in model.modules():
        if isinstance(module, Transformer):
            pad_token_set(module.tokenizer, name)
    bound_tokens(model, max_tokens, max_query_tokens)
    return model.eval().float()


def _explained(name: str, error: Exception) -> ModelError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    reason = reason or type(error).__name__
    if "trust_remote_code" in str(error):
        return ModelError(
            f"The encoder '{name}' brings Python code of its own.",
            hint="If you trust it, set train.trust_remote_code=true.",
        )
    folder = Path(name)
    if folder.is_dir():
        hint = "The folder needs config.json, tokenizer files and safetensors weights."
        if (folder / "config.json").is_file():
            try:
                json.loads((folder / "config.json").read_text(encoding="utf-8"))
            except ValueError:
                hint = "Its config.json is no valid JSON."
    else:
        hint = (
            "Check the name and the network, or download the model and give its folder in "
            "train.start."
        )
    return ModelError(f"The encoder '{name}' cannot be loaded: {reason.rstrip('.')}.", hint=hint)
