"""Exactly n rows for each document, retries, ids."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptar.config import AugmentConfig
from sptar.types import Document, Generation, WeakQuery
from sptar.weak.augment import (
    WeakQueryIds,
    augment_block,
    choose_prefix,
    weak_query_id,
    weak_query_to_row,
)

DOCUMENTS = [Document(f"d{number}", f"text {number}") for number in range(4)]


class ScriptedGenerator:
    """Answers from a table (document, number, attempt) → text, else from the request's name."""

    def __init__(self, script=None, cut=None):
        self.script = script or {}
        self.cut = cut or {}
        self.calls = []

    def generate(self, requests):
        self.calls.append([(r.document.doc_id, r.number, r.attempt) for r in requests])
        return [
            Generation(
                raw=self.script.get(name, f' "query {name[1]}.{name[2]} of {name[0]}?"'),
                log_probability=-1.5 - name[2],
                tokens=3 + name[2],
                stopped=True,
                cut_tokens=self.cut.get(name[0], 0),
            )
            for name in self.calls[-1]
        ]


def test_rows_in_document_order_with_all_fields():
    generator = ScriptedGenerator()
    rows = augment_block(DOCUMENTS, generator, AugmentConfig(queries_per_document=2))
    assert [(row.doc_id, row.query_id) for row in rows] == [
        (f"d{document}", f"weak:d{document}:{number}") for document in range(4) for number in (0, 1)
    ]
    assert rows[3].text == "query 1.0 of d1?"
    assert rows[3].raw == ' "query 1.0 of d1?"'
    assert (rows[3].attempts, rows[3].log_probability, rows[3].tokens) == (1, -1.5, 3)
    assert len(generator.calls) == 1


def test_empty_answers_are_tried_again_together():
    script = {("d1", 0, 0): "", ("d3", 0, 0): " ?", ("d3", 0, 1): "\nlate"}
    generator = ScriptedGenerator(script)
    rows = augment_block(DOCUMENTS, generator, AugmentConfig(max_attempts=3))
    assert generator.calls[1:] == [[("d1", 0, 1), ("d3", 0, 1)], [("d3", 0, 2)]]
    assert [row.attempts for row in rows] == [1, 2, 1, 3]
    assert rows[1].text == "query 0.1 of d1?"
    assert rows[3].text == "query 0.2 of d3?"
    assert (rows[3].log_probability, rows[3].tokens) == (-3.5, 5)


def test_what_stays_empty_stays_a_row():
    script = {("d2", 0, attempt): " ... " for attempt in range(2)}
    rows = augment_block(DOCUMENTS, ScriptedGenerator(script), AugmentConfig(max_attempts=2))
    assert [row.doc_id for row in rows] == ["d0", "d1", "d2", "d3"]
    assert (rows[2].text, rows[2].raw, rows[2].attempts) == ("", " ... ", 2)


def test_a_refused_document_is_a_row_with_its_reason_and_is_not_asked_again():
    class Refuses(ScriptedGenerator):
        def generate(self, requests):
            answers = super().generate(requests)
            return [
                Generation("", None, 0, False, refusal="400: no") if name[0] == "d1" else answer
                for name, answer in zip(self.calls[-1], answers, strict=True)
            ]

    generator = Refuses({("d2", 0, 0): ""})
    rows = augment_block(DOCUMENTS, generator, AugmentConfig(max_attempts=3))
    assert generator.calls[1:] == [[("d2", 0, 1)]]
    assert [row.doc_id for row in rows] == ["d0", "d1", "d2", "d3"]
    assert (rows[1].text, rows[1].attempts, rows[1].refusal) == ("", 1, "400: no")
    # Rows of engines that refuse nothing stay as they were, byte by byte.
    assert [weak_query_to_row(row).get("refusal", "-") for row in rows] == [
        "-",
        "400: no",
        "-",
        "-",
    ]


def test_greedy_is_asked_once():
    generator = ScriptedGenerator({("d2", 0, 0): ""})
    rows = augment_block(DOCUMENTS, generator, AugmentConfig(decoding="greedy", max_attempts=3))
    assert len(generator.calls) == 1
    assert (rows[2].text, rows[2].attempts) == ("", 1)


def test_no_documents():
    assert augment_block([], ScriptedGenerator(), AugmentConfig()) == []


def test_cut_documents_are_reported_once():
    told = []
    generator = ScriptedGenerator(cut={"d1": 17})
    augment_block(
        DOCUMENTS,
        generator,
        AugmentConfig(queries_per_document=3),
        on_cut=lambda document, tokens: told.append((document.doc_id, tokens)),
    )
    assert told == [("d1", 17)]


def test_a_generator_that_loses_answers_is_a_bug_that_shows():
    class Forgetful(ScriptedGenerator):
        def generate(self, requests):
            return super().generate(requests)[:-1]

    with pytest.raises(ValueError, match="3 answers to 4 requests"):
        augment_block(DOCUMENTS, Forgetful(), AugmentConfig())


def test_own_ids():
    rows = augment_block(DOCUMENTS, ScriptedGenerator(), AugmentConfig(), WeakQueryIds("weak2"))
    assert rows[0].query_id == "weak2:d0:0"


IDS = st.text(alphabet="weak2:0d", max_size=9)


@given(st.lists(IDS, max_size=8), IDS, st.integers(0, 9))
def test_ids_never_collide_with_known_ones(known, doc_id, number):
    prefix = choose_prefix(known)
    assert not any(known_id.startswith(prefix + ":") for known_id in known)
    assert weak_query_id(doc_id, number, prefix) not in known


@given(st.tuples(IDS, st.integers(0, 99)), st.tuples(IDS, st.integers(0, 99)))
def test_different_rows_have_different_ids(first, second):
    assert (weak_query_id(*first) == weak_query_id(*second)) == (first == second)


def test_the_published_cleaning_can_be_had():
    generator = ScriptedGenerator({("d0", 0, 0): " who pays 3.5, and why?"})
    rows = augment_block(DOCUMENTS[:1], generator, AugmentConfig(cleaning="reference"))
    assert rows[0].text == "who pays 35 and why"
    kept = augment_block(DOCUMENTS[:1], generator, AugmentConfig())
    assert kept[0].text == "who pays 3.5, and why?"


def test_an_answer_that_ran_into_its_limit_is_marked():
    class Endless(ScriptedGenerator):
        def generate(self, requests):
            return [
                replace(answer, stopped=request.document.doc_id != "d1")
                for request, answer in zip(requests, super().generate(requests), strict=True)
            ]

    rows = augment_block(DOCUMENTS, Endless(), AugmentConfig())
    assert [row.finished for row in rows] == [True, False, True, True]
    stored = [weak_query_to_row(row) for row in rows]
    assert [row.get("finished", True) for row in stored] == [True, False, True, True]
    assert [WeakQuery(**row) for row in stored] == rows
