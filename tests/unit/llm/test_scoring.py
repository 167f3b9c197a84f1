"""Batched query losses against the whole sequence run alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from prompt_cases import VIRTUAL_TOKENS, prompt_case
from reference_generation import slow_query_loss
from sptar.errors import ModelError
from sptar.llm.engine.scoring import PromptedScorer, mean_pair_loss
from sptar.types import Document, Pair, Query, QueryLoss
from tiny import LANGUAGE_MODEL_SHAPES, PAIRS


@pytest.mark.parametrize("examples", [0, 1, 2])
@pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_losses_equal_the_unbatched_ones(tiny_models, shape, soft, examples):
    case = prompt_case(tiny_models[shape], soft=soft, examples=examples)
    losses = case.scorer().query_losses(case.examples, PAIRS[:6])
    for pair, loss in zip(PAIRS[:6], losses, strict=True):
        total, tokens = slow_query_loss(
            case.model, case.template, case.soft_prompt, case.examples, pair
        )
        assert loss.tokens == tokens
        assert loss.total == pytest.approx(total, abs=1e-4)
    assert len({round(loss.total, 3) for loss in losses}) == 6


@pytest.mark.parametrize("batch_size", [1, 2, 5, 50])
def test_batch_size_and_order_do_not_matter(tiny_models, batch_size):
    case = prompt_case(tiny_models["bert"])
    expected = [loss.total for loss in case.scorer(3).query_losses(case.examples, PAIRS)]
    backwards = case.scorer(batch_size).query_losses(case.examples, PAIRS[::-1])
    assert [loss.total for loss in backwards][::-1] == pytest.approx(expected, abs=1e-4)


def test_scorer_serves_several_groups(tiny_models):
    case = prompt_case(tiny_models["llama"])
    scorer = case.scorer()
    for example in PAIRS[:3]:
        losses = scorer.query_losses([example], PAIRS[3:6])
        for pair, loss in zip(PAIRS[3:6], losses, strict=True):
            slow = slow_query_loss(case.model, case.template, case.soft_prompt, [example], pair)
            assert loss.total == pytest.approx(slow[0], abs=1e-4)
    assert scorer.query_losses([PAIRS[0]], []) == []


def test_texts_that_are_too_long_have_a_loss(tiny_models):
    case = prompt_case(tiny_models["qwen"])
    long = Pair(Query("q", "why " * 200), Document("d", "snow falls on the hill " * 200))
    (loss,) = case.scorer().query_losses([long], [long])
    assert math.isfinite(loss.total)
    # The query is cut, so no end is predicted behind it.
    assert loss.tokens == len(case.template.target_ids(long.query.text)) == 16


def test_an_empty_query_is_scored_on_its_end(tiny_models):
    case = prompt_case(tiny_models["gpt2"])
    empty = Pair(Query("q", ""), PAIRS[0].document)
    losses = case.scorer().query_losses(case.examples, [empty, PAIRS[1]])
    slow = slow_query_loss(case.model, case.template, case.soft_prompt, case.examples, empty)
    assert (losses[0].total, losses[0].tokens) == pytest.approx(slow, abs=1e-4)


def test_out_of_memory_halves_the_batch(tiny_models):
    case = prompt_case(tiny_models["llama"])
    expected = [loss.total for loss in case.scorer(8).query_losses(case.examples, PAIRS)]

    def fail(module, args, values):
        batch = values.get("input_ids", values.get("inputs_embeds"))
        if batch.shape[0] > 2:
            torch.empty(2**52)  # raises what a processor's allocator says

    handle = case.model.model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        halved = case.scorer(8).query_losses(case.examples, PAIRS)
    finally:
        handle.remove()
    assert [loss.total for loss in halved] == pytest.approx(expected, abs=1e-4)


def test_a_context_that_is_too_small_is_an_error(tiny_models):
    case = prompt_case(tiny_models["llama"])
    prefix = len(case.template.prefix_ids(case.examples)) + VIRTUAL_TOKENS
    small = replace(case.model, context_tokens=prefix + 5)
    scorer = PromptedScorer(small, case.template, case.soft_prompt, 4)
    with pytest.raises(ModelError, match="context"):
        scorer.query_losses(case.examples, PAIRS[:1])


def test_mean_pair_loss_weighs_pairs_equally():
    losses = [QueryLoss(6.0, 3), QueryLoss(1.0, 1)]
    assert mean_pair_loss(losses) == pytest.approx(1.5)  # not 7 / 4
    with pytest.raises(ValueError, match="no pairs"):
        mean_pair_loss([])
