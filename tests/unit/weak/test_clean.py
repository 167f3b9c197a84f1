"""Cleaning of generated queries."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sptar.weak.clean import clean_query, trim_repeats


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("what is glass made of?", "what is glass made of?"),
        ("  what\tis \u00a0 glass  ", "what is glass"),
        ("first line\nsecond line", "first line"),
        ("first line\r\nsecond line", "first line"),
        ("\nsecond line", ""),
        ("", ""),
        (" \t ", ""),
        ("?!", ""),
        ('""', ""),
        ("-", ""),
        ("Is 3.5 % enough, e.g. in the U.S.?", "Is 3.5 % enough, e.g. in the U.S.?"),
        ('"what is glass"', "what is glass"),
        ("“what is glass”", "what is glass"),
        ("'what is glass'", "what is glass"),
        ('"what is glass', "what is glass"),
        ("'tis the season", "'tis the season"),
        ('"glass" or "sand"', '"glass" or "sand"'),
        ('what is "glass"', 'what is "glass"'),
        ("what's the ferry's deck", "what's the ferry's deck"),
        ("1. what is glass", "1. what is glass"[3:]),
        ("(2) what is glass", "what is glass"),
        ("- what is glass", "what is glass"),
        ("• “what is glass”", "what is glass"),
        ("a) what is glass", "what is glass"),
        ('1. "- what is glass"', "what is glass"),
        ("3.5 mm jack", "3.5 mm jack"),
        ("1984 summary", "1984 summary"),
        ("-5 degrees", "-5 degrees"),
        ("C# list of lists", "C# list of lists"),
        ("为什么玻璃是透明的?", "为什么玻璃是透明的?"),
    ],
)
def test_examples(raw, clean):
    assert clean_query(raw) == clean


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("what is what is what is x", "what is x"),
        ("what is what is x", "what is x"),
        ("What is what IS x", "What is x"),
        ("how do cats purr how do cats purr how do", "how do cats purr"),
        ("how do cats purr how do cats", "how do cats purr how do cats"),
        ("the the the cat", "the cat"),
        ("he had had enough", "he had had enough"),
        ("is bora bora far", "is bora bora far"),
        ("a b a b c d c d", "a b c d"),
        ("x what is x? what is x? what is x?", "x what is x?"),
        ("no repeats here", "no repeats here"),
        ("one two three one two four", "one two three one two four"),
        ("go go go go go", "go"),
    ],
)
def test_repeats(raw, clean):
    assert trim_repeats(raw) == clean
    assert clean_query(raw) == clean


WORDS = st.lists(
    st.sampled_from(["a", "b", "the", "x?", '"', '"a', 'b"', "1.", "-", "(2)", "'", "“", "”"]),
    max_size=14,
).map(" ".join)


@given(st.text(max_size=60) | WORDS)
@example('"- “1. a b a b a”"')
@example("a a a b a a a b")
def test_cleaning_twice_is_cleaning_once(raw):
    once = clean_query(raw)
    assert clean_query(once) == once


@given(st.text(max_size=60) | WORDS)
def test_result_is_one_tidy_line_of_the_answer(raw):
    cleaned = clean_query(raw)
    assert cleaned == " ".join(cleaned.split())
    assert cleaned == "" or any(character.isalnum() for character in cleaned)
    # Nothing is invented: the words of the result stand in the answer, in this order.
    position = 0
    for word in cleaned.split():
        position = raw.index(word, position) + len(word)


def test_long_texts_take_no_long_time():
    words = [f"w{number}" for number in range(20_000)]
    text = " ".join(words)
    assert clean_query(text) == text
