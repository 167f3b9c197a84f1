"""Training sequences: the method's own template, which tokens are asked for, and what is drawn."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batches import Batch, Steps, batches_of_step, padded
from hypothesis import given, settings
from hypothesis import strategies as st
from language_model import Settings
from pairs import StyledPair
from sequences import IGNORED, PairStore, Template, TokenSequence, load_pairs
from wordings import alike

from sptar.config import LanguageModelConfig, PromptConfig
from sptar.errors import ConfigError, DataError
from sptar.llm.loading import LanguageModel, load_language_model
from sptar.llm.template import PromptTemplate
from sptar.types import Document, Pair, Query
from tiny import DOCUMENTS, LANGUAGE_MODEL_SHAPES, QUERIES

STYLED = [
    StyledPair("question", f"source {number % 2}", query.text, document.full_text, False)
    for number, (query, document) in enumerate(zip(QUERIES, DOCUMENTS, strict=False))
]


def load(folder: Path) -> LanguageModel:
    return load_language_model(LanguageModelConfig(name=str(folder), device="cpu"))


@pytest.fixture(scope="module")
def loaded(tiny_models: dict[str, Path]) -> dict[str, LanguageModel]:
    return {shape: load(folder) for shape, folder in tiny_models.items()}


def as_pair(pair: StyledPair) -> Pair:
    return Pair(Query("q", pair.query), Document("d", pair.document))


@pytest.mark.parametrize("examples", [0, 1, 2])
@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_the_ids_are_those_of_the_prompt(
    loaded: dict[str, LanguageModel], shape: str, examples: int
) -> None:
    model = loaded[shape]
    prompt = PromptConfig(examples=examples, max_document_tokens=20, max_query_tokens=7)
    theirs = PromptTemplate(model, prompt, virtual_tokens=0, max_new_tokens=8)
    ours = Template(model, 20, 7)
    drawn = [
        StyledPair("question", "s", "  two\n blanks ", "one\n\ntwo   three ", False),
        *STYLED,
    ]
    for first in range(len(drawn) - examples):
        pairs = drawn[first : first + examples + 1]
        last = as_pair(pairs[-1])
        prefix = theirs.prefix_ids([as_pair(pair) for pair in pairs[:-1]])
        asked = theirs.query_ids(last.query.text)
        wanted = [*prefix, *theirs.document_ids(last.document).ids, *asked]
        sequence = ours.sequence(pairs, 256)
        assert sequence.ids == wanted
        assert sequence.queries[-1] == (len(wanted) - len(asked), len(wanted))
        question = ours.question(pairs, 20)
        assert question.ids == wanted
        assert question.targets == [IGNORED] * (len(wanted) - len(asked)) + asked


def test_the_starters_own_tokenizer_gives_the_ids_of_the_prompt(
    bpe_folder: Path, tmp_path: Path
) -> None:
    from language_model import new_model

    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
    }
    new_model(shape, bpe_folder, tmp_path / "model", 0)
    model = load(tmp_path / "model")
    prompt = PromptConfig(examples=1, max_document_tokens=20)
    theirs = PromptTemplate(model, prompt, virtual_tokens=0, max_new_tokens=8)
    examples, last = [as_pair(STYLED[0])], as_pair(STYLED[1])
    wanted = theirs.prefix_ids(examples) + theirs.document_ids(last.document).ids
    wanted += theirs.query_ids(last.query.text)
    assert Template(model, 20, 64).sequence(STYLED[:2], 256).ids == wanted
    assert theirs.end_of_query_ids[-1] == model.newline_token_id


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_every_query_with_its_end_is_a_target_and_nothing_else(
    loaded: dict[str, LanguageModel], shape: str
) -> None:
    template = Template(loaded[shape], 20, 30)
    sequence = template.sequence(STYLED[:3], 256)
    inside = {place for begin, end in sequence.queries for place in range(begin, end)}
    assert len(sequence.queries) == 3
    for place, (token_id, target) in enumerate(zip(sequence.ids, sequence.targets, strict=True)):
        assert target == (token_id if place in inside else IGNORED)
    model = loaded[shape]
    for (begin, end), pair in zip(sequence.queries, STYLED, strict=False):
        text = model.tokenizer.decode(sequence.ids[begin:end])
        assert text.endswith("\n") or sequence.ids[end - 1] in model.stop_token_ids
        assert text.strip().lower().replace(" ", "").startswith(pair.query[:12].replace(" ", ""))


@settings(max_examples=60, deadline=None)
@given(limit=st.integers(60, 256), count=st.integers(1, 5))
def test_a_sequence_ends_where_a_pair_no_longer_fits(
    loaded: dict[str, LanguageModel], limit: int, count: int
) -> None:
    template = Template(loaded["llama"], 15, 10)
    whole = template.sequence(STYLED[:count], 10_000)
    sequence = template.sequence(STYLED[:count], limit)
    assert len(sequence.ids) <= limit
    assert whole.ids[: len(sequence.ids)] == sequence.ids
    shown = len(sequence.queries)
    if shown < count:
        assert whole.queries[shown][1] > limit


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_the_share_of_each_document_fits(loaded: dict[str, LanguageModel], shape: str) -> None:
    template = Template(loaded[shape], 1000, 12)
    cut = template.share(250, 3)
    long = [StyledPair("title", "s", "word " * 40, "word " * 400, False)] * 3
    assert 250 - 6 <= len(template.question(long, cut).ids) <= 250
    assert Template(loaded[shape], 9, 12).share(250, 3) == 9
    with pytest.raises(ConfigError, match="leaves 0 tokens for each of 3"):
        template.share(40, 3)


def test_a_text_is_tokenised_once(loaded: dict[str, LanguageModel]) -> None:
    words = Template(loaded["gpt2"], 20, 10).words
    first = words("Moss has no roots.")
    assert words("Moss has no roots.") is first
    assert list(first) == loaded["gpt2"].encode(" Moss has no roots.")
    assert list(words("  \n ")) == []


def test_a_draw_is_of_one_style_and_named_by_its_number() -> None:
    pairs = [
        StyledPair(style, f"s{number % 3}", f"{style} {number}", "text", False)
        for style in ("title", "question", "heading")
        for number in range(40)
    ]
    store = PairStore(pairs, {"title": 1.0, "question": 3.0})
    assert store.styles == ["question", "title"]
    drawn = [store.draw(random.Random(f"0/{number}"), 3) for number in range(200)]
    again = PairStore(pairs, {"question": 3.0, "title": 1.0})
    assert drawn == [again.draw(random.Random(f"0/{number}"), 3) for number in range(200)]
    for some in drawn:
        assert len(set(some)) == 3
        assert len({pair.style for pair in some}) == 1
    questions = sum(some[0].style == "question" for some in drawn)
    assert 120 < questions < 180
    assert sum(len({pair.source for pair in some}) == 1 for some in drawn) > 140
    assert len(store.draw(random.Random(0), 500, "title")) == 40
    with pytest.raises(ConfigError):
        PairStore(pairs, {"statement": 1.0})


def test_a_step_holds_its_tokens_in_batches_of_like_length(
    loaded: dict[str, LanguageModel],
) -> None:
    store = PairStore(STYLED, {"question": 1.0})
    template = Template(loaded["qwen"], 40, 10)
    batches = batches_of_step(store, template, seed=0, step=3, tokens=1200, limit=200)
    assert 1200 <= sum(batch.tokens for batch in batches) < 1400
    assert 4 <= len(batches) <= 7
    for batch in batches:
        assert batch.ids.size <= 300 or len(batch.ids) == 1
        assert batch.tokens <= batch.ids.size
    other = batches_of_step(store, template, seed=0, step=4, tokens=1200, limit=200)
    assert [batch.ids.tolist() for batch in batches] != [batch.ids.tolist() for batch in other]


def rows_of(batches: list[Batch]) -> list[list[int]]:
    """The sequences without their padding, in an order of their own."""
    return sorted(
        ids[: len(ids) - padding].tolist()
        for batch in batches
        for ids, padding in zip(batch.ids, right_padding(batch), strict=True)
    )


def right_padding(batch: Batch) -> list[int]:
    """Tokens behind each row's last target: a sequence ends with its last query."""
    length = batch.targets.shape[1]
    return [length - 1 - int((row != IGNORED).nonzero()[0][-1]) for row in batch.targets]


