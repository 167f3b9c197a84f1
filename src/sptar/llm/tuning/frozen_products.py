"""Products with frozen weights that pass gradients on to their inputs, for tuning on a CPU.

oneDNN multiplies float32 matrices faster than the library that torch takes on its own (see
:mod:`sptar.tensors.products`), but its products are made for inference. While a prompt learns the
model's weights do not, so a product's gradient is one more product with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sptar.tensors.products import Product, linear_layers, oriented_weight, packing_pays

__all__ = ["FrozenProducts"]


class FrozenProducts:
    """Second copies of a model's frozen linear layers, used within :meth:`in_use`.

    Layers that learn (LoRA's) are left alone. There are no copies, and :meth:`in_use` changes
    nothing, where :class:`~sptar.tensors.products.PackedLayers` would make none.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        layers = [layer for layer in linear_layers(model) if not layer.weight.requires_grad]
        self._layers: list[tuple[Any, _FrozenProduct]] = []
        if packing_pays(layers, copies=2):
            self._layers = [(layer, _FrozenProduct(layer)) for layer in layers]

    def __len__(self) -> int:
        return len(self._layers)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within this the layers multiply with their copies, forwards and backwards."""
        try:
            for layer, product in self._layers:
                # An attribute of the instance goes before the method of its class.
                layer.__dict__["forward"] = product
            yield
        finally:
            for layer, _ in self._layers:
                layer.__dict__.pop("forward", None)


class _FrozenProduct:
    """``forward`` of a linear layer: input [..., in], output [..., out]."""

    def __init__(self, layer: Any) -> None:
        weight = oriented_weight(layer)
        self._product = Product(weight, layer.bias)
        self._gradient = Product(weight.t())

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = _Multiply.apply(  # type: ignore[no-untyped-call]
            values, self._product, self._gradient
        )
        return product


class _Multiply(torch.autograd.Function):
    """A product whose gradient is another one."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, product: Product, gradient: Product
    ) -> torch.Tensor:
        ctx.gradient = gradient
        return product(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.gradient(output.contiguous()), None, None
