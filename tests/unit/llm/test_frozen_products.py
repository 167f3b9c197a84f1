"""Products with frozen weights, against the model's own layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sptar.config import LanguageModelConfig, PromptConfig
from sptar.llm.loading import LanguageModel, load_language_model
from sptar.llm.template import PromptTemplate
from sptar.llm.tuning.frozen_products import FrozenProducts
from sptar.llm.tuning.query_loss import prompt_row, query_losses, recomputed_layers
from sptar.tensors import products as packing
from tiny import LANGUAGE_MODEL_SHAPES, PAIRS, WIDTH

pytestmark = pytest.mark.usefixtures("packing_pays")

TOKENS = 5


@pytest.fixture(scope="module")
def models(tiny_models: dict[str, Path]) -> dict[str, LanguageModel]:
    return {
        shape: load_language_model(LanguageModelConfig(name=str(folder), device="cpu"))
        for shape, folder in tiny_models.items()
    }


def losses_and_gradient(
    model: LanguageModel, *, recompute: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    prompt = PromptConfig(max_document_tokens=24, max_query_tokens=16)
    template = PromptTemplate(model, prompt, virtual_tokens=TOKENS, max_new_tokens=8)
    rows = [prompt_row(template, [PAIRS[0]], pair) for pair in PAIRS[1:5]]
    virtual = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    virtual.requires_grad_()
    with recomputed_layers(model.model, recompute):
        losses = query_losses(model, virtual, rows)
        losses.sum().backward()
    assert virtual.grad is not None
    return losses.detach(), virtual.grad


def plain_losses_and_gradient(model: LanguageModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole rows, all logits, one row at a time: nothing of the code under test."""
    prompt = PromptConfig(max_document_tokens=24, max_query_tokens=16)
    template = PromptTemplate(model, prompt, virtual_tokens=TOKENS, max_new_tokens=8)
    virtual = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    virtual.requires_grad_()
    table = model.model.get_input_embeddings().weight
    losses = []
    for pair in PAIRS[1:5]:
        row = prompt_row(template, [PAIRS[0]], pair)
        embedded = torch.cat([virtual, table[torch.tensor(row.ids)]])[None]
        logits = model.model(inputs_embeds=embedded).logits[0, -row.targets - 1 : -1]
        targets = torch.tensor(row.ids[-row.targets :])
        losses.append(torch.nn.functional.cross_entropy(logits, targets))
    found = torch.stack(losses)
    found.sum().backward()
    assert virtual.grad is not None
    return found.detach(), virtual.grad


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_loss_and_gradient_equal_the_plain_ones(
    models: dict[str, LanguageModel], shape: str, recompute: bool
) -> None:
    model = models[shape]
    losses, gradient = plain_losses_and_gradient(model)
    products = FrozenProducts(model.model)
    assert len(products) > 2
    with products.in_use():
        found, found_gradient = losses_and_gradient(model, recompute=recompute)
    assert torch.allclose(found, losses, atol=1e-5)
    assert (found_gradient - gradient).norm() <= 1e-5 * gradient.norm()
    assert gradient.norm() > 0.01
    assert not any("forward" in vars(module) for module in model.model.modules())


def test_copies_are_what_multiplies(models: dict[str, LanguageModel]) -> None:
    model = models["gpt2"]
    layer = next(m for m in model.model.modules() if type(m) in (torch.nn.Linear, CONVOLUTION))
    products = FrozenProducts(model.model)
    values = torch.randn(3, 2, layer.weight.shape[0 if type(layer) is CONVOLUTION else 1])
    expected = layer(values)
    kept = layer.weight.detach().clone()
    layer.weight.zero_()
    try:
        with products.in_use():
            assert torch.allclose(layer(values), expected, atol=1e-5)
        assert not torch.allclose(layer(values), expected, atol=1e-5)
    finally:
        layer.weight.copy_(kept)


CONVOLUTION = packing.Conv1D


def test_layers_that_learn_are_left_alone() -> None:
    frozen, learning = torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)
    frozen.requires_grad_(False)
    model = torch.nn.Sequential(frozen, learning)
    values = torch.randn(5, 4)
    expected = model(values)
    expected.sum().backward()
    assert learning.weight.grad is not None
    wanted = learning.weight.grad.clone()
    learning.weight.grad = None
    products = FrozenProducts(model)
    assert len(products) == 1
    with products.in_use():
        found = model(values)
        found.sum().backward()
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(learning.weight.grad, wanted, atol=1e-6)
    assert frozen.weight.grad is None


def test_no_copies_when_memory_is_short(
    models: dict[str, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["llama"].model
    layers = packing.linear_layers(model)
    needed = sum(layer.weight.numel() * 4 for layer in layers)
    # Half of what is free may be used: enough for one copy, not for two.
    monkeypatch.setattr(packing, "_available_bytes", lambda: 3 * needed)
    assert packing.packing_pays(layers)
    assert not packing.packing_pays(layers, copies=2)
    assert len(FrozenProducts(model)) == 0
