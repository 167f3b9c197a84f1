"""Batched generation against the slow reference, and its independence of batch and order."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from prompt_cases import REQUESTS, VIRTUAL_TOKENS, PromptCase, prompt_case, stopping_often
from reference_generation import SlowAnswer, slow_generate
from sptar.errors import ModelError
from sptar.llm.engine.batching import LengthBatches
from sptar.llm.engine.decoding import _PREFILL_TOKENS
from sptar.llm.engine.generation import (
    LOG_PROBABILITY_DECIMALS,
    PromptedGenerator,
    draw,
    random_stream,
)
from sptar.progress import RecordedProgress
from sptar.types import Document, Generation, GenerationRequest
from tiny import LANGUAGE_MODEL_SHAPES


def slow_answers(case: PromptCase, requests=REQUESTS, **settings) -> list[SlowAnswer]:
    config = case.config(**settings)
    return [
        slow_generate(
            case.model, case.template, case.soft_prompt, case.examples, request, config, 7
        )
        for request in requests
    ]


def assert_same(fast: list[Generation], slow: list[SlowAnswer]) -> None:
    assert [answer.raw for answer in fast] == [answer.text for answer in slow]
    assert [answer.tokens for answer in fast] == [len(answer.token_ids) for answer in slow]
    assert [answer.stopped for answer in fast] == [answer.stopped for answer in slow]
    for quick, careful in zip(fast, slow, strict=True):
        # Half of the last decimal is rounding; the rest is float32.
        assert quick.log_probability == pytest.approx(careful.log_probability, abs=1e-4)


@pytest.mark.parametrize(
    ("decoding", "examples"), [("greedy", 0), ("greedy", 1), ("greedy", 2), ("sample", 1)]
)
@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_batched_equals_whole_prompt_without_cache(tiny_models, shape, soft, decoding, examples):
    case = stopping_often(prompt_case(tiny_models[shape], soft=soft, examples=examples))
    requests = REQUESTS[:8]
    fast = case.generate(requests, decoding=decoding)
    assert_same(fast, slow_answers(case, requests, decoding=decoding))
    # The comparison means something: documents differ in length, answers differ, and sampled rows
    # end at different steps (greedy ones of random weights often run on).
    lengths = [len(case.template.document_ids(request.document).ids) for request in requests]
    assert len(set(lengths)) > 3
    assert len({answer.raw for answer in fast}) > 3
    assert decoding == "greedy" or len({answer.tokens for answer in fast}) > 2


@pytest.mark.parametrize("decoding", ["greedy", "sample"])
@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_answers_do_not_depend_on_batch_size_or_order(tiny_models, shape, decoding):
    case = stopping_often(prompt_case(tiny_models[shape]))
    expected = dict(zip(REQUESTS, case.generate(decoding=decoding, batch_size=1), strict=True))
    stream = random.Random(3)
    for batch_size in (2, 5, 100):
        requests = stream.sample(REQUESTS, stream.randint(1, len(REQUESTS)))
        answers = case.generate(requests, decoding=decoding, batch_size=batch_size)
        for request, answer in zip(requests, answers, strict=True):
            alone = expected[request]
            assert (answer.raw, answer.tokens, answer.stopped, answer.cut_tokens) == (
                alone.raw,
                alone.tokens,
                alone.stopped,
                alone.cut_tokens,
            )
            assert answer.log_probability == pytest.approx(alone.log_probability, abs=2e-4)


@pytest.mark.parametrize("decoding", ["greedy", "sample"])
def test_when_prompts_begin_changes_nothing(tiny_models, monkeypatch, decoding):
    """One at a time into a running batch, or all at once: prompts join where others have left."""
    case = stopping_often(prompt_case(tiny_models["llama"]))
    expected = case.generate(decoding=decoding, batch_size=1)
    for tokens, batch_size in ((1, 3), (1, 100), (100, 4), (100, 7), (10_000, 5)):
        monkeypatch.setitem(_PREFILL_TOKENS, "cpu", tokens)
        answers = case.generate(decoding=decoding, batch_size=batch_size)
        assert [(a.raw, a.tokens, a.stopped) for a in answers] == [
            (a.raw, a.tokens, a.stopped) for a in expected
        ]


def test_new_prompts_take_the_places_of_answers_that_have_ended(tiny_models, monkeypatch):
    monkeypatch.setitem(_PREFILL_TOKENS, "cpu", 1)
    case = stopping_often(prompt_case(tiny_models["llama"]), every=3)
    shapes: list[tuple[int, int]] = []

    def watch(module, args, values):
        if "input_ids" in values:
            shapes.append(tuple(values["input_ids"].shape))

    generator = case.generator(batch_size=4)
    handle = case.model.model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        generator.generate(REQUESTS)
    finally:
        handle.remove()
    # A new prompt is read while others are being answered, and never more than four are.
    steps = [rows for rows, columns in shapes if columns == 1]
    assert max(steps) == 4
    prefills = [number for number, (_, columns) in enumerate(shapes) if columns > 1]
    assert len(prefills) == len(REQUESTS)
    assert any(shapes[number - 1][1] == 1 and shapes[number + 1][0] > 1 for number in prefills[4:])


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
@pytest.mark.parametrize("decoding", ["greedy", "sample"])
def test_prefix_copied_for_each_row_gives_the_same(tiny_models, monkeypatch, shape, decoding):
    """The path for models that cannot attend in two parts, on models that can."""
    case = stopping_often(prompt_case(tiny_models[shape]))
    expected = case.generate(decoding=decoding)
    assert case.generator()._prefix.rows_can_join
    monkeypatch.setattr("sptar.llm.engine.prefix._two_part_models", {case.model.model: False})
    assert not case.generator()._prefix.rows_can_join
    answers = case.generate(decoding=decoding)
    assert [(a.raw, a.tokens, a.stopped) for a in answers] == [
        (a.raw, a.tokens, a.stopped) for a in expected
    ]
    requests = REQUESTS[:4]
    assert_same(case.generate(requests), slow_answers(case, requests))


@pytest.mark.parametrize("joins", [True, False])
def test_many_new_tokens_outgrow_the_spare_cache_slots(tiny_models, monkeypatch, joins):
    monkeypatch.setattr("sptar.llm.engine.prompt_rows._SPARE_SLOTS", 3)
    monkeypatch.setattr("sptar.llm.engine.pooled_rows._SLOTS_AT_A_TIME", 3)
    case = stopping_often(prompt_case(tiny_models["qwen"]), every=40)
    monkeypatch.setattr("sptar.llm.engine.prefix._two_part_models", {case.model.model: joins})
    fast = case.generate()
    assert max(answer.tokens for answer in fast) > 6
    assert_same(fast, slow_answers(case))


def test_generator_can_be_used_again(tiny_models):
    generator = prompt_case(tiny_models["gpt2"]).generator()
    first = generator.generate(REQUESTS)
    generator.generate(REQUESTS[:3])
    assert generator.generate(REQUESTS) == first
    assert generator.generate([]) == []


def test_samples_differ_by_number_attempt_seed_and_document(tiny_models):
    case = prompt_case(tiny_models["llama"])
    document = REQUESTS[0].document
    requests = [
        GenerationRequest(document, number, attempt) for number in range(3) for attempt in range(2)
    ]
    answers = case.generate(requests, decoding="sample")
    assert len({answer.raw for answer in answers}) == len(requests)
    config = case.config(decoding="sample")
    other_seed = PromptedGenerator(
        case.model, case.template, case.soft_prompt, case.examples, config, 8
    )
    assert other_seed.generate(requests[:1])[0].raw != answers[0].raw
    # Greedy decoding has no random stream: every number and attempt gives the same.
    assert len({answer.raw for answer in case.generate(requests)}) == 1


def test_random_stream_is_a_function_of_its_name():
    assert random_stream(3, "d", 1, 2).random(3).tolist() == pytest.approx(
        random_stream(3, "d", 1, 2).random(3).tolist(), abs=0
    )
    names = [(3, "d", 1, 2), (4, "d", 1, 2), (3, "e", 1, 2), (3, "d", 2, 2), (3, "d", 1, 3)]
    # Names that would collide if they were merely joined.
    names += [(3, "d1", 1, 2), (31, "d", 1, 2), (3, "1", 11, 2), (3, "11", 1, 2)]
    assert len({random_stream(*name).random() for name in names}) == len(names)


def test_draw_follows_the_distribution():
    logits = torch.tensor([[0.0, 1.0, -2.0, 0.5, float("-inf"), 2.0, -1.0]])
    temperature = 0.7
    weights = torch.softmax(logits[0].double() / temperature, dim=0).numpy()
    count = 40_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random((count, 3)))
    drawn = draw(logits.expand(count, -1), uniforms, temperature).numpy()
    shares = np.bincount(drawn, minlength=7) / count
    assert shares[4] == 0
    assert np.abs(shares - weights).max() < 4 * np.sqrt(0.25 / count)


def test_draw_of_a_row_ignores_other_rows_and_needs_enough_numbers():
    stream = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 300, generator=stream) * 3
    uniforms = torch.rand(6, 24, generator=stream, dtype=torch.float64)
    together = draw(logits, uniforms, 1.0)
    for row in range(6):
        alone = draw(logits[row : row + 1], uniforms[row : row + 1, :9], 1.0)
        assert alone.item() == together[row].item()
    with pytest.raises(ValueError, match="needs 9 numbers"):
        draw(logits, uniforms[:, :8], 1.0)


def test_draw_seldom_moves_when_logits_move_in_their_last_bits():
    """The reason for halving: one cumulative sum fails this test."""
    stream = torch.Generator().manual_seed(1)
    logits = torch.randn(1000, 4096, generator=stream)
    logits[:, 0] += 8
    uniforms = torch.rand(1000, 24, generator=stream, dtype=torch.float64)
    noise = 1e-4 * torch.randn(logits.shape, generator=stream)
    assert int((draw(logits, uniforms, 0.7) != draw(logits + noise, uniforms, 0.7)).sum()) <= 3


def test_stop_token_counts_but_is_no_text(tiny_models):
    case = stopping_often(prompt_case(tiny_models["qwen"]), every=3)
    answers = case.generate()
    stopped = [answer for answer in answers if answer.stopped]
    assert stopped
    for answer, slow in zip(answers, slow_answers(case), strict=True):
        assert answer.raw == case.template.decode(slow.token_ids)
        assert "\n" not in answer.raw
        assert "<|endoftext|>" not in answer.raw


def test_budget_of_new_tokens_and_cut_documents(tiny_models):
    case = prompt_case(tiny_models["llama"])
    answers = case.generate()
    for request, answer in zip(REQUESTS, answers, strict=True):
        assert 1 <= answer.tokens <= case.max_new_tokens
        assert answer.stopped or answer.tokens == case.max_new_tokens
        assert answer.cut_tokens == case.template.document_ids(request.document).cut_tokens
        # Digits that depend on who shared the batch are not kept.
        assert answer.log_probability == round(answer.log_probability, LOG_PROBABILITY_DECIMALS)
    assert any(answer.cut_tokens for answer in answers)
    assert any(not answer.cut_tokens for answer in answers)


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_positions_stay_within_the_context(tiny_models, shape):
    """A context that ends in the middle of an answer, sooner for long documents than for short."""
    case = stopping_often(prompt_case(tiny_models[shape]), every=60)
    lengths = [len(case.template.document_ids(request.document).ids) for request in REQUESTS]
    prefix = len(case.template.prefix_ids(case.examples)) + VIRTUAL_TOKENS
    template = case.template
    small = replace(case.model, context_tokens=prefix + max(lengths) + 4)
    seen: list[int] = []

    def watch(module, args, values):
        if values.get("position_ids") is not None:
            seen.append(int(values["position_ids"].max()))

    handle = small.model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        config = case.config(batch_size=12)
        generator = PromptedGenerator(small, template, case.soft_prompt, case.examples, config, 7)
        fast = generator.generate(REQUESTS)
    finally:
        handle.remove()
    assert max(seen) == small.context_tokens - 1
    slow = [
        slow_generate(small, template, case.soft_prompt, case.examples, request, config, 7)
        for request in REQUESTS
    ]
    assert_same(fast, slow)
    longest = lengths.index(max(lengths))
    assert fast[longest].stopped or fast[longest].tokens == 5


def test_prompt_that_fills_the_context_is_refused(tiny_models):
    case = prompt_case(tiny_models["llama"])
    prefix = len(case.template.prefix_ids(case.examples)) + VIRTUAL_TOKENS
    tight = replace(case.model, context_tokens=prefix + 3)
    generator = PromptedGenerator(
        tight, case.template, case.soft_prompt, case.examples, case.config(), 7
    )
    with pytest.raises(ModelError, match="context has"):
        generator.generate(REQUESTS[:1])
    tighter = replace(case.model, context_tokens=prefix)
    with pytest.raises(ModelError, match="Soft prompt and examples take"):
        PromptedGenerator(tighter, case.template, case.soft_prompt, case.examples, case.config(), 7)


def test_soft_prompt_and_examples_reach_the_model(tiny_models):
    with_both = prompt_case(tiny_models["qwen"]).generate()
    without_soft = prompt_case(tiny_models["qwen"], soft=False).generate()
    without_example = prompt_case(tiny_models["qwen"], examples=0).generate()
    assert [a.raw for a in with_both] != [a.raw for a in without_soft]
    assert [a.raw for a in with_both] != [a.raw for a in without_example]


class OutOfMemoryAbove:
    """Lets a model fail on batches of more rows than this."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.failures = 0

    def __call__(self, module, args, values):
        batch = values.get("input_ids", values.get("inputs_embeds"))
        if batch.shape[0] > self.rows:
            self.failures += 1
            torch.empty(2**52)  # raises what a processor's allocator says


