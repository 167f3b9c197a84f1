"""Matrix products in oneDNN's own layout, for encoding and searching on a processor.

torch hands a float32 product to a library that does not use the widest instructions of every
maker's processors; oneDNN does. Results differ in rounding only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["PackedMatrix", "can_pack", "packed_layers"]


def can_pack(dtype: torch.dtype = torch.float32) -> bool:
    """Whether oneDNN multiplies in this number format here."""
    if not (torch.backends.mkldnn.enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class PackedMatrix:
    """A matrix to multiply with many times: ``values [..., k]`` give ``values @ matrix.T + bias``.

    Values are brought to the number format of the matrix. No gradients.

    Args:
        matrix: [n, k] in a format of which :func:`can_pack` is true; later changes do not count.
        bias: [n], in the same format.
    """

    def __init__(self, matrix: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._dtype = matrix.dtype
        self._matrix = torch.ops.mkldnn._reorder_linear_weight(matrix.detach().contiguous())
        self._bias = None if bias is None else bias.detach()

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            values.to(self._dtype), self._matrix, self._bias, "none", [], ""
        )
        return product


@contextmanager
def packed_layers(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Within this the linear layers of a model on the processor multiply with packed weights.

    The weights are packed on entering, so they may change before and afterwards, not within. The
    copy takes as much memory as the layers. Models elsewhere and number formats that oneDNN does
    not multiply stay as they are. For inference only.

    Args:
        dtype: what the layers multiply in: float32, or bfloat16 within ``torch.autocast``.
    """
    # Subclasses, such as quantised layers, know better what their weights mean.
    layers = [layer for layer in model.modules() if type(layer) is torch.nn.Linear]
    usable = can_pack(dtype) and all(
        layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32
        for layer in layers
    )
    try:
        for layer in layers if usable else ():
            bias = None if layer.bias is None else layer.bias.to(dtype)
            # An attribute of the instance goes before the method of its class.
            layer.__dict__["forward"] = PackedMatrix(layer.weight.to(dtype), bias)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
