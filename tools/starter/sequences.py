"""Training sequences: pairs of one style, in the method's own template."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pairs import StyledPair
from text_rows import one_line

from sptar.config import PromptConfig
from sptar.errors import ConfigError, DataError
from sptar.io import read_jsonl
from sptar.llm.loading import LanguageModel

IGNORED = -100
"""Target of a token that is read and not asked for."""

_REMEMBERED_TEXTS = 400_000


@dataclass(frozen=True)
class TokenSequence:
    """Token ids, the targets at the same places, and where each query begins and ends."""

    ids: list[int]
    targets: list[int]
    queries: list[tuple[int, int]]


class Words:
    """The tokenizer of a language model with a memory: a text is drawn again and again.

    Other processes get the tokenizer without the weights, and begin with an empty memory.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = replace(model, model=None)
        self._known: dict[str, array[int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "_known": {}}

    def __call__(self, text: str) -> array[int]:
        """Ids of a text on one line, as it follows a label."""
        ids = self._known.get(text)
        if ids is None:
            # Four bytes for a token, where a list of numbers takes tens.
            line = one_line(text)
            ids = array("i", self.model.encode(" " + line) if line else [])
            if len(self._known) < _REMEMBERED_TEXTS:
                self._known[text] = ids
        return ids


class Template:
    """The ids of the prompt, as :class:`sptar.llm.template.PromptTemplate` joins them.

    That class serves one prompt at a time; this one keeps the labels' ids, and a test holds the two
    together.

    Attributes:
        words: the tokenizer.
        document_tokens: a document is cut to so many.
        query_tokens: a query is cut to so many; its end comes on top.
    """

    def __init__(self, model: LanguageModel, document_tokens: int, query_tokens: int) -> None:
        prompt = PromptConfig()
        self.words = Words(model)
        self.document_tokens = document_tokens
        self.query_tokens = query_tokens
        head, newline, tail = prompt.separator.partition("\n")
        self._end = model.encode(head + newline)
        if not self._end or self._end[-1] not in model.stop_token_ids:
            lonely = model.newline_token_id
            self._end = [model.end_token_id if lonely is None else lonely]
        self._begin = list(model.begin_token_ids)
        self._opening = model.encode(prompt.document_label)
        self._next = model.encode(tail + prompt.document_label)
        self._closing = model.encode(prompt.separator + prompt.query_label)

    def share(self, limit: int, pairs: int) -> int:
        """Tokens that each document of ``pairs`` pairs can have within ``limit``, at most
        :attr:`document_tokens`.

        Raises:
            ConfigError: not even 8 are left.
        """
        labels = max(len(self._opening), len(self._next)) + len(self._closing) + len(self._end)
        room = (limit - len(self._begin)) // pairs - labels - self.query_tokens
        if room < 8:
            raise ConfigError(
                f"`sequence_tokens: {limit}` leaves {max(room, 0)} tokens for each of {pairs} "
                "documents.",
                hint="Raise it, or lower `query_tokens`.",
            )
        return min(self.document_tokens, room)

    def sequence(self, pairs: Sequence[StyledPair], limit: int) -> TokenSequence:
        """As many of the pairs as fit into ``limit`` tokens, the first in any case.

        Each query with its end is a target.
        """
        ids = list(self._begin)
        targets = [IGNORED] * len(ids)
        queries: list[tuple[int, int]] = []
        for pair in pairs:
            text, query = self._block(pair, self.document_tokens, first=not queries)
            if queries and len(ids) + len(text) + len(query) > limit:
                break
            begin = len(ids) + len(text)
            ids += text + query
            targets += [IGNORED] * len(text) + query
            queries.append((begin, len(ids)))
        return TokenSequence(ids, targets, queries)

    def question(self, pairs: Sequence[StyledPair], document_tokens: int) -> TokenSequence:
        """All of the pairs, of which only the last query is a target.

        Every document is cut to ``document_tokens``, so that the last pair looks the same behind
        any number of examples.
        """
        ids = list(self._begin)
        for number, pair in enumerate(pairs):
            text, query = self._block(pair, document_tokens, first=number == 0)
            begin = len(ids) + len(text)
            ids += text + query
        return TokenSequence(ids, [IGNORED] * begin + ids[begin:], [(begin, len(ids))])

    def _block(
        self, pair: StyledPair, document_tokens: int, *, first: bool
    ) -> tuple[list[int], list[int]]:
        """What stands up to the query, and the query with its end."""
        opening = self._opening if first else self._next
        document = self.words(pair.document)[:document_tokens]
        query = self.words(pair.query)[: self.query_tokens]
        return [*opening, *document, *self._closing], [*query, *self._end]


class PairStore:
    """The pairs by style and source. Draws depend on the seed and the number of the draw alone.

    Raises:
        ConfigError: no pair has a style with a weight above 0.
    """

    def __init__(self, pairs: Iterable[StyledPair], weights: Mapping[str, float]) -> None:
        self._by_style: dict[str, dict[str, list[StyledPair]]] = {}
        for pair in pairs:
            self._by_style.setdefault(pair.style, {}).setdefault(pair.source, []).append(pair)
        self._styles = [style for style in sorted(self._by_style) if weights.get(style, 0) > 0]
        self._weights = [weights[style] for style in self._styles]
        if not self._styles:
            raise ConfigError("None of the pairs has a style that `styles` asks for.")

    @property
    def styles(self) -> list[str]:
        """Those that are drawn."""
        return self._styles

    def count(self, style: str) -> int:
        """How many pairs have this style."""
        return sum(map(len, self._by_style[style].values()))

    def draw(self, order: random.Random, count: int, style: str | None = None) -> list[StyledPair]:
        """Different pairs of one style and mostly of one source; fewer where there are fewer."""
        style = style or order.choices(self._styles, self._weights)[0]
        sources = self._by_style[style]
        names = sorted(sources)
        # By the square root of their size: a large source does not drown the others.
        source = order.choices(names, [len(sources[name]) ** 0.5 for name in names])[0]
        pool = sources[source]
        if len(pool) < count or order.random() < 0.2:
            pool = [pair for name in names for pair in sources[name]]
        return order.sample(pool, min(count, len(pool)))


@dataclass(frozen=True)
class SplitPairs:
    """What is trained, and what is kept aside to measure by."""

    trained: list[StyledPair]
    held_out: list[StyledPair]


def load_pairs(path: Path) -> SplitPairs:
    """Read the file that ``pairs.py`` wrote, packed (``.xz``, ``.gz``) or not.

    Raises:
        DataError: the file is missing or damaged, or lacks pairs to train or to measure by.
    """
    pairs = [StyledPair(**row) for _, row in read_jsonl(path)]
    split = SplitPairs(
        [pair for pair in pairs if not pair.held_out], [pair for pair in pairs if pair.held_out]
    )
    if not split.trained or not split.held_out:
        raise DataError("pairs to train and held-out pairs are needed.", path=path)
    return split
