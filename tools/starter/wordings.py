"""Ways to word the queries of one sequence alike, so that examples say more than a style's name."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from pairs import StyledPair, content_words

_PHRASES = (
    "what is {}?",
    "what does {} mean",
    "{} meaning",
    "{} examples",
    "{} overview",
    "{} explained simply",
    "how does {} work",
    "tell me about {}",
    "where can i read about {}",
    "help with {}",
    "need info on {} please",
    "questions about {}",
    "looking for {}",
    "{}?",
)
_KEYWORDS = ("{}?", "{} help", "find {}", "looking for {}", "info on {}", "{} problem", "about {}")
_ACTIONS = (
    "how to {}?",
    "how do i {}?",
    "steps to {}",
    "{}",
    "can i {}",
    "i want to {}",
    "is it possible to {}?",
    "what is the best way to {}",
    "please help me {}",
    "i need to {} but don't know how",
    "am i able to {} or not",
)
_QUESTIONS = (
    "{}?",
    "{} ?",
    "question: {}",
    "hello, {}?",
    "do you know {}",
    "{}, please explain",
    "can anyone tell me {}?",
    "i would like to know {}",
    "not sure {}",
)
_TERMS = (
    "what is {}?",
    "define {}",
    "{} definition",
    "{}",
    "what does {} mean?",
    "meaning of {}",
    "{} explained",
    "i have never heard of {}",
)
_CLAIMS = (
    "{}.",
    "is it true that {}?",
    "claim: {}",
    "i read that {}",
    "show that {}",
    "evidence that {}",
    "{}, right?",
)
_TELEGRAM = "only the telling words"
"""Not a frame: everything but the telling words is left out."""

_FRAMES: dict[str, tuple[str, ...]] = {
    "title": _PHRASES,
    "heading": _PHRASES,
    "keywords": _KEYWORDS,
    "how_to": (*_ACTIONS, _TELEGRAM),
    "definition": _TERMS,
    "question": (*_QUESTIONS, _TELEGRAM),
    "exercise": (*_QUESTIONS, _TELEGRAM),
    "statement": (*_CLAIMS, _TELEGRAM),
}
_OPENINGS = {
    "how_to": re.compile(r"^how (?:to|do i|do you|can i|can you) "),
    "definition": re.compile(r"^what (?:is|are) (?:the |an? )?"),
}
"""What a frame takes the place of."""


def wordings_of(style: str) -> tuple[str, ...]:
    """The ways to word queries of a style: texts in which ``{}`` stands for the query's core."""
    return _FRAMES[style]


def reworded(query: str, style: str, wording: str) -> str:
    """A query of a style in one of :func:`wordings_of` that style.

    What cannot be worded so (a question without telling words, a definition that asks for something
    else) stays as it is.
    """
    if wording == _TELEGRAM:
        words = content_words(query)
        return " ".join(words) if len(words) >= 2 else query
    core = query.rstrip(" .?!")
    if (opening := _OPENINGS.get(style)) is not None:
        found = opening.match(core)
        if found is None:
            return query
        core = core[found.end() :]
    return wording.format(core) if core else query


def alike(pairs: Sequence[StyledPair], share: float, order: random.Random) -> list[StyledPair]:
    """The pairs of one sequence, with probability ``share`` all in one wording of their style.

    A share of 0 draws no number: ``order`` goes on as if this had not been asked.
    """
    if not pairs or not share or order.random() >= share:
        return list(pairs)
    style = pairs[0].style
    wording = order.choice(wordings_of(style))
    return [replace(pair, query=reworded(pair.query, style, wording)) for pair in pairs]
