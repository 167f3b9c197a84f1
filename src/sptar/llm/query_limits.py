"""How long a query may be, read off the labelled queries where the config does not say.

A limit below the length of real queries teaches a model to write beginnings; one far above it lets
a model that has lost its thread write on, and takes room from the documents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sptar.config import PromptConfig
from sptar.llm.loading import LanguageModel
from sptar.llm.template import query_text

__all__ = ["QueryLimits", "hosted_new_tokens", "query_limits"]

_LEAST_NEW_TOKENS = 32
_MOST_HOSTED_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """Tokens of a query that are read (target, example), and that may be written.

    ``longest`` is what the longest labelled query takes.
    """

    read: int
    written: int
    longest: int


def query_limits(
    model: LanguageModel,
    prompt: PromptConfig,
    max_new_tokens: int | None,
    labelled: Iterable[str],
) -> QueryLimits:
    """The limits of a run: what the config says, else what the labelled queries are.

    By default a query may be as long as the longest labelled one, and a written one twice as long
    (32 tokens at least). Neither may take more than a quarter of the model's context, the queries
    of all examples together.
    """
    longest = max((len(model.encode(query_text(text))) for text in labelled), default=1)
    read, written = max(1, longest), max(_LEAST_NEW_TOKENS, 2 * longest)
    if model.context_tokens is not None:
        quarter = model.context_tokens // 4
        read = max(1, min(read, quarter // (prompt.examples + 1)))
        written = max(1, min(written, quarter))
    return QueryLimits(
        read if prompt.max_query_tokens is None else prompt.max_query_tokens,
        written if max_new_tokens is None else max_new_tokens,
        longest,
    )


def hosted_new_tokens(max_new_tokens: int | None, labelled: Iterable[str]) -> int:
    """Tokens that a server whose tokenizer is not at hand may write.

    By default as many as half the bytes of the longest labelled query: about twice its tokens.

    >>> hosted_new_tokens(None, ["x" * 100, "what is glass"])
    50
    >>> hosted_new_tokens(None, ["what is glass"]), hosted_new_tokens(7, ["what is glass"])
    (32, 7)
    """
    if max_new_tokens is not None:
        return max_new_tokens
    longest = max((len(query_text(text).strip().encode()) for text in labelled), default=0)
    return min(max(_LEAST_NEW_TOKENS, longest // 2), _MOST_HOSTED_TOKENS)
