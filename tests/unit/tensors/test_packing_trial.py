"""Packed products are tried before they are used."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from sptar import trials
from sptar.tensors import products

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_known", {})
    monkeypatch.setattr(products, "_SECONDS", 0.0)


def work() -> None:
    """50 ms of the processor; sleeping would not count."""
    begin = time.process_time()
    while time.process_time() - begin < 0.05:
        pass


class Slow(products.Product):
    """As on a processor whose instructions oneDNN has no fast products for."""

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        work()
        return super().__call__(values)


def test_where_they_are_slower_layers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "Product", Slow)
    found = products.try_packing(torch.float32)
    assert not found["packed"]
    assert not products.can_pack(torch.float32)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4))
    assert len(products.PackedLayers(model)) == 0


def test_where_they_are_faster_layers_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.functional.linear

    def slow(*given: Any) -> torch.Tensor:
        work()
        return real(*given)

    monkeypatch.setattr(torch.nn.functional, "linear", slow)
    assert products.can_pack(torch.float32)
    assert len(products.PackedLayers(torch.nn.Sequential(torch.nn.Linear(5, 4)))) == 1


def test_each_format_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[torch.dtype] = []

    def trial(dtype: torch.dtype) -> dict[str, Any]:
        tried.append(dtype)
        return {"packed": True}

    monkeypatch.setattr(products, "try_packing", trial)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
    for _ in range(3):
        products.PackedLayers(model)
    assert tried == [torch.float32]
    assert not products.can_pack(torch.float16)
    assert tried == [torch.float32]


@pytest.mark.usefixtures("packing_pays")
def test_a_layer_multiplies_in_another_format_within_autocast() -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not multiply bfloat16")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 40))
    values = torch.randn(7, 24)
    packed = products.PackedLayers(model, torch.bfloat16)
    assert len(packed) == 1
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = model(values)
        with packed.in_use():
            found = model(values)
    assert found.dtype == expected.dtype == torch.bfloat16
    # Two roundings of a sum of 24 products to eight binary digits.
    torch.testing.assert_close(found, expected, atol=2**-7, rtol=2**-7)