@pytest.mark.parametrize(("joins", "failures"), [(True, 1), (False, 2)])
def test_out_of_memory_halves_the_batch_and_changes_nothing(
    tiny_models, monkeypatch, joins, failures
):
    case = stopping_often(prompt_case(tiny_models["llama"]))
    monkeypatch.setattr("sptar.llm.engine.prefix._two_part_models", {case.model.model: joins})
    expected = case.generate(batch_size=3)
    progress = RecordedProgress()
    generator = case.generator(progress, batch_size=12)
    limit = OutOfMemoryAbove(3)
    handle = case.model.model.register_forward_pre_hook(limit, with_kwargs=True)
    try:
        answers = generator.generate(REQUESTS)
        # Where prompts can join, half of a batch begins first. Later batches stay at 3.
        assert limit.failures == failures
        assert [a.raw for a in answers] == [a.raw for a in expected]
        assert len([text for text in progress.messages if "Memory ran out" in text]) == failures
        assert progress.advanced == len(REQUESTS)
        limit.rows = 0
        with pytest.raises(ModelError, match="single text"):
            generator.generate(REQUESTS[:1])
    finally:
        handle.remove()


@pytest.mark.parametrize("decoding", ["greedy", "sample"])
def test_memory_that_runs_out_late_costs_no_answer(tiny_models, decoding):
    """Some answers have ended by then, others have begun and begin again."""
    case = stopping_often(prompt_case(tiny_models["llama"]), every=6)
    expected = case.generate(decoding=decoding)
    for when in (4, 9, 15):
        progress = RecordedProgress()
        generator = case.generator(progress, decoding=decoding)
        calls = iter(range(10_000))

        def fail_once(module, args, values, calls=calls, when=when):
            if next(calls) == when:
                raise torch.OutOfMemoryError("CUDA out of memory (injected)")

        handle = case.model.model.register_forward_pre_hook(fail_once, with_kwargs=True)
        try:
            answers = generator.generate(REQUESTS)
        finally:
            handle.remove()
        assert next(calls) > when
        assert [(a.raw, a.tokens) for a in answers] == [(a.raw, a.tokens) for a in expected]
        assert progress.advanced == len(REQUESTS)
        assert len(progress.messages) == 1


