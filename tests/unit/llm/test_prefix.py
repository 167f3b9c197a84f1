"""The shared prefix: equality for models of every kind of cache, and no change of the original."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers

from prompt_cases import (
    EXAMPLES,
    REQUESTS,
    PromptCase,
    other_architecture,
    prompt_case,
    random_soft_prompt,
    stopping_often,
)
from reference_generation import slow_generate, slow_query_loss
from sptar.config import LanguageModelConfig
from sptar.errors import ModelError
from sptar.llm.engine.prefix import Prefix
from sptar.llm.loading import load_language_model
from sptar.llm.soft_prompt import SoftPrompt
from sptar.progress import RecordedProgress
from tiny import LANGUAGE_MODEL_SHAPES, PAIRS

DECODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
HEADS = {"num_key_value_heads": 2}


def mistral(window):
    def make(common):
        config = transformers.MistralConfig(**common, **DECODER, **HEADS, sliding_window=window)
        return transformers.MistralForCausalLM(config)

    return make


def gemma3(common):
    layers = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(
        **common, **DECODER, **HEADS, head_dim=8, sliding_window=24, layer_types=layers
    )
    return transformers.Gemma3ForCausalLM(config)


def bloom(common):
    return transformers.BloomForCausalLM(
        transformers.BloomConfig(**common, hidden_size=32, n_layer=2, n_head=4)
    )


def gpt_neo(common):
    config = transformers.GPTNeoConfig(
        **common,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        window_size=8,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=256,
    )
    return transformers.GPTNeoForCausalLM(config)


def mamba(common):
    config = transformers.MambaConfig(**common, hidden_size=32, num_hidden_layers=2, state_size=8)
    return transformers.MambaForCausalLM(config)


def falcon_mamba(common):
    config = transformers.FalconMambaConfig(
        **common, hidden_size=32, num_hidden_layers=2, state_size=8
    )
    return transformers.FalconMambaForCausalLM(config)


def mamba2(common):
    config = transformers.Mamba2Config(
        **common, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8
    )
    return transformers.Mamba2ForCausalLM(config)


def roberta(common):
    sizes = DECODER | {"max_position_embeddings": 258}
    config = transformers.RobertaConfig(**common | {"pad_token_id": 1}, **sizes, is_decoder=True)
    return transformers.RobertaForCausalLM(config)


def lfm2(common):
    layers = ["conv", "full_attention"]
    config = transformers.Lfm2Config(**common, **DECODER, **HEADS, layer_types=layers)
    return transformers.Lfm2ForCausalLM(config)


def gemma2(common):
    config = transformers.Gemma2Config(
        **common, **DECODER, **HEADS, head_dim=8, sliding_window=200, attn_logit_softcapping=2.0
    )
    return transformers.Gemma2ForCausalLM(config)


# name → (how to make it, is the prefix shared, must rows have equal lengths)
ARCHITECTURES = {
    "window shorter than the prefix": (mistral(16), False, False),
    "window shorter than the prompt": (mistral(60), False, False),
    "window longer than the prompt": (mistral(200), True, False),
    "sliding and full layers": (gemma3, False, False),
    "scores that are capped": (gemma2, True, False),
    "no position ids": (bloom, True, True),
    "local attention counted in slots": (gpt_neo, True, True),
    "no key/value cache": (mamba, False, True),
    "no key/value cache, normalised": (falcon_mamba, False, True),
    "no key/value cache, with heads": (mamba2, False, True),
    "positions that begin behind the padding": (roberta, True, True),
    "convolutions and attention": (lfm2, False, True),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_kind_of_cache_equals_the_slow_reference(tiny_models, name):
    make, shares, equal = ARCHITECTURES[name]
    model = other_architecture(tiny_models["llama"], make)
    case = PromptCase(model, random_soft_prompt(model), EXAMPLES[:1], max_new_tokens=6)
    case = stopping_often(case)
    progress = RecordedProgress()
    requests = REQUESTS[:7]
    answers = case.generator(progress).generate(requests)
    for request, answer in zip(requests, answers, strict=True):
        slow = slow_generate(
            case.model, case.template, case.soft_prompt, case.examples, request, case.config(), 7
        )
        assert (answer.raw, answer.tokens) == (slow.text, len(slow.token_ids))
        assert answer.log_probability == pytest.approx(slow.log_probability, abs=1e-4)
    told = [text for text in progress.messages if "cannot reuse" in text]
    assert len(told) == (0 if shares else 1)
    prefix = Prefix(case.model, case.soft_prompt, case.template.prefix_ids(case.examples))
    assert prefix.needs_equal_lengths(10) is equal
    # The trial of attention in two parts: a window is none of its business, other scores are.
    joins = name in ("window shorter than the prompt", "window longer than the prompt")
    assert prefix.rows_can_join is joins

    losses = case.scorer().query_losses(case.examples, PAIRS[:4])
    for pair, loss in zip(PAIRS[:4], losses, strict=True):
        expected = slow_query_loss(case.model, case.template, case.soft_prompt, case.examples, pair)
        assert (loss.total, loss.tokens) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_nothing_out_of_date_is_called(tiny_models, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_language_model(LanguageModelConfig(name=str(tiny_models[name]), device="cpu"))
        case = PromptCase(model, random_soft_prompt(model), EXAMPLES[:1], max_new_tokens=3)
        case.generate(REQUESTS[:2])
        case.scorer().query_losses(case.examples, PAIRS[:2])


def test_recurrent_models_go_on_from_what_they_have_read(tiny_models):
    # With a cache that vanishes under a wrong name, each step would see the last token alone.
    for make in (mamba, falcon_mamba, mamba2):
        model = other_architecture(tiny_models["llama"], make)
        assert model.verdict.continues
        assert not model.verdict.shares
        widths: list[int] = []
        handle = model.model.register_forward_pre_hook(
            lambda module, args, values, widths=widths: widths.append(values["input_ids"].shape[1]),
            with_kwargs=True,
        )
        case = PromptCase(model, None, EXAMPLES[:1], max_new_tokens=4)
        case.generate(REQUESTS[:1])
        handle.remove()
        assert widths[-3:] == [1, 1, 1]


def whole_logits(case: PromptCase, ids: list[int]) -> torch.Tensor:
    embedded = case.model.embed(torch.tensor([ids]))
    if case.soft_prompt is not None:
        embedded = torch.cat([case.soft_prompt.embeddings(case.model)[None], embedded], dim=1)
    with torch.no_grad():
        return case.model.model(inputs_embeds=embedded, use_cache=False).logits[0]


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_rows_of_different_lengths_grow_and_leave(tiny_models, shape, soft):
    case = prompt_case(tiny_models[shape], soft=soft)
    ids = case.template.prefix_ids(case.examples)
    prefix = Prefix(case.model, case.soft_prompt, ids)
    texts = [[11, 12, 13, 14, 15, 16], [21, 22], [31, 32, 33]]
    with torch.inference_mode():
        for _ in range(2):  # the second time shows that the first left the prefix as it was
            rows = prefix.open(3, shared=True)
            padded = torch.tensor([text + [0] * (6 - len(text)) for text in texts])
            rows.extend(padded, torch.tensor([6, 2, 3]), keep=1)
            rows.extend(torch.tensor([[17], [23], [34]]), torch.ones(3, dtype=torch.long), keep=1)
            rows.select(torch.tensor([1, 2]))
            more = torch.tensor([[24, 25, 26], [35, 0, 0]])
            logits = rows.extend(more, torch.tensor([3, 1]), keep=3)
            first = whole_logits(case, [*ids, 21, 22, 23, 24, 25, 26])[-3:]
            second = whole_logits(case, [*ids, 31, 32, 33, 34, 35])[-1:]
            torch.testing.assert_close(logits[0], first, atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(logits[1, :1], second, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_rows_join_others_and_take_their_places(tiny_models, shape):
    case = prompt_case(tiny_models[shape])
    ids = case.template.prefix_ids(case.examples)
    prefix = Prefix(case.model, case.soft_prompt, ids)
    assert prefix.rows_can_join
    one = torch.ones(2, dtype=torch.long)
    with torch.inference_mode():
        rows = prefix.open(2, shared=True)
        rows.extend(torch.tensor([[11, 12, 13], [21, 0, 0]]), torch.tensor([3, 1]), keep=1)
        rows.extend(torch.tensor([[14], [22]]), one, keep=1)
        rows.select(torch.tensor([1]))
        others = prefix.open(2, shared=True)
        long = torch.arange(100, 150)
        others.extend(torch.stack([long, long * 0 + 31]), torch.tensor([50, 2]), keep=1)
        rows.join(others)
        rows.select(torch.tensor([0, 2, 1]))
        logits = rows.extend(torch.tensor([[23], [33], [41]]), torch.ones(3).long(), keep=1)
    for row, text in enumerate(([21, 22, 23], [31, 31, 33], [*range(100, 150), 41])):
        expected = whole_logits(case, [*ids, *text])[-1]
        torch.testing.assert_close(logits[row, 0], expected, atol=2e-4, rtol=1e-4)


def test_the_attention_function_of_the_model_is_given_back(tiny_models):
    case = prompt_case(tiny_models["llama"])
    before = case.model.model.config._attn_implementation
    case.generate(REQUESTS[:2])
    assert case.model.model.config._attn_implementation == before
    ids = case.template.prefix_ids(case.examples)
    prefix = Prefix(case.model, case.soft_prompt, ids)

    def fail(module, args):
        raise RuntimeError("injected")

    handle = case.model.model.lm_head.register_forward_pre_hook(fail)
    try:
        with torch.inference_mode(), pytest.raises(RuntimeError, match="injected"):
            one = torch.ones(1, dtype=torch.long)
            prefix.open(1, shared=True).extend(torch.tensor([[1]]), one, keep=1)
    finally:
        handle.remove()
    assert case.model.model.config._attn_implementation == before


def test_selecting_before_extending(tiny_models):
    case = prompt_case(tiny_models["llama"])
    ids = case.template.prefix_ids(case.examples)
    with torch.inference_mode():
        rows = Prefix(case.model, case.soft_prompt, ids).open(3, shared=True)
        rows.select(torch.tensor([0, 2]))
        logits = rows.extend(torch.tensor([[11], [12]]), torch.ones(2, dtype=torch.long), keep=1)
    for row, token_id in enumerate((11, 12)):
        expected = whole_logits(case, [*ids, token_id])[-1]
        torch.testing.assert_close(logits[row, 0], expected, atol=2e-4, rtol=1e-4)


def test_the_prefix_runs_once(tiny_models):
    case = prompt_case(tiny_models["gpt2"], examples=2)
    ids = case.template.prefix_ids(case.examples)
    widths: list[int] = []

    def watch(module, args, values):
        batch = values.get("input_ids", values.get("inputs_embeds"))
        widths.append(batch.shape[1])

    handle = case.model.model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        generator = case.generator()
        generator.generate(REQUESTS)
        generator.generate(REQUESTS)
    finally:
        handle.remove()
    assert widths.count(generator.prefix_tokens) == 1
    assert generator.prefix_tokens == len(ids) + case.soft_prompt.virtual_tokens
    longest = max(len(case.template.document_ids(request.document).ids) for request in REQUESTS)
    assert longest < generator.prefix_tokens
    assert max(width for width in widths if width != generator.prefix_tokens) < longest


def test_spare_slots_do_not_copy_the_cache_at_each_step(tiny_models):
    case = prompt_case(tiny_models["llama"])
    prefix = Prefix(case.model, case.soft_prompt, case.template.prefix_ids(case.examples))
    with torch.inference_mode():
        rows = prefix.open(2, shared=True)
        one = torch.ones(2, dtype=torch.long)
        rows.extend(torch.tensor([[1], [2]]), one, keep=1)
        rows.extend(torch.tensor([[1], [2]]), one, keep=1)
        address = rows._cache.layers[0].keys.data_ptr()
        for _ in range(10):
            rows.extend(torch.tensor([[1], [2]]), one, keep=1)
        assert rows._cache.layers[0].keys.data_ptr() == address


def test_a_soft_prompt_of_another_width_is_refused(tiny_models):
    case = prompt_case(tiny_models["llama"])
    foreign = SoftPrompt(torch.zeros(3, 48), base_model="other", provenance={})
    with pytest.raises(ModelError, match="width"):
        Prefix(case.model, foreign, [1, 2])
