"""The packed copy of the weights: equal products, and no trace of it afterwards."""

from __future__ import annotations

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from prompt_cases import REQUESTS, prompt_case, stopping_often
from sptar.tensors.products import PackedLayers
from tiny import LANGUAGE_MODEL_SHAPES

pytestmark = pytest.mark.usefixtures("packing_pays")

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


class Layers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(24, 40)
        self.second = torch.nn.Linear(40, 7, bias=False)
        self.third = Conv1D(5, 7)

    def forward(self, values):
        return self.third(self.second(self.first(values)))


@needs_onednn
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_products_are_equal(dtype, error):
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor does not multiply bfloat16")
    torch.manual_seed(0)
    model = Layers().to(dtype)
    packed = PackedLayers(model)
    assert len(packed._packed) == 3
    with torch.inference_mode():
        for rows in (1, 3, 17, 200):
            values = torch.randn(rows, 2, 24, dtype=dtype)[:, -1:]
            expected = model(values)
            with packed.in_use():
                found = model(values)
            torch.testing.assert_close(found, expected, atol=error, rtol=error)
            assert found.shape == expected.shape


@needs_onednn
def test_it_is_gone_afterwards():
    model = Layers()
    packed = PackedLayers(model)
    with pytest.raises(RuntimeError, match="injected"), packed.in_use():
        assert "forward" in model.first.__dict__
        raise RuntimeError("injected")
    assert all("forward" not in module.__dict__ for module in model.modules())
    # Learning goes on with the layers' own weights.
    model(torch.ones(1, 24)).sum().backward()
    assert model.first.weight.grad is not None


@needs_onednn
@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_answers_are_the_same_with_it(tiny_models, monkeypatch, shape):
    case = stopping_often(prompt_case(tiny_models[shape]))
    generator = case.generator()
    assert generator._weights._packed
    packed = generator.generate(REQUESTS)
    monkeypatch.setattr("sptar.tensors.products.can_pack", lambda dtype: False)
    plain = case.generate(REQUESTS)
    assert [(a.raw, a.tokens) for a in packed] == [(a.raw, a.tokens) for a in plain]


def test_what_cannot_be_packed_is_left_alone(monkeypatch):
    half = Layers().to(torch.float16)
    mixed = Layers()
    mixed.second.to(torch.bfloat16)
    assert PackedLayers(half)._packed == []
    assert PackedLayers(mixed)._packed == []
    assert PackedLayers(torch.nn.LayerNorm(3))._packed == []
    monkeypatch.setattr("sptar.tensors.products._available_bytes", lambda: 1000)
    assert PackedLayers(Layers())._packed == []
