"""Attention in two parts: to a prefix that all rows share, and to what a row holds itself.

The prefix's keys and values exist once, and the queries of all rows go over them in one product,
instead of once for each row (known as cascade or shared-prefix attention). Where a kernel of torch
tells the sum of exponentials, each part has its softmax, and the softmax over both is the mean of
the two, weighted by these sums; elsewhere the scores are put side by side. The function is offered
to transformers as one more attention implementation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["PrefixLayer", "attention_configs", "has_kernel", "part", "two_parts"]

_NAME = "sptar_two_parts"

_SETTING = "_attn_implementation_internal"
"""Where a transformers config keeps the name of the attention function. Its public property also
writes to the configs of other towers, which could not be restored one by one."""

_CHANGES_SCORES = ("softcap", "s_aux", "position_bias", "head_mask")
"""Arguments of attention functions that change more than scale and mask."""

_VECTOR = 32
"""Numbers of two bytes in a processor's widest register. torch's softmax takes twice as long for
each number of a row that does not fill the last register."""


@dataclass(frozen=True, slots=True)
class PrefixLayer:
    """Keys and values of the shared prefix in one layer [1, query heads, prefix, width]."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an attention layer needs besides its arguments.

    ``mask`` is added to the scores of the rows' own part [rows, 1, new, own]; without one the
    own part is causal.
    """

    prefix: Sequence[PrefixLayer]
    mask: torch.Tensor | None


_parts: ContextVar[_Parts] = ContextVar("two_parts")


def attention_configs(model: torch.nn.Module) -> list[Any]:
    """The configs in which the attention layers of a model look up their function."""
    found = {
        id(config): config
        for module in model.modules()
        if hasattr(config := getattr(module, "config", None), _SETTING)
    }
    return list(found.values())


@contextmanager
def two_parts(
    configs: Sequence[Any], prefix: Sequence[PrefixLayer], mask: torch.Tensor | None
) -> Iterator[None]:
    """Within this, a model whose configs these are attends in two parts.

    Args:
        configs: as :func:`attention_configs` found them.
        prefix: the shared part, one for each layer.
        mask: added to the scores of the own part [rows, 1, new, own], or ``None``: causal.
    """
    before = [getattr(config, _SETTING) for config in configs]
    token = _parts.set(_Parts(prefix, mask))
    try:
        for config in configs:
            setattr(config, _SETTING, _NAME)
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            setattr(config, _SETTING, name)
        _parts.reset(token)


def part(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    mask: torch.Tensor | None = None,
    *,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention to a part of the tokens, and the weight of that part.

    Only for tensors that :func:`has_kernel` accepts.

    Args:
        query: [rows, heads, new, width].
        key: [rows, heads, tokens, width]; ``value`` is alike.
        scale: of the scores.
        mask: added to the scores [rows, 1, new, tokens].
        causal: token i sees the tokens up to i; without a mask only.

    Returns:
        Output [rows, heads, new, width] and the logarithm of the sum of exponentials of the scores
        [rows, heads, new], float32.
    """
    if mask is not None:
        mask = mask.expand(query.shape[0], query.shape[1], -1, -1)
    if query.device.type == "cpu":
        output, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
        return output, total
    output, total, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, True, 0.0, causal, scale=scale
    )
    # The kernel rounds the number of queries up.
    return output, total[:, :, : query.shape[2]]


def has_kernel(query: torch.Tensor) -> bool:
    """Whether torch has a fast kernel for such tensors that tells the sum of exponentials too.

    For bfloat16 on a CPU there is one, but it takes twice as long as plain products.
    """
    kind = query.device.type
    return kind == "cuda" or (kind == "cpu" and query.dtype == torch.float32)


def _merged(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix: PrefixLayer,
    scale: float,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Softmax over each part, then their mean; arguments and output as in :func:`_attend`."""
    rows, heads, new, width = query.shape
    shared, shared_total = part(_one_row(query), prefix.keys, prefix.values, scale)
    shared_total = shared_total.reshape(heads, rows, new).transpose(0, 1)
    query, key, value = _matched(query, key, value)
    own, own_total = part(query, key, value, scale, mask, causal=mask is None)
    own = own.reshape(rows, heads, new, width).transpose(1, 2)
    own_total = own_total.reshape(rows, heads, new)
    weight = torch.sigmoid(shared_total - own_total).transpose(1, 2)[..., None].to(own.dtype)
    shared = shared.transpose(1, 2).reshape(rows, new, heads, width)
    return torch.lerp(own, shared, weight)


def _joint(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix: PrefixLayer,
    scale: float,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """One softmax over the scores of both parts, in plain products; else as :func:`_merged`."""
    rows, heads, new, width = query.shape
    tokens, slots = prefix.keys.shape[2], key.shape[2]
    query = query * scale
    shared = torch.matmul(_one_row(query), prefix.keys.transpose(2, 3))
    query, key, value = _matched(query, key, value)
    own = torch.matmul(query, key.transpose(2, 3)).reshape(rows, heads, new, slots)
    own += _causal(own) if mask is None else mask
    nothing = own.new_full((1,), float("-inf")).expand(
        heads, rows, new, -(tokens + slots) % _VECTOR
    )
    scores = torch.cat(
        [shared.reshape(heads, rows, new, tokens), own.transpose(0, 1), nothing], dim=-1
    )
    weights = torch.softmax(scores, dim=-1)
    of_prefix = weights[..., :tokens].reshape(1, heads, rows * new, tokens)
    shared = torch.matmul(of_prefix, prefix.values).reshape(heads, rows, new, width)
    of_own = weights[..., tokens : tokens + slots].transpose(0, 1)
    own = torch.matmul(of_own.reshape(*query.shape[:3], slots), value)
    return own.reshape(rows, heads, new, width).transpose(1, 2) + shared.permute(1, 2, 0, 3)


def _one_row(query: torch.Tensor) -> torch.Tensor:
    """All rows' queries side by side [1, heads, rows * new, width]: one long row for the prefix."""
    rows, heads, new, width = query.shape
    return query.transpose(1, 2).reshape(1, rows * new, heads, width).transpose(1, 2)


def _matched(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value with equally many heads."""
    rows, heads, new, width = query.shape
    groups = heads // key.shape[1]
    if new == 1:
        # Query heads that share a key head stand in for queries: nothing is repeated.
        return query.reshape(rows, key.shape[1], groups, width), key, value
    if groups > 1:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    return query, key, value


def _causal(scores: torch.Tensor) -> torch.Tensor:
    """What hides from each token those behind it [new, new]."""
    new = scores.shape[2]
    ahead = torch.full((new, new), float("-inf"), dtype=scores.dtype, device=scores.device)
    return ahead.triu_(1)


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: query [rows, heads, new, width], output [rows, new, heads, width].

    Keys and values are those of the rows' own part. The mask that the model made is not looked at;
    it would be one over prefix and own part together.
    """
    if any(kwargs.get(name) is not None for name in _CHANGES_SCORES):
        raise NotImplementedError("this attention is more than scale, mask and softmax")
    parts = _parts.get()
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    prefix = parts.prefix[int(module.layer_idx)]
    attention = _merged if has_kernel(query) else _joint
    return attention(query, key, value, prefix, scale, parts.mask), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)
