"""An encoder is tried before it is trusted: long work must not end on its first long text.

A config's number of positions is not always the number of tokens that can be read (see
:mod:`sptar.positions`), tokenizers state lengths that their models do not have, and a model of
something else than text loads as well as any. One text of full length, alone and beside a short
one, shows it in a moment.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Transformer
from sentence_transformers.util import batch_to_device
from transformers import PreTrainedTokenizerBase

from sptar.errors import ModelError
from sptar.positions import readable_tokens
from sptar.tensors.memory import is_out_of_memory

__all__ = ["EncoderVerdict", "check_reads_text", "try_encoder"]

_ALLOWED = 1e-3
"""How far a token's state may move beside another text, as a share of its length; in float32."""

_MOST_TOKENS = 1024
"""Longer texts are not tried: how long they may be is known by then."""

_SHORT = "Dogs travel free on the ferry."


@dataclass(frozen=True, slots=True)
class EncoderVerdict:
    """What the trial of one reader of texts found out.

    Attributes:
        architecture: ``model_type`` of its config.
        most_tokens: of a text that it reads, special tokens included; ``None``: no bound.
        table_tokens: what its table of positions holds; ``None``: positions are computed.
        tried_tokens: length of the longest text that it read.
    """

    architecture: str
    most_tokens: int | None
    table_tokens: int | None
    tried_tokens: int


def check_reads_text(module: Transformer, name: str) -> None:
    """Refuse a model of pictures or sounds.

    Raises:
        ModelError: it comes without a tokenizer, or takes no token ids.
    """
    reads_ids = "input_ids" in inspect.signature(module.model.forward).parameters
    if not (reads_ids and isinstance(module.tokenizer, PreTrainedTokenizerBase)):
        raise ModelError(
            f"'{name}' is a model of the type '{module.model.config.model_type}', which reads no "
            "text.",
            hint="Give an encoder of texts, such as a BERT.",
        )


@torch.inference_mode()
def try_encoder(model: torch.nn.Module, name: str) -> list[EncoderVerdict]:
    """Bound every reader of texts in a model by its table of positions, and try it.

    Args:
        model: in evaluation mode, its token bounds set; they can only become lower.
        name: for messages.

    Returns:
        A verdict for each transformer in it; a table of token vectors needs none.

    Raises:
        ModelError: a model that reads no text, or not as many tokens as it says, or whose states
            depend on the other texts of a batch.
    """
    return [_tried(module, name) for module in model.modules() if isinstance(module, Transformer)]


def _tried(module: Transformer, name: str) -> EncoderVerdict:
    check_reads_text(module, name)
    architecture = str(module.model.config.model_type)
    (token_id, *_) = module.tokenizer(_SHORT, add_special_tokens=False)["input_ids"]

    def read(tokens: int) -> object:
        ids = torch.full((1, tokens), token_id, device=module.model.device)
        return module({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    own = module.max_seq_length
    try:
        table = readable_tokens(read, own)
        if table is not None:
            _bound(module, table)
        bound = module.max_seq_length
        most = None if bound is None or bound >= 10**8 else int(bound)
        tried = _check_batch(module, name, min(most or _MOST_TOKENS, _MOST_TOKENS))
    except ModelError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ModelError(
                f"Memory ran out while '{name}' read one text of full length.",
                hint="Lower train.max_tokens, or take a smaller encoder.",
            ) from None
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ModelError(
            f"'{name}' ({architecture}) cannot be used as an encoder of texts: "
            f"{(reason or type(error).__name__).strip().rstrip('.')}.",
            hint="Choose another start, or set train.max_tokens to what it reads.",
        ) from error
    return EncoderVerdict(architecture, most, table, tried)


def _bound(module: Transformer, tokens: int) -> None:
    own = module.max_seq_length
    module.max_seq_length = tokens if own is None else min(tokens, int(own))
    for role in ("query_length", "document_length"):
        length = getattr(module, role, None)
        if length is not None:
            setattr(module, role, min(tokens, int(length)))
    if module.query_expansion and "length" in module.query_expansion:
        length = min(tokens, int(module.query_expansion["length"]))
        module.query_expansion = {**module.query_expansion, "length": length}


def _check_batch(module: Transformer, name: str, tokens: int) -> int:
    """Read a text of full length beside a short one, and that alone; returns the length read."""
    # At least a token for each of its words.
    long = " ".join([_SHORT] * (tokens // len(_SHORT.split()) + 1))
    (_, found), lengths = _states(module, [long, _SHORT])
    (expected,), _ = _states(module, [_SHORT])
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-12)
    if not bool(error.max() <= _ALLOWED):
        raise ModelError(
            f"What the encoder '{name}' makes of a text depends on the other texts of its batch.",
            hint="Choose another start.",
        )
    return max(lengths)


def _states(module: Transformer, texts: list[str]) -> tuple[list[torch.Tensor], list[int]]:
    """What a reader gives for each text, a row for each of its tokens, and how many these are."""
    features: dict[str, Any] = batch_to_device(module.preprocess(texts), module.model.device)
    mask = features["attention_mask"].bool()
    output: torch.Tensor = module(features)[module.module_output_name].float()
    lengths: list[int] = mask.sum(dim=1).tolist()
    if output.shape[:2] != mask.shape:
        # A classifier gives one row for each text.
        return list(output.reshape(len(texts), 1, -1)), lengths
    return [row[real] for row, real in zip(output, mask, strict=True)], lengths
