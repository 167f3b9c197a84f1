"""Queries of one sequence in one wording: by hand, and what must never change."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pairs import STYLES, StyledPair
from wordings import _TELEGRAM, alike, reworded, wordings_of

QUERIES = {
    "title": "keeping valve 3 of the harbour",
    "heading": "paint and cover",
    "keywords": "amber lantern keeper",
    "how_to": "how do i move the valve in winter",
    "definition": "what is the valve law",
    "question": "why does the valve creak at night",
    "exercise": "why must the valve be covered on wet days?",
    "statement": "the red paint of every valve gets soft",
}


def pairs_of(style: str, count: int) -> list[StyledPair]:
    return [
        StyledPair(style, f"source {n}", f"{QUERIES[style]} {n}", f"document {n}", n % 2 == 0)
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("style", "wording", "worded"),
    [
        ("title", "what is {}?", "what is keeping valve 3 of the harbour?"),
        ("heading", "{} explained simply", "paint and cover explained simply"),
        ("keywords", "{} problem", "amber lantern keeper problem"),
        ("how_to", "steps to {}", "steps to move the valve in winter"),
        ("how_to", "{}", "move the valve in winter"),
        ("definition", "define {}", "define valve law"),
        ("definition", "{}", "valve law"),
        ("question", "hello, {}?", "hello, why does the valve creak at night?"),
        ("question", "{} ?", "why does the valve creak at night ?"),
        ("exercise", "question: {}", "question: why must the valve be covered on wet days"),
        ("exercise", "{}?", "why must the valve be covered on wet days?"),
        (
            "statement",
            "is it true that {}?",
            "is it true that the red paint of every valve gets soft?",
        ),
        ("how_to", _TELEGRAM, "move valve winter"),
        ("question", _TELEGRAM, "valve creak night"),
        ("exercise", _TELEGRAM, "valve covered wet days"),
        ("statement", _TELEGRAM, "red paint every valve gets soft"),
    ],
)
def test_a_query_in_a_wording_of_its_style(style: str, wording: str, worded: str) -> None:
    assert wording in wordings_of(style)
    assert reworded(QUERIES[style], style, wording) == worded


@pytest.mark.parametrize(
    ("query", "core"),
    [
        ("how to move it", "move it"),
        ("how do you move it", "move it"),
        ("how can i move it", "move it"),
        ("how can you move it ?", "move it"),
    ],
)
def test_every_opening_of_a_how_to_is_replaced(query: str, core: str) -> None:
    assert reworded(query, "how_to", "steps to {}") == f"steps to {core}"


@pytest.mark.parametrize(
    ("query", "core"),
    [
        ("what is a valve", "valve"),
        ("what are an hour's minutes", "hour's minutes"),
        ("what is the other thing?", "other thing"),
        ("what are animals", "animals"),
    ],
)
def test_every_opening_of_a_definition_is_replaced(query: str, core: str) -> None:
    assert reworded(query, "definition", "{} definition") == f"{core} definition"


@pytest.mark.parametrize(
    ("query", "style", "wording"),
    [
        ("which gene belongs to the illness", "definition", "define {}"),
        ("what is", "definition", "define {}"),
        ("what is the best way to move it", "how_to", "steps to {}"),
        ("who was he?", "question", _TELEGRAM),
        ("where is the harbour?", "question", _TELEGRAM),
        ("?", "heading", "what is {}?"),
        ("", "keywords", "{} help"),
    ],
)
def test_what_cannot_be_worded_so_stays(query: str, style: str, wording: str) -> None:
    assert reworded(query, style, wording) == query


def test_braces_in_a_query_are_text() -> None:
    assert reworded("the {} of {0} {name}", "heading", "{} overview") == (
        "the {} of {0} {name} overview"
    )


@pytest.mark.parametrize("style", STYLES)
def test_each_style_has_different_frames_with_one_place_for_the_query(style: str) -> None:
    frames = wordings_of(style)
    assert len(frames) > 4
    assert len(set(frames)) == len(frames)
    for frame in frames:
        if frame != _TELEGRAM:
            assert frame.count("{}") == 1
            assert not {"{", "}"} & set(frame.replace("{}", ""))
    # At most one frame may give back what the query is without it.
    changed = [
        frame for frame in frames if reworded(QUERIES[style], style, frame) != QUERIES[style]
    ]
    assert len(changed) >= len(frames) - 1


some_pairs = st.builds(
    lambda style, texts: [
        StyledPair(style, f"source {n}", query, document, n % 3 == 0)
        for n, (query, document) in enumerate(texts)
    ],
    st.sampled_from(STYLES),
    st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=5),
)


@given(pairs=some_pairs, share=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 999))
def test_only_queries_change(pairs: list[StyledPair], share: float, seed: int) -> None:
    before = list(pairs)
    found = alike(pairs, share, random.Random(seed))
    assert pairs == before
    assert [replace(pair, query="") for pair in found] == [
        replace(pair, query="") for pair in pairs
    ]


@given(pairs=some_pairs, seed=st.integers(0, 999))
def test_with_a_share_of_nothing_no_pair_and_no_draw_changes(
    pairs: list[StyledPair], seed: int
) -> None:
    order = random.Random(seed)
    assert alike(pairs, 0.0, order) == pairs
    assert order.getstate() == random.Random(seed).getstate()


@given(pairs=some_pairs, seed=st.integers(0, 999))
def test_with_a_share_of_all_one_wording_serves_the_sequence(
    pairs: list[StyledPair], seed: int
) -> None:
    found = [pair.query for pair in alike(pairs, 1.0, random.Random(seed))]
    possible = [
        [reworded(pair.query, pair.style, wording) for pair in pairs]
        for wording in (wordings_of(pairs[0].style) if pairs else [])
    ]
    assert found in possible or not pairs


@pytest.mark.parametrize("style", STYLES)
def test_every_wording_is_drawn_and_by_the_given_numbers_alone(style: str) -> None:
    pairs = pairs_of(style, 3)
    drawn = [alike(pairs, 1.0, random.Random(seed)) for seed in range(300)]
    for wording in wordings_of(style):
        worded = [reworded(pair.query, style, wording) for pair in pairs]
        assert worded in [[pair.query for pair in some] for some in drawn], wording
    random.seed(5)
    assert drawn == [alike(pairs, 1.0, random.Random(seed)) for seed in range(300)]
    random.seed(6)
    assert drawn == [alike(pairs, 1.0, random.Random(seed)) for seed in range(300)]


def test_half_of_the_sequences_are_worded_alike() -> None:
    pairs = pairs_of("statement", 3)
    changed = sum(alike(pairs, 0.5, random.Random(seed)) != pairs for seed in range(2000))
    # Five standard deviations; every frame changes a statement.
    assert 1000 - 112 < changed < 1000 + 112
