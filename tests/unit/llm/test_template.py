"""The prompt: hand-checked texts, budgets that hold for any text, and ids that join."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sptar.config import LanguageModelConfig, PromptConfig
from sptar.errors import ConfigError
from sptar.llm.loading import LanguageModel, load_language_model
from sptar.llm.template import PromptTemplate
from sptar.methods import WORDINGS
from sptar.types import Document, Pair, Query
from tiny import CONTEXT_TOKENS, DOCUMENTS, LANGUAGE_MODEL_SHAPES, PAIRS, QUERIES


@pytest.fixture(scope="module")
def models(tiny_models: dict[str, Path]) -> dict[str, LanguageModel]:
    return {
        shape: load_language_model(LanguageModelConfig(name=str(folder), device="cpu"))
        for shape, folder in tiny_models.items()
    }


def template(model: LanguageModel, style: str = "sptar", **prompt: object) -> PromptTemplate:
    return PromptTemplate(
        model, PromptConfig(**prompt), style, virtual_tokens=10, max_new_tokens=20
    )


def text_of(model: LanguageModel, ids: list[int]) -> str:
    return model.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("shape", ["llama", "gpt2", "qwen"])
def test_prompt_reads_as_in_the_paper(models: dict[str, LanguageModel], shape: str) -> None:
    model = models[shape]
    made = template(model)
    document = made.document_ids(DOCUMENTS[2])
    ids = made.prefix_ids(PAIRS[:1]) + document.ids + made.query_ids(QUERIES[2].text)
    begin = "<s>" if shape == "llama" else ""
    expected = (
        begin + "Document: Bees tell each other where flowers grow by dancing on the comb. \n "
        "Relevant Query: how do bees share the place of flowers \n "
        "Document: Frost heaves stones up through a field. \n "
        "Relevant Query: why do stones rise in fields \n"
    )
    assert text_of(model, ids) == expected
    assert document.cut_tokens == document.cut_words == 0
    # The pieces are tokenised apart, yet give what the tokenizer makes of the whole text.
    assert ids[len(model.begin_token_ids) :] == model.encode(expected.removeprefix(begin))


def test_prompt_of_a_lower_casing_model(models: dict[str, LanguageModel]) -> None:
    made = template(models["bert"])
    ids = made.prefix_ids(PAIRS[:1]) + made.document_ids(DOCUMENTS[2]).ids
    newline = models["bert"].newline_token_id
    assert ids.count(newline) == 3
    assert ids[0] == models["bert"].encode("document")[0]
    assert made.query_ids("Why?") == [*models["bert"].encode("why ?"), newline]


def test_without_examples_the_prefix_is_the_begin(models: dict[str, LanguageModel]) -> None:
    for shape, model in models.items():
        made = template(model, examples=0)
        assert made.prefix_ids([]) == list(model.begin_token_ids)
        text = text_of(model, made.document_ids(DOCUMENTS[2]).ids)
        if shape != "bert":
            assert text == ("Document: Frost heaves stones up through a field. \n Relevant Query:")


def test_styles_are_worded(models: dict[str, LanguageModel]) -> None:
    model = models["gpt2"]
    pair = PAIRS[2]
    made = template(model, "inpars", max_query_tokens=20)
    text = text_of(model, made.prefix_ids([pair]) + made.document_ids(DOCUMENTS[10]).ids)
    assert text == (
        "For each document, write one search query that the document answers. \n"
        " Example 1: \n Document: Frost heaves stones up through a field. \n"
        " Relevant Query: why do stones rise in fields \n"
        " Example 2: \n Document: Chalk cliffs are the shells of creatures too small to see. \n"
        " Relevant Query:"
    )
    made = template(model, "inpars_gbq", max_query_tokens=20)
    text = text_of(model, made.prefix_ids([pair]) + made.document_ids(DOCUMENTS[10]).ids)
    assert text.startswith("For each document, write a good question")
    assert text.count("Good Question:") == 2
    assert text.endswith("Good Question:")
    assert "Good Question: why do stones rise in fields \n Bad Question: What about" in text
    assert "Relevant Query" not in text
    # The vanilla prompt without examples is the instruction and the document, not numbered.
    made = template(model, "inpars", examples=0)
    text = text_of(model, made.prefix_ids([]) + made.document_ids(DOCUMENTS[2]).ids)
    assert "Example" not in text
    assert text.startswith(
        "For each document, write one search query that the document answers. \n"
    )


def test_unknown_style(models: dict[str, LanguageModel]) -> None:
    with pytest.raises(ConfigError, match="known are: inpars, inpars_gbq, sptar"):
        template(models["gpt2"], "haiku")


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
@pytest.mark.parametrize("style", list(WORDINGS))
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_everything_fits_into_the_context(
    models: dict[str, LanguageModel], shape: str, style: str, data: st.DataObject
) -> None:
    model = replace(models[shape], context_tokens=320)
    words = st.text(max_size=60).map(lambda text: text * data.draw(st.sampled_from([1, 9, 40])))
    count = data.draw(st.integers(0, 2))
    prompt = PromptConfig(
        examples=count,
        max_query_tokens=data.draw(st.integers(1, 12)),
        max_document_words=data.draw(st.integers(1, 300)),
    )
    new = data.draw(st.integers(1, 25))
    made = PromptTemplate(model, prompt, style, virtual_tokens=5, max_new_tokens=new)
    pairs = [
        Pair(Query("q", data.draw(words)), Document("d", data.draw(words)))
        for _ in range(count + 1)
    ]
    document = made.document_ids(pairs[-1].document)
    query = made.query_ids(pairs[-1].query.text)
    prefix = made.prefix_ids(pairs[:-1])
    assert 5 + len(prefix) + len(document.ids) + max(len(query), new) <= 320
    # No text, whatever it holds, ends a row or its label.
    label = WORDINGS[style].query_label or "Relevant Query:"
    closing = model.encode(" \n " + label)
    assert document.ids[-len(closing) :] == closing
    numbered = style != "sptar" and count
    inside = [token for token in document.ids if token in model.stop_token_ids]
    assert len(inside) == 1 + bool(numbered)
    assert query[-1] == made.end_of_query_ids[-1]
    assert not set(query[: -len(made.end_of_query_ids)]) & model.stop_token_ids


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_decode_undoes_query_ids(models: dict[str, LanguageModel], shape: str) -> None:
    model = models[shape]
    made = template(model)
    for query in QUERIES:
        ids = made.query_ids(query.text)
        assert made.decode(ids) == query.text
        # What comes behind the end is not part of the answer.
        assert made.decode(ids + model.encode(" dogs and glass")) == query.text
        assert made.decode([*ids[: -len(made.end_of_query_ids)], model.end_token_id]) == query.text
    assert made.decode([]) == made.decode([model.end_token_id]) == ""
    assert made.decode(made.query_ids(" what  is\nglass ")) == "what is glass"
    expected = "what is glass" if shape == "bert" else "What is Glass"
    assert made.decode(made.query_ids("What is Glass")) == expected


@pytest.mark.parametrize("shape", ["llama", "gpt2", "qwen"])
def test_text_in_front_of_a_newline_inside_a_token_is_kept(
    models: dict[str, LanguageModel], shape: str
) -> None:
    """Large vocabularies hold tokens such as "?\\n": the row ends there, its mark stays."""
    tokenizer = copy.deepcopy(models[shape].tokenizer)
    tokenizer.add_tokens(["?\n"])
    (mark,) = tokenizer.convert_tokens_to_ids(["?\n"])
    model = replace(
        models[shape],
        tokenizer=tokenizer,
        stop_token_ids=models[shape].stop_token_ids | {mark},
    )
    made = template(model)
    asked = model.encode(" what is glass")
    assert made.decode([*asked, mark, *model.encode(" dogs")]) == "what is glass?"
    assert made.decode([mark]) == "?"
    # A stop token without text before its newline adds nothing.
    assert made.decode([*asked, *made.end_of_query_ids]) == "what is glass"


def test_queries_are_cut_and_still_end(models: dict[str, LanguageModel]) -> None:
    for model in models.values():
        made = template(model, max_query_tokens=3)
        ids = made.query_ids(QUERIES[5].text)
        assert ids == model.encode(" " + QUERIES[5].text)[:3] + made.end_of_query_ids
        assert made.query_is_cut(QUERIES[5].text)
        assert not template(model).query_is_cut(QUERIES[5].text)
        assert made.query_ids("  \n ") == made.end_of_query_ids


def test_a_cut_target_has_no_end_and_a_whole_one_has(models: dict[str, LanguageModel]) -> None:
    """Behind half a sentence an end would teach the model to stop there."""
    for model in models.values():
        tokens = model.encode(" " + QUERIES[5].text)
        for limit in range(1, len(tokens)):
            made = template(model, max_query_tokens=limit)
            assert made.query_is_cut(QUERIES[5].text)
            assert made.target_ids(QUERIES[5].text) == tokens[:limit]
            # In an example the next block begins behind the end.
            assert made.query_ids(QUERIES[5].text) == tokens[:limit] + made.end_of_query_ids
        whole = template(model, max_query_tokens=len(tokens))
        assert not whole.query_is_cut(QUERIES[5].text)
        assert whole.target_ids(QUERIES[5].text) == tokens + whole.end_of_query_ids
        assert whole.target_ids(" ") == whole.end_of_query_ids


def test_documents_are_cut_at_words_then_tokens(models: dict[str, LanguageModel]) -> None:
    for model in models.values():
        made = template(model, examples=0, max_document_words=4)
        cut = made.document_ids(DOCUMENTS[2])
        assert cut.cut_words == 3
        assert cut.cut_tokens == 0
        whole = made.document_ids(Document("d", "Frost heaves stones up"))
        assert cut.ids == whole.ids

        made = template(model, examples=0, max_document_tokens=8)
        assert made.document_budget == 8
        text = model.encode(" " + DOCUMENTS[5].full_text)
        cut = made.document_ids(DOCUMENTS[5])
        opening = model.encode("Document:")
        assert cut.cut_tokens == len(text) - 8
        assert cut.ids == opening + text[:8] + model.encode(" \n Relevant Query:")


def test_newlines_in_a_document_become_blanks(models: dict[str, LanguageModel]) -> None:
    for model in models.values():
        made = template(model)
        broken = Document("d", "one\ntwo\r\n\n three\tfour\u2028five")
        joined = Document("d", "one two three four five")
        assert made.document_ids(broken) == made.document_ids(joined)


def test_budget_is_the_context_shared_out_by_hand(models: dict[str, LanguageModel]) -> None:
    model = models["llama"]
    made = template(model, examples=2, max_query_tokens=9)
    first, other = len(model.encode("Document:")), len(model.encode(" Document:"))
    closing = len(model.encode(" \n Relevant Query:"))
    end = len(model.encode(" \n"))
    # 10 virtual tokens, 1 BOS, 3 blocks of labels, 2 example queries, 20 new tokens.
    fixed = 10 + 1 + first + 2 * other + 3 * closing + 2 * (9 + end) + 20
    assert made.document_budget == (CONTEXT_TOKENS - fixed) // 3


def test_contradicting_settings_are_named(models: dict[str, LanguageModel]) -> None:
    model = models["gpt2"]
    with pytest.raises(ConfigError, match=r"tune.virtual_tokens: 200.*augment.max_new_tokens: 40"):
        PromptTemplate(
            model, PromptConfig(max_query_tokens=5), virtual_tokens=200, max_new_tokens=40
        )
    with pytest.raises(ConfigError, match=r"prompt.examples: 9.*prompt.max_query_tokens: 64"):
        PromptTemplate(model, PromptConfig(examples=9), virtual_tokens=5, max_new_tokens=5)
    with pytest.raises(ConfigError, match=r"prompt\.max_document_tokens: 150"):
        PromptTemplate(
            model, PromptConfig(max_document_tokens=150), virtual_tokens=5, max_new_tokens=5
        )


def test_model_without_limit_cuts_words_only(models: dict[str, LanguageModel]) -> None:
    unlimited = replace(models["qwen"], context_tokens=None)
    made = template(unlimited)
    assert made.document_budget is None
    long = Document("d", "moss " * 3000)
    cut = made.document_ids(long)
    assert cut.cut_words == 3000 - 1024
    assert cut.cut_tokens == 0
    assert template(unlimited, max_document_tokens=30).document_budget == 30


def test_tokenizer_without_newline_ends_queries_with_its_end_token(
    models: dict[str, LanguageModel],
) -> None:
    bert = models["bert"]
    # As a BERT vocabulary without the extra token: white space leaves no tokens at all.
    from tiny import _word_piece_tokenizer

    plain = replace(
        bert,
        tokenizer=_word_piece_tokenizer(512, newline=False),
        newline_token_id=None,
        stop_token_ids=frozenset({bert.end_token_id}),
    )
    made = template(plain)
    ids = made.query_ids("what is glass")
    assert ids[-1] == bert.end_token_id
    assert made.decode(ids) == "what is glass"


def test_more_examples_than_room(models: dict[str, LanguageModel]) -> None:
    with pytest.raises(ValueError, match="2 examples where room was made for 1"):
        template(models["gpt2"]).prefix_ids(PAIRS[:2])
