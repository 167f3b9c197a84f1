"""Attention to the parts of a sequence, against attention to the whole."""

from __future__ import annotations

import pytest
import torch

from sptar.llm.engine.attention import PrefixLayer, _attend, part, two_parts

WIDTH = 8


def whole(query, key, value, scale, mask=None):
    """Softmax attention, written out, in float64."""
    scores = torch.einsum("rhnd,rhtd->rhnt", query.double(), key.double()) * scale
    if mask is not None:
        scores = scores + mask.double()
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("rhnt,rhtd->rhnd", weights, value.double()), scores.logsumexp(-1)


def random(*shape, seed, spread=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("kind", ["all", "mask", "causal"])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_a_part_and_its_weight(kind, spread):
    query = random(3, 4, 5, WIDTH, seed=1, spread=spread)
    key, value = random(3, 4, 5, WIDTH, seed=2), random(3, 4, 5, WIDTH, seed=3)
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)[None, None].repeat(3, 1, 1, 1)
    if kind == "mask":
        hidden[1, 0, :, 2] = True
    mask = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
    given = mask if kind == "mask" else None
    found, total = part(query, key, value, 0.3, given, causal=kind == "causal")
    expected, expected_total = whole(query, key, value, 0.3, None if kind == "all" else mask)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(total.double(), expected_total, atol=1e-4, rtol=1e-5)


class Layer(torch.nn.Module):
    layer_idx = 0


FORMATS = [
    (torch.float32, 1.0, 1e-5),
    (torch.float32, 30.0, 1e-5),
    # No kernel of torch is used for these: the scores of both parts stand side by side.
    (torch.float64, 1.0, 1e-12),
    (torch.float64, 30.0, 1e-12),
    (torch.bfloat16, 1.0, 0.03),
]


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize(("kind", "new"), [("mask", 1), ("mask", 3), ("causal", 5)])
@pytest.mark.parametrize(("dtype", "spread", "error"), FORMATS)
def test_two_parts_are_the_whole(key_heads, kind, new, dtype, spread, error):
    """Rows behind one prefix: with own parts of different lengths, or that have just begun."""
    rows, heads, prefix = 3, 4, 7
    slots = 6 if kind == "mask" else new
    groups = heads // key_heads

    def numbers(*shape, seed, spread=1.0):
        return random(*shape, seed=seed, spread=spread).to(dtype)

    query = numbers(rows, new, heads, WIDTH, seed=1, spread=spread).transpose(1, 2)
    keys, values = (numbers(1, key_heads, prefix, WIDTH, seed=seed) for seed in (2, 3))
    own_keys, own_values = (numbers(rows, key_heads, slots, WIDTH, seed=seed) for seed in (4, 5))
    # The row's new tokens stand in these slots; what is behind them is hidden.
    first = torch.tensor([[0], [2], [6 - new]] if kind == "mask" else [[0]] * rows)
    hidden = torch.arange(slots) > (first + torch.arange(new))[:, None, :, None]
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, float("-inf"))
    layer = PrefixLayer(
        keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    )
    with two_parts([], [layer], mask if kind == "mask" else None):
        found, _ = _attend(Layer(), query, own_keys, own_values, None, scaling=0.3)
    assert found.dtype == dtype
    every_key = torch.cat([keys.expand(rows, -1, -1, -1), own_keys], dim=2)
    every_value = torch.cat([values.expand(rows, -1, -1, -1), own_values], dim=2)
    every_mask = torch.cat([torch.zeros(rows, 1, new, prefix), mask], dim=3)
    expected, _ = whole(
        query,
        every_key.repeat_interleave(groups, dim=1),
        every_value.repeat_interleave(groups, dim=1),
        0.3,
        every_mask,
    )
    torch.testing.assert_close(found.double(), expected.transpose(1, 2), atol=error, rtol=error)


def test_what_it_does_not_know_is_refused():
    query = random(1, 2, 1, WIDTH, seed=1)
    layer = PrefixLayer(query, query)
    with two_parts([], [layer], None), pytest.raises(NotImplementedError):
        _attend(Layer(), query, query, query, None, scaling=0.3, softcap=2.0)
