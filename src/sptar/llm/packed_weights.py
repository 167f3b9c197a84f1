"""Weights laid out for oneDNN's matrix products, for inference on a CPU.

torch hands a float32 product to MKL, which does not use the widest instructions of every maker's
processors; oneDNN does. And with weights in oneDNN's own layout a product of few rows, as in
decoding, need not arrange them anew each time. Results differ in rounding only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

__all__ = ["PackedWeights", "Product", "can_pack", "linear_layers", "oriented_weight"]

_SHARE_OF_MEMORY = 0.5
"""The packed copy may take this share of the memory that is free when it is made."""


class PackedWeights:
    """A second copy of a model's linear layers, used within :meth:`in_use`.

    There is none (and :meth:`in_use` changes nothing) on other devices, in number formats that
    oneDNN does not multiply here, or when memory is short. The weights must not change afterwards.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        layers = linear_layers(model)
        self._packed = [
            (layer, Product(oriented_weight(layer), layer.bias))
            for layer in (layers if can_pack(layers) else [])
        ]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within this the layers multiply with the packed copy; for inference mode only."""
        try:
            for layer, product in self._packed:
                # An attribute of the instance goes before the method of its class.
                layer.__dict__["forward"] = product
            yield
        finally:
            for layer, _ in self._packed:
                layer.__dict__.pop("forward", None)


class Product:
    """``values @ weight.T + bias``: ``weight`` [out, in], input [..., in], output [..., out]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = None if bias is None else bias.detach()

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            values, self._weight, self._bias, "none", [], ""
        )
        return product


def linear_layers(model: torch.nn.Module) -> list[Any]:
    """The layers that are plain products."""
    # Subclasses, such as quantised layers, know better what their weights mean.
    return [module for module in model.modules() if type(module) in (torch.nn.Linear, Conv1D)]


def oriented_weight(layer: Any) -> torch.Tensor:
    """The weight of such a layer as [out, in]."""
    weight: torch.Tensor = layer.weight.detach()
    # transformers' Conv1D (GPT-2) keeps its weight as [in, out].
    return weight if isinstance(layer, torch.nn.Linear) else weight.t().contiguous()


def can_pack(layers: Sequence[Any], copies: int = 1) -> bool:
    """Whether oneDNN can take over these layers, and memory holds so many copies of them."""
    weights = [layer.weight for layer in layers]
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not onednn or any(w.device.type != "cpu" for w in weights):
        return False
    dtypes = {weight.dtype for weight in weights}
    if dtypes == {torch.bfloat16}:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
    elif dtypes != {torch.float32}:
        return False
    available = _available_bytes()
    needed = copies * sum(weight.numel() * weight.element_size() for weight in weights)
    return available is None or needed <= _SHARE_OF_MEMORY * available


def _available_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None
