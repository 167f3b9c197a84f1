"""Batches with a limit on their tokens."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.llm.engine.batching import LengthBatches, most_tokens_on


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 6), st.integers(1, 90))
def test_batches_keep_to_both_limits(lengths: list[int], rows: int, most_tokens: int) -> None:
    batches: list[list[int]] = []

    def work(batch: list[int]) -> list[int]:
        batches.append(batch)
        return [lengths[item] * 10 for item in batch]

    found = LengthBatches(rows).run(lengths, work, most_tokens=most_tokens)
    assert found == [length * 10 for length in lengths]
    assert sorted(item for batch in batches for item in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[item] for item in batch)
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * longest <= most_tokens


def test_a_batch_takes_as_many_as_fit() -> None:
    batches: list[int] = []

    def work(batch: list[int]) -> list[None]:
        batches.append(len(batch))
        return [None] * len(batch)

    LengthBatches(8).run([10] * 10, work, most_tokens=35)
    LengthBatches(8).run([50, 10, 10], work, most_tokens=35)
    assert batches == [3, 3, 3, 1, 1, 2]


def test_only_a_cpu_has_a_limit() -> None:
    assert most_tokens_on(torch.device("cpu")) == 1024
    assert most_tokens_on(torch.device("cuda")) is None