def queries_of(batches: list[Batch]) -> list[int]:
    """How many queries each sequence has: where a run of targets begins."""
    return [
        int(((row[1:] != IGNORED) & (row[:-1] == IGNORED)).sum())
        for batch in batches
        for row in batch.targets
    ]


@pytest.mark.parametrize(
    ("wanted", "most_pairs", "share"),
    [
        ({}, 3, None),
        ({"most_pairs": 3, "reworded_share": 0.0}, 3, None),
        ({"most_pairs": 4, "reworded_share": 0.5}, 4, 0.5),
        ({"most_pairs": 2, "reworded_share": 1.0}, 2, 1.0),
    ],
)
def test_a_step_is_drawn_pair_by_pair(
    loaded: dict[str, LanguageModel],
    wanted: dict[str, Any],
    most_pairs: int,
    share: float | None,
) -> None:
    store = PairStore(STYLED, {"question": 1.0})
    template = Template(loaded["gpt2"], 40, 20)
    for step in range(3):
        order = random.Random(f"7/{step}")
        sequences: list[TokenSequence] = []
        while sum(len(sequence.ids) for sequence in sequences) < 2000:
            pairs = store.draw(order, order.randint(1, most_pairs))
            # Without a share nothing but the pairs is drawn, as before there were wordings.
            if share is not None:
                pairs = alike(pairs, share, order)
            sequences.append(template.sequence(pairs, 250))
        asked = {"seed": 7, "step": step, "tokens": 2000, "limit": 250, **wanted}
        found = batches_of_step(store, template, **asked)
        assert rows_of(found) == sorted(sequence.ids for sequence in sequences)
        again = batches_of_step(PairStore(STYLED, {"question": 1.0}), template, **asked)
        assert [batch.ids.tolist() for batch in again] == [batch.ids.tolist() for batch in found]


