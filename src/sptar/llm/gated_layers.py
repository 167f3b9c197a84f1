"""The gated layers of LLaMA-shaped models, computed in place during inference.

``down(activation(gate(x)) * up(x))`` written as the models have it makes four large tensors; on a
CPU, moving them takes as long as a third of the products. Results are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["GatedLayers"]

_PARTS = ("gate_proj", "up_proj", "down_proj")


class GatedLayers:
    """The gated layers of a model that can be computed in place, within :meth:`in_use`.

    A layer is taken for one by its parts' names, and because it gives the same result in place for
    random inputs. In models without such layers nothing changes.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        answers: dict[type, bool] = {}
        self._layers: list[Any] = []
        for module in model.modules():
            if not _looks_gated(module):
                continue
            if type(module) not in answers:
                answers[type(module)] = _same_in_place(module)
            if answers[type(module)]:
                self._layers.append(module)

    def __len__(self) -> int:
        return len(self._layers)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within this the layers compute in place; for inference mode only."""
        try:
            for layer in self._layers:
                # An attribute of the instance goes before the method of its class.
                layer.__dict__["forward"] = _InPlace(layer)
            yield
        finally:
            for layer in self._layers:
                layer.__dict__.pop("forward", None)


class _InPlace:
    """``forward`` of a gated layer: input and output [..., width]."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        layer = self._layer
        inner = torch.nn.functional.silu(layer.gate_proj(values), inplace=True)
        inner.mul_(layer.up_proj(values))
        product: torch.Tensor = layer.down_proj(inner)
        return product


def _looks_gated(module: torch.nn.Module) -> bool:
    linear = all(type(getattr(module, part, None)) is torch.nn.Linear for part in _PARTS)
    return linear and {name for name, _ in module.named_children()} <= {*_PARTS, "act_fn"}


@torch.inference_mode()
def _same_in_place(module: Any) -> bool:
    weight = module.gate_proj.weight
    stream = torch.Generator().manual_seed(0)
    values = torch.randn(3, weight.shape[1], generator=stream).to(weight)
    # As the model calls it: with the signature that it has, or it is none of ours.
    try:
        expected = module(values)
    except TypeError:
        return False
    return bool(torch.equal(expected, _InPlace(module)(values)))