def test_progress_counts_rows_not_retries(tiny_models):
    progress = RecordedProgress()
    generator = prompt_case(tiny_models["gpt2"]).generator(progress, decoding="sample")
    document = REQUESTS[0].document
    generator.generate([GenerationRequest(document, number) for number in range(4)])
    generator.generate([GenerationRequest(document, 2, 1)])
    assert progress.advanced == 4
    assert progress.messages == []


def test_empty_and_odd_documents(tiny_models):
    odd = [Document("empty", ""), Document("blank", "  \n "), Document("signs", "¿∂? 漢字 🚲 \x00")]
    for shape in LANGUAGE_MODEL_SHAPES:
        case = prompt_case(tiny_models[shape])
        requests = [GenerationRequest(document) for document in odd]
        assert_same(case.generate(requests), slow_answers(case, requests))


class TestLengthBatches:
    def test_longest_first_and_results_in_order(self):
        batches: list[list[int]] = []

        def work(batch):
            batches.append(batch)
            return [item * 10 for item in batch]

        results = LengthBatches(2).run([5, 9, 5, 7, 1], work)
        assert results == [0, 10, 20, 30, 40]
        assert batches == [[1, 3], [0, 2], [4]]

    def test_equal_lengths_only(self):
        batches: list[list[int]] = []

        def work(batch):
            batches.append(batch)
            return batch

        results = LengthBatches(3).run([5, 9, 5, 5, 5, 9], work, equal_lengths=True)
        assert results == list(range(6))
        assert batches == [[1, 5], [0, 2, 3], [4]]

    def test_other_errors_pass_through(self):
        def work(batch):
            raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"):
            LengthBatches(2).run([1, 2], work)
