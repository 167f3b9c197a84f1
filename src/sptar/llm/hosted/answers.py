"""Reads a server's answer, whatever it holds: a completion, or a completion that says why not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Completion", "completion_of", "refused"]

_FORM = "the answer has another form than expected"


@dataclass(frozen=True, slots=True)
class Completion:
    """What a server wrote.

    ``tokens`` and ``log_probability`` (natural log, summed over those tokens) are ``None`` when
    the server does not tell; ``stopped`` is false where the server says that the budget of tokens
    ended the text; ``refusal`` is why there is no text that could be used.
    """

    text: str
    tokens: int | None
    log_probability: float | None
    stopped: bool
    refusal: str | None = None


def refused(reason: str) -> Completion:
    """No text, and why."""
    return Completion("", None, None, stopped=False, refusal=reason)


def completion_of(answer: Any, interface: Literal["completions", "chat"]) -> Completion:
    """The completion in a decoded JSON answer; one with a ``refusal`` when there is none.

    Servers differ, and proxies stand in front of them: nothing that an answer may hold is an
    error here. A log-probability that is no finite number is not known.

    >>> completion_of({"choices": [{"text": 42}]}, "completions").refusal
    "the answer's text is a number"
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return refused(f"{_FORM}: it holds no 'choices'")
    if interface == "chat":
        message = choice.get("message")
        if not isinstance(message, dict):
            return refused(f"{_FORM}: it holds no 'message'")
        if isinstance(message.get("refusal"), str) and message["refusal"]:
            return refused(f"the model refuses: {_whole_characters(message['refusal'])}")
        given = message.get("content")
    elif "text" in choice:
        given = choice["text"]
    else:
        return refused(f"{_FORM}: it holds no 'text'")
    if choice.get("finish_reason") == "content_filter":
        return refused("the server's content filter")
    text = _text(given)
    if text is None:
        return refused(f"the answer's text is {_kind(given)}")
    return Completion(
        text=_whole_characters(text),
        tokens=_count(answer.get("usage")),
        log_probability=_log_probability(choice.get("logprobs")),
        stopped=choice.get("finish_reason") != "length",
    )


def _text(given: Any) -> str | None:
    """The text of an answer, which chat servers may give in parts."""
    if given is None:
        return ""
    if isinstance(given, str):
        return given
    if isinstance(given, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in given]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "".join(texts)
    return None


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"


def _whole_characters(text: str) -> str:
    """Half characters (lone surrogates), which no file can hold, become the sign for them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(usage: Any) -> int | None:
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if not isinstance(tokens, int) or isinstance(tokens, bool):
        return None
    return tokens if 0 <= tokens < 2**31 else None


def _log_probability(logprobs: Any) -> float | None:
    if not isinstance(logprobs, dict):
        return None
    if logprobs.get("token_logprobs"):
        values = logprobs["token_logprobs"]
    elif isinstance(logprobs.get("content"), list):
        values = [
            item.get("logprob", "none") if isinstance(item, dict) else "none"
            for item in logprobs["content"]
        ]
    else:
        return None
    if not isinstance(values, list):
        return None
    known = [value for value in values if value is not None]
    if not known or any(isinstance(v, bool) or not isinstance(v, int | float) for v in known):
        return None
    try:
        total = float(sum(known))
    except OverflowError:
        return None
    return total if math.isfinite(total) else None
