"""The objective: padded batches against a slow reference, with and without recomputed layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slow import slow_query_loss
from sptar.config import LanguageModelConfig, PromptConfig
from sptar.llm.loading import LanguageModel, load_language_model
from sptar.llm.template import PromptTemplate
from sptar.llm.tuning.query_loss import prompt_row, query_losses, recomputed_layers
from tiny import LANGUAGE_MODEL_SHAPES, PAIRS, WIDTH

TOKENS = 5


@pytest.fixture(scope="module")
def models(tiny_models: dict[str, Path]) -> dict[str, LanguageModel]:
    return {
        shape: load_language_model(LanguageModelConfig(name=str(folder), device="cpu"))
        for shape, folder in tiny_models.items()
    }


def template(model: LanguageModel) -> PromptTemplate:
    prompt = PromptConfig(max_document_tokens=24, max_query_tokens=16)
    return PromptTemplate(model, prompt, virtual_tokens=TOKENS, max_new_tokens=8)


def virtual_tokens() -> torch.Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
@pytest.mark.parametrize("with_prompt", [True, False])
def test_padded_batch_equals_single_rows(
    models: dict[str, LanguageModel], shape: str, with_prompt: bool
) -> None:
    model = models[shape]
    virtual = virtual_tokens() if with_prompt else None
    made = template(model)
    rows = [prompt_row(made, [PAIRS[0]], pair) for pair in PAIRS[1:]]
    assert len({len(row.ids) for row in rows}) > 3
    assert len({row.targets for row in rows}) > 3
    with torch.no_grad():
        batch = query_losses(model, virtual, rows)
    for row, loss in zip(rows, batch, strict=True):
        with torch.no_grad():
            (alone,) = query_losses(model, virtual, [row])
        assert loss.item() == pytest.approx(alone.item(), abs=1e-5)
        assert alone.item() == pytest.approx(slow_query_loss(model, virtual, row), abs=1e-5)


def test_rows_end_on_the_end_of_the_query(models: dict[str, LanguageModel]) -> None:
    for model in models.values():
        made = template(model)
        row = prompt_row(made, [PAIRS[0]], PAIRS[1])
        query = made.query_ids(PAIRS[1].query.text)
        assert row.ids[-row.targets :] == query
        assert query[-1] in model.stop_token_ids


def test_a_cut_query_has_no_end_to_learn(models: dict[str, LanguageModel]) -> None:
    for model in models.values():
        prompt = PromptConfig(max_document_tokens=24, max_query_tokens=2)
        made = PromptTemplate(model, prompt, virtual_tokens=TOKENS, max_new_tokens=8)
        row = prompt_row(made, [PAIRS[0]], PAIRS[1])
        assert row.targets == 2
        assert row.ids[-2:] == model.encode(" " + PAIRS[1].query.text)[:2]
        assert not set(row.ids[-2:]) & model.stop_token_ids
        # The example in front of it is cut as well, and its end begins the next block.
        example = made.query_ids(PAIRS[0].query.text)
        assert example[2:] == made.end_of_query_ids
        place = row.ids.index(example[0])
        assert any(row.ids[i : i + len(example)] == example for i in range(place, len(row.ids)))


def test_model_that_cannot_choose_logits(models: dict[str, LanguageModel]) -> None:
    model = models["llama"]

    class Plain(torch.nn.Module):
        """The same model behind an older interface."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model.model
            self.get_input_embeddings = model.model.get_input_embeddings

        def forward(self, inputs_embeds: Any, attention_mask: Any, use_cache: bool) -> Any:
            return self.inner(
                inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=use_cache
            )

    rows = [prompt_row(template(model), [PAIRS[0]], pair) for pair in PAIRS[1:4]]
    with torch.no_grad():
        verdict = replace(model.verdict, takes_logits_to_keep=False)
        unable = replace(model, model=Plain(), verdict=verdict)
        plain = query_losses(unable, virtual_tokens(), rows)
        assert torch.allclose(plain, query_losses(model, virtual_tokens(), rows), atol=1e-6)


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_recomputed_layers_give_the_same_gradient(
    models: dict[str, LanguageModel], shape: str
) -> None:
    model = models[shape]
    rows = [prompt_row(template(model), [PAIRS[0]], pair) for pair in PAIRS[1:4]]
    calls = []
    inner = model.model.base_model
    layer = next(module for name, module in inner.named_modules() if name.endswith((".0", "h.0")))
    handle = layer.register_forward_pre_hook(lambda *_: calls.append("whole"))
    first_norm = next(module for module in layer.modules() if "Norm" in type(module).__name__)
    counted = first_norm.register_forward_pre_hook(lambda *_: calls.append("norm"))
    gradients = []
    try:
        for wanted in (False, True):
            virtual = virtual_tokens().requires_grad_()
            with recomputed_layers(model.model, wanted):
                query_losses(model, virtual, rows).sum().backward()
            gradients.append(virtual.grad)
    finally:
        handle.remove()
        counted.remove()
    assert torch.equal(*gradients)
    # Once without, twice with: the values were computed again.
    assert calls.count("norm") == 3
    assert not any("forward" in vars(module) for module in model.model.modules())
    assert not model.model.training
