"""Pairs of open text: styles, what BM25 does not find, and pages that are never trained."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pairs import STYLES, StyledPair, _instruction, build, content_words, retrievable, statement
from starter_text import passage_rows, question_rows
from text_rows import KeptAside, held_out, page_of, plain

SCRIPT = Path(__file__).parents[3] / "tools" / "starter" / "pairs.py"


def test_every_style_is_made(pairs_file: Path) -> None:
    rows = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    assert {row["style"] for row in rows} == set(STYLES)
    wording = {row["style"]: row["query"] for row in rows}
    assert wording["how_to"].startswith("how ")
    assert " move the " in wording["how_to"]
    assert wording["definition"].startswith("what is ")
    assert wording["exercise"].startswith("why must the ")


def test_nothing_of_a_held_out_document_is_trained(text_folder: Path) -> None:
    found = build(text_folder, rank=1000, seed=0)
    aside = {pair.document for pair in found.pairs if pair.held_out}
    trained = {pair.document for pair in found.pairs if not pair.held_out}
    assert aside
    assert trained
    assert not aside & trained
    # Statements leave a sentence out, so the rows behind the documents are compared as well.
    rows = [row for row in [*passage_rows(), *question_rows()] if "text" in row]
    pages = {row["text"]: False for row in rows}
    for row in rows:
        pages[row["text"]] |= held_out(page_of(row))
    for row in passage_rows():
        first = row["text"].split(". ")[0]
        whole = [pair for pair in found.pairs if first in pair.document]
        assert whole
        if pages[row["text"]]:
            assert all(pair.held_out for pair in whole)


def test_a_copy_of_a_held_out_page_is_kept_aside_under_any_title() -> None:
    rows = [{"source": "a", "headings": [f"page {n}"], "text": f"text {n}"} for n in range(300)]
    aside = KeptAside([*rows, *({**row, "headings": ["another"]} for row in rows)])
    kept = [row for row in rows if held_out(page_of(row))]
    assert 0 < len(kept) < 30
    for row in kept:
        assert aside({**row, "headings": ["another"]})
        assert aside({**row, "text": f"  {row['text']} "})
    assert not aside(next(row for row in rows if row not in kept))


def test_held_out_is_about_one_page_in_fifty() -> None:
    assert 140 < sum(held_out(f"page {number}") for number in range(10_000)) < 260


def test_pairs_that_bm25_does_not_find_are_left_out_and_counted() -> None:
    documents = [f"alpha beta word{number} gamma" for number in range(5)]
    pairs = [
        *(StyledPair("heading", "s", f"word{n}", documents[n], False) for n in range(5)),
        StyledPair("question", "s", "word3 alpha", documents[3], False),
        # Equal scores: the document's place decides, and it is the last of five.
        StyledPair("question", "s", "alpha beta", documents[4], False),
        StyledPair("title", "s", "nothing in common", documents[0], False),
        StyledPair("exercise", "s", "nothing in common", documents[1], False),
    ]
    counts: Counter[str] = Counter()
    kept = retrievable(pairs, 3, counts)
    assert [pair.style for pair in kept] == [*["heading"] * 5, "question", "exercise"]
    assert kept[5].query == "word3 alpha"
    assert counts == {
        "question: kept": 1,
        "question: not found by BM25": 1,
        "title: not found by BM25": 1,
        "exercise: kept": 1,
        "heading: kept": 5,
    }


def test_the_same_text_and_seed_give_the_same_pairs(text_folder: Path) -> None:
    first, again = (build(text_folder, rank=10, seed=0) for _ in range(2))
    assert first == again
    assert build(text_folder, rank=10, seed=1).pairs != first.pairs
    kept = sum(count for name, count in first.counts.items() if name.endswith(": kept"))
    assert kept - first.counts["the same pair again"] == len(first.pairs)
    assert first.counts["held out"] == sum(pair.held_out for pair in first.pairs)


def test_the_script_writes_pairs_and_statistics(text_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--text", str(text_folder), "--limit", "8"]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, capture_output=True)
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert pairs
    counts = json.loads((tmp_path / "statistics.json").read_text())
    assert sum(n for name, n in counts.items() if name.endswith(": kept")) >= len(pairs)


@pytest.mark.parametrize(
    ("heading", "text"),
    [
        ("**Install** the `widget`:", "install the widget"),
        ("New-Mailbox | Microsoft Docs", "new-mailbox"),
        ("What   is <b>this</b>?", "what is this?"),
    ],
)
def test_headings_become_plain(heading: str, text: str) -> None:
    assert plain(heading) == text


@pytest.mark.parametrize(
    ("heading", "end"),
    [
        ("installing the widget", "install the widget"),
        ("how to create a thing", "create a thing"),
        ("running", "run"),
        ("to add", "add"),
        ("widget parts", None),
    ],
)
def test_instructions_begin_with_a_verb(heading: str, end: str | None) -> None:
    found = _instruction(heading, random.Random(0))
    assert (found is None) == (end is None)
    if found is not None and end is not None:
        assert found.startswith("how ")
        assert found.endswith(" " + end)


def test_a_statement_is_a_sentence_of_its_document_or_was_taken_out() -> None:
    text = (
        "Short one here. The keeper of the old harbour paints his boat in the early spring. "
        "Another short one."
    )
    outcomes = set()
    for number in range(20):
        claim = statement(text, random.Random(number))
        assert claim is not None
        assert claim.query == "the keeper of the old harbour paints his boat in the early spring"
        outcomes.add(claim.document)
    assert outcomes == {text, "Short one here. Another short one."}
    assert statement("One sentence only.", random.Random(0)) is None


def test_content_words_leave_small_words_out() -> None:
    assert content_words("What is the C++ standard's use of node.js?") == [
        "c++",
        "standard's",
        "node.js",
    ]
