"""A text folder of made-up help pages: small, and with every kind of row that the real one has."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

PAGES = 60
_THINGS = ("valve", "ladder", "kettle", "bridge", "lantern", "anchor", "violin", "compass", "loom")
_PLACES = ("harbour", "attic", "meadow", "station", "cellar", "library", "garden", "workshop")
_COLOURS = ("red", "green", "amber", "violet", "silver", "copper", "ivory")


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with lzma.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def _passage(number: int, part: str, headings: list[str], source: str) -> dict[str, Any]:
    thing, place = _THINGS[number % len(_THINGS)], _PLACES[number % len(_PLACES)]
    colour = _COLOURS[number % len(_COLOURS)]
    text = (
        f"The {colour} {thing} number {number} stands in the {place} during {part}. "
        f"Whoever wants to move this {thing} must first ask the keeper of the {place} there. "
        f"On wet days the {colour} paint of every {thing} gets soft and needs a cover. "
        f"In {part} the {place} closes early, so bring the {thing} back before noon."
    )
    return {"source": source, "licence": "CC BY 4.0", "headings": headings, "text": text}


def passage_rows() -> list[dict[str, Any]]:
    """Two passages for each page, its parts worded as a verb and as a noun; some of textbooks."""
    rows = []
    for number in range(PAGES):
        source = "openstax/keeping" if number % 3 == 0 else "guides/keeping"
        thing, place = _THINGS[number % len(_THINGS)], _PLACES[number % len(_PLACES)]
        title = f"Keeping {thing} {number} of the {place}"
        rows += [
            _passage(number, "winter", [title, f"Moving the {thing} {number} in winter"], source),
            _passage(number, "summer", [title, f"{thing} {number} paint and cover"], source),
        ]
    rows.append(_passage(PAGES, "spring", [], "guides/keeping"))
    # The same words under another title: held out with the first page, if that one is.
    rows += [
        {**row, "headings": ["A mirror of another page", row["headings"][-1]]} for row in rows[:40]
    ]
    return rows


def question_rows() -> list[dict[str, Any]]:
    """Questions with an answer, terms, and exercises without a text."""
    rows: list[dict[str, Any]] = []
    for number in range(PAGES):
        thing = _THINGS[number % len(_THINGS)]
        answer = f"Illness {number} of the {thing} makes the {thing} {number} creak at night a lot."
        rows += [
            {"source": "medquad", "question": f"{start} illness {number} ?", "text": answer}
            for start in ("What is (are)", "How does one notice")
        ]
        rows.append(
            {
                "source": "openstax/keeping",
                "term": f"{thing} law {number}",
                "text": f"the rule that a {thing} of size {number} is never left alone outside",
            }
        )
        rows.append(
            {
                "source": "openstax/keeping",
                "question": f"Why must the {thing} {number} be covered on wet days?",
                "headings": [f"Keeping {thing} {number}"],
            }
        )
    return [{"licence": "CC BY-SA 4.0", **row} for row in rows]


def write_text_folder(folder: Path) -> Path:
    """Write both files; returns the folder."""
    _write(folder / "passages.jsonl.xz", passage_rows())
    _write(folder / "questions.jsonl.xz", question_rows())
    return folder
