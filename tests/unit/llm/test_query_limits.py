"""How long queries may be: by the labels, by the config, never more than the context allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sptar.config import LanguageModelConfig, PromptConfig
from sptar.llm.loading import LanguageModel, load_language_model
from sptar.llm.query_limits import QueryLimits, hosted_new_tokens, query_limits
from sptar.llm.template import PromptTemplate
from tiny import QUERIES

TEXTS = [query.text for query in QUERIES]


@pytest.fixture(scope="module")
def model(tiny_models: dict[str, Path]) -> LanguageModel:
    folder = tiny_models["gpt2"]
    return load_language_model(LanguageModelConfig(name=str(folder), device="cpu"))


def test_the_longest_label_sets_the_limits_and_is_not_cut(model: LanguageModel) -> None:
    wide = replace(model, context_tokens=4000)
    longest = max(len(model.encode(" " + text)) for text in TEXTS)
    found = query_limits(wide, PromptConfig(), None, TEXTS)
    assert found == QueryLimits(longest, max(32, 2 * longest), longest)
    prompt = PromptConfig(max_query_tokens=found.read)
    made = PromptTemplate(wide, prompt, virtual_tokens=5, max_new_tokens=found.written)
    assert not any(made.query_is_cut(text) for text in TEXTS)
    prompt = PromptConfig(max_query_tokens=found.read - 1)
    made = PromptTemplate(wide, prompt, virtual_tokens=5, max_new_tokens=found.written)
    assert any(made.query_is_cut(text) for text in TEXTS)


def test_long_labels_are_given_room_and_short_ones_take_none(model: LanguageModel) -> None:
    wide = replace(model, context_tokens=4000)
    (token,) = {len(model.encode(" moss"))}
    long = query_limits(wide, PromptConfig(), None, ["moss", "moss " * 100])
    assert long == QueryLimits(100 * token, 200 * token, 100 * token)
    assert query_limits(wide, PromptConfig(), None, ["moss"]).written == 32


def test_what_the_config_says_counts(model: LanguageModel) -> None:
    found = query_limits(model, PromptConfig(max_query_tokens=3), 9, ["moss " * 100])
    assert (found.read, found.written) == (3, 9)


@pytest.mark.parametrize(("examples", "read"), [(0, 100), (1, 50), (3, 25)])
def test_queries_take_a_quarter_of_the_context_at_most(
    model: LanguageModel, examples: int, read: int
) -> None:
    narrow = replace(model, context_tokens=400)
    found = query_limits(narrow, PromptConfig(examples=examples), None, ["moss " * 1000])
    assert (found.read, found.written) == (read, 100)
    unlimited = query_limits(
        replace(model, context_tokens=None), PromptConfig(examples=examples), None, ["moss " * 1000]
    )
    assert unlimited.read == unlimited.longest


def test_a_server_may_write_half_the_bytes_of_the_longest_label() -> None:
    assert hosted_new_tokens(None, ["é" * 60, "ab"]) == 60
    assert hosted_new_tokens(None, []) == 32
    assert hosted_new_tokens(None, ["x" * 100_000]) == 1024
    assert hosted_new_tokens(5, ["x" * 100_000]) == 5