@pytest.mark.parametrize("most_pairs", [1, 2, 4])
def test_a_sequence_has_no_more_pairs_than_asked_for(
    loaded: dict[str, LanguageModel], most_pairs: int
) -> None:
    store = PairStore(STYLED, {"question": 1.0})
    template = Template(loaded["llama"], 15, 10)
    found = [
        count
        for step in range(4)
        for count in queries_of(
            batches_of_step(
                *(store, template),
                **{"seed": 0, "step": step, "tokens": 2500, "limit": 10_000},
                most_pairs=most_pairs,
                reworded_share=0.5,
            )
        )
    ]
    assert set(found) == set(range(1, most_pairs + 1))


def test_the_settings_reach_the_batches(loaded: dict[str, LanguageModel]) -> None:
    store, template = PairStore(STYLED, {"question": 1.0}), Template(loaded["gpt2"], 40, 20)
    chosen = Settings(
        steps=2,
        styles={"question": 1.0},
        step_tokens=1500,
        sequence_tokens=250,
        most_pairs=2,
        reworded_share=1.0,
    )
    asked = {"seed": 0, "step": 1, "tokens": 1500, "limit": 250}
    found = rows_of(Steps(store, template, chosen)[1])
    assert found == rows_of(
        batches_of_step(store, template, **asked, most_pairs=2, reworded_share=1.0)
    )
    plain = Steps(store, template, replace(chosen, reworded_share=0.0))[1]
    assert found != rows_of(plain) != rows_of(batches_of_step(store, template, **asked))


def steps_of(model: LanguageModel, workers: int) -> Steps:
    chosen = Settings(
        steps=6,
        styles={"question": 1.0},
        step_tokens=500,
        sequence_tokens=120,
        plain_share=0.5,
        reworded_share=0.5,
        workers=workers,
    )
    return Steps(PairStore(STYLED, chosen.styles), Template(model, 30, 10), chosen)


def test_plain_text_fills_its_rows_and_asks_for_every_token(
    loaded: dict[str, LanguageModel],
) -> None:
    model = loaded["gpt2"]
    found = list(steps_of(model, 0))
    assert len(found) == 6
    plain = [batches for batches in found if (batches[0].ids == batches[0].targets).all()]
    assert 0 < len(plain) < 6
    for batch in plain[0]:
        assert batch.ids.shape == (1, 120)
        assert batch.tokens == 120
    text = model.tokenizer.decode(plain[0][0].ids[0])
    known = [" ".join(pair.document.split()) for pair in STYLED]
    begins, rest = text.split("<|endoftext|>", 1)
    assert any(document.startswith(begins.strip()[:100]) for document in known)
    assert "Relevant" not in begins + rest


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_other_processes_make_the_same_batches(
    loaded: dict[str, LanguageModel], start_method: str
) -> None:
    model = loaded["bert"]
    alone = list(steps_of(model, 0).from_step(2))
    shared = list(steps_of(model, 1).from_step(2, start_method))
    assert len(alone) == len(shared) == 4
    for ours, theirs in zip(alone, shared, strict=True):
        for one, two in zip(ours, theirs, strict=True):
            assert (one.ids == two.ids).all()
            assert (one.targets == two.targets).all()
            assert one.tokens == two.tokens


def test_other_processes_get_no_weights(loaded: dict[str, LanguageModel]) -> None:
    template = Template(loaded["llama"], 30, 10)
    template.words("a text that is remembered")
    copy = pickle.loads(pickle.dumps(template))
    assert copy.words.model.model is None
    assert copy.sequence(STYLED[:2], 200) == template.sequence(STYLED[:2], 200)
    assert template.words.model.model is None
    assert loaded["llama"].model is not None


def test_padding_is_on_the_right_and_never_a_target(loaded: dict[str, LanguageModel]) -> None:
    template = Template(loaded["llama"], 30, 10)
    sequences = [template.sequence(STYLED[:2], 200), template.sequence(STYLED[2:3], 200)]
    batch = padded(sequences)
    for row, sequence in enumerate(sequences):
        length = len(sequence.ids)
        assert batch.ids[row, :length].tolist() == sequence.ids
        assert batch.targets[row, :length].tolist() == sequence.targets
        assert (batch.targets[row, length:] == IGNORED).all()
    assert batch.tokens == sum(len(sequence.ids) for sequence in sequences)


def test_pairs_are_read_packed_or_not(pairs_file: Path, tmp_path: Path) -> None:
    import lzma

    packed = tmp_path / "pairs.jsonl.xz"
    packed.write_bytes(lzma.compress(pairs_file.read_bytes()))
    split = load_pairs(packed)
    assert split == load_pairs(pairs_file)
    assert {pair.held_out for pair in split.held_out} == {True}
    assert {pair.held_out for pair in split.trained} == {False}
    lonely = tmp_path / "pairs.jsonl"
    lonely.write_text(pairs_file.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="held-out pairs are needed"):
        load_pairs(lonely)
