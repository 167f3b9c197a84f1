"""Matrix products in oneDNN's own layout, for models that are only read from on a processor.

torch hands a float32 product to another library, which does not use the widest instructions of
every maker's processors; oneDNN does. And with weights laid out beforehand a product of few rows,
as in decoding, need not arrange them anew each time. Where that is slower (on a processor without
AVX2 it takes two to three times as long) the products stay as they are: it is tried out, not
assumed. Results differ in rounding only, so the answer is kept (:mod:`sptar.trials`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from sptar import trials

__all__ = [
    "PackedLayers",
    "Product",
    "can_pack",
    "linear_layers",
    "oriented_weight",
    "packing_pays",
]

_SHARE_OF_MEMORY = 0.5
"""The packed copy may take this share of the memory that is free when it is made."""

_SHAPES = ((16, 384, 1536), (256, 1536, 384))
"""Rows, inputs and outputs of the products that are tried: a few rows and many."""
_SECONDS = 0.05
"""Of the processor. Time that it gives to other processes in between must not count."""
_ROUNDS = 5
_SLOWER = 1.25
"""Packed products are taken unless they need so many times as long as torch's own. Measured they
need 0.8 to 1.05 times as long, or twice as long: two trials of one machine do not disagree."""


class Product:
    """``values @ weight.T + bias``: ``weight`` [out, in], input [..., in], output [..., out].

    Input is brought to the number format of the weight; later changes of it do not count. No
    gradients. Only in formats of which :func:`can_pack` is true.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._dtype = weight.dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self._bias = None if bias is None else bias.detach().to(self._dtype)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            values.to(self._dtype), self._weight, self._bias, "none", [], ""
        )
        return product


class PackedLayers:
    """A second copy of a model's linear layers, used within :meth:`in_use`.

    There is none (and :meth:`in_use` changes nothing) on other devices, in number formats that
    oneDNN does not multiply here, where it would be slower, or when memory is short. The weights
    must not change while it is used.

    Args:
        model: whose layers.
        dtype: what they multiply in, where that is not the format of their weights: bfloat16
            within ``torch.autocast``.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype | None = None) -> None:
        layers = linear_layers(model)
        self._packed = [
            (layer, Product(oriented_weight(layer).to(dtype or layer.weight.dtype), layer.bias))
            for layer in (layers if packing_pays(layers, dtype=dtype) else [])
        ]

    def __len__(self) -> int:
        return len(self._packed)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within this the layers multiply with the packed copy; for inference only."""
        try:
            for layer, product in self._packed:
                # An attribute of the instance goes before the method of its class.
                layer.__dict__["forward"] = product
            yield
        finally:
            for layer, _ in self._packed:
                layer.__dict__.pop("forward", None)


def linear_layers(model: torch.nn.Module) -> list[Any]:
    """The layers that are plain products."""
    # Subclasses, such as quantised layers, know better what their weights mean.
    return [module for module in model.modules() if type(module) in (torch.nn.Linear, Conv1D)]


def oriented_weight(layer: Any) -> torch.Tensor:
    """The weight of such a layer as [out, in]."""
    weight: torch.Tensor = layer.weight.detach()
    # transformers' Conv1D (GPT-2) keeps its weight as [in, out].
    return weight if isinstance(layer, torch.nn.Linear) else weight.t().contiguous()


def packing_pays(layers: Sequence[Any], copies: int = 1, dtype: torch.dtype | None = None) -> bool:
    """Whether oneDNN can take over these layers, is no slower at it, and memory holds so many
    copies of them.
    """
    weights = [layer.weight for layer in layers]
    formats = {weight.dtype for weight in weights}
    if len(formats) != 1 or any(weight.device.type != "cpu" for weight in weights):
        return False
    wanted = dtype or formats.pop()
    if not can_pack(wanted):
        return False
    available = _available_bytes()
    needed = copies * sum(weight.numel() for weight in weights) * wanted.itemsize
    return available is None or needed <= _SHARE_OF_MEMORY * available


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies in this number format here, and packed weights are no slower."""
    if not (torch.backends.mkldnn.enabled and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
    elif dtype != torch.float32:
        return False
    name = str(dtype).removeprefix("torch.")
    return bool(trials.kept(f"packed-products-{name}", lambda: try_packing(dtype))["packed"])


def try_packing(dtype: torch.dtype) -> dict[str, Any]:
    """Time packed products beside torch's own, by turns: ``packed``, and what it was chosen by."""
    stream = torch.Generator().manual_seed(0)
    works: list[tuple[torch.Tensor, torch.Tensor, Product]] = []
    for rows, inputs, outputs in _SHAPES:
        weight = torch.randn(outputs, inputs, generator=stream).to(dtype)
        values = torch.randn(rows, inputs, generator=stream).to(dtype)
        works.append((values, weight, Product(weight)))
    plain = [float("inf")] * len(works)
    packed = [float("inf")] * len(works)
    begin = time.process_time()
    rounds = 0
    with torch.inference_mode():
        while rounds < _ROUNDS or time.process_time() - begin < _SECONDS:
            rounds += 1
            for number, (values, weight, product) in enumerate(works):
                first = time.process_time()
                torch.nn.functional.linear(values, weight)
                second = time.process_time()
                product(values)
                third = time.process_time()
                plain[number] = min(plain[number], second - first)
                packed[number] = min(packed[number], third - second)
    longer = sum(packed) / sum(plain)
    return {
        "packed": longer < _SLOWER,
        "takes_times_as_long": round(longer, 2),
        "threads": torch.get_num_threads(),
    }


def _available_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None
