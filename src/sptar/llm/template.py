"""The prompt as token ids: what stands in front of a query, and the query itself.

A prompt is put together from *segments* that are tokenised apart, without special tokens, and then
joined as ids. So tuning, scoring, prefix reuse and generation see the very same ids, and what all
documents share (:meth:`PromptTemplate.prefix_ids`) can be computed once.

With the default settings and one example the text is, as in the paper (section on soft prompt
tuning), ``Document: {d1} \\n Relevant Query: {q1} \\n Document: {d} \\n Relevant Query: {q} \\n``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sptar.config import PromptConfig
from sptar.errors import ConfigError
from sptar.llm.loading import LanguageModel
from sptar.methods import TARGET, WORDINGS
from sptar.types import Document, Pair

__all__ = ["DocumentTokens", "PromptTemplate", "bad_question", "query_text"]

_LEAST_DOCUMENT_TOKENS = 8
_BAD_QUESTION_TOKENS = 16
_QUERY_TOKENS = 64
"""Room for a query where neither the config nor labelled queries say how much it takes."""


@dataclass(frozen=True, slots=True)
class DocumentTokens:
    """A document in the prompt, labels included.

    ``cut_tokens`` of its text did not fit the token budget, after ``cut_words`` had been left out
    by ``prompt.max_document_words``.
    """

    ids: list[int]
    cut_tokens: int
    cut_words: int = 0


def bad_question(document: Document) -> str:
    """A generic question that shows what not to write: "What about" and the first three words.

    It names words of the document without asking anything that the document answers, and depends
    on nothing but the document.

    >>> bad_question(Document("d", "Cork oaks are peeled every nine years."))
    'What about Cork oaks are?'
    >>> bad_question(Document("d", ""))
    'What about this?'
    """
    words = document.full_text.split()[:3] or ["this"]
    return f"What about {' '.join(words).rstrip('.,;:!?')}?"


def _one_line(text: str) -> str:
    """White space, newlines included, as single blanks: a newline would end the row."""
    return " ".join(text.split())


def query_text(text: str) -> str:
    """A query as it stands behind its label: one line, a blank in front; empty without text."""
    line = _one_line(text)
    return f" {line}" if line else ""


class PromptTemplate:
    """Turns examples, documents and queries into ids for one language model.

    Args:
        language_model: whose tokenizer and context count.
        prompt: labels, separator and budgets; ``prompt.examples`` is M.
        style: the method in :data:`~sptar.methods.WORDINGS` whose wording it has.
        virtual_tokens: positions that the soft prompt takes (0 for none).
        max_new_tokens: positions that a generated query may take.

    Attributes:
        max_query_tokens: tokens of a query that are read, as target or in an example.
        document_budget: tokens of each document's text that fit, the examples' included;
            ``None`` when neither the model nor the config sets a limit.
        end_of_query_ids: what ends a query: the separator up to its newline, or the end token for
            tokenizers without a newline.

    Raises:
        ConfigError: the style is unknown, or the settings leave less than 8 tokens for a document.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        prompt: PromptConfig,
        style: str = TARGET.name,
        *,
        virtual_tokens: int,
        max_new_tokens: int,
    ) -> None:
        if style not in WORDINGS:
            raise ConfigError(f"Unknown prompt style '{style}'; known are: {', '.join(WORDINGS)}.")
        self.language_model = language_model
        self.prompt = prompt
        self.style = style
        self.virtual_tokens = virtual_tokens
        self.max_new_tokens = max_new_tokens
        self.max_query_tokens = prompt.max_query_tokens or _QUERY_TOKENS
        row = WORDINGS[style]
        encode = language_model.encode
        end, tail = self._split_separator()
        self.end_of_query_ids = end
        # The blank behind the newline belongs to the next word, as the tokenizer would have it.
        self._opening = encode(prompt.document_label)
        self._next_opening = encode(tail + prompt.document_label)
        self._closing = encode(prompt.separator + (row.query_label or prompt.query_label))
        self._bad_label = encode(tail + row.bad_query_label) if row.bad_query_label else []
        self._instruction = encode(row.instruction) + end if row.instruction else []
        self._tail = tail
        self.document_budget = self._share_out_context()

    def _split_separator(self) -> tuple[list[int], str]:
        """The ids that end a query, and the text of the separator behind them."""
        model, separator = self.language_model, self.prompt.separator
        head, newline, tail = separator.partition("\n")
        if newline:
            ids = model.encode(head + newline)
            if ids and ids[-1] in model.stop_token_ids:
                return ids, tail
        if model.newline_token_id is not None:
            return [model.newline_token_id], separator if not newline else tail
        return [model.end_token_id], separator if not newline else tail

    def _header(self, number: int, *, first: bool) -> list[int]:
        """What stands between the block before and the text of document ``number``, from 1."""
        row = WORDINGS[self.style]
        if row.numbered and self.prompt.examples:
            text = f"Example {number}:"
            opened = self.language_model.encode(text if first else self._tail + text)
            return [*opened, *self.end_of_query_ids, *self._next_opening]
        return self._opening if first else self._next_opening

    def _starts_prompt(self, number: int) -> bool:
        return number == 1 and not self._instruction

    def _query_budget(self) -> int:
        return self.max_query_tokens + len(self.end_of_query_ids)

    def _share_out_context(self) -> int | None:
        prompt, context = self.prompt, self.language_model.context_tokens
        blocks = prompt.examples + 1
        labels = [
            len(self._header(number, first=self._starts_prompt(number))) + len(self._closing)
            for number in range(1, blocks + 1)
        ]
        example_query = self._query_budget()
        if self._bad_label:
            example_query += (
                len(self._bad_label) + _BAD_QUESTION_TOKENS + len(self.end_of_query_ids)
            )
        answer = max(self.max_new_tokens, self._query_budget())
        fixed = len(self.language_model.begin_token_ids) + len(self._instruction) + labels[-1]
        examples = sum(labels[:-1]) + prompt.examples * example_query
        if context is None:
            return prompt.max_document_tokens
        budget = (context - self.virtual_tokens - fixed - answer - examples) // blocks
        if prompt.max_document_tokens is not None and prompt.max_document_tokens <= budget:
            return prompt.max_document_tokens
        if prompt.max_document_tokens is None and budget >= _LEAST_DOCUMENT_TOKENS:
            return budget
        answer_name = (
            "augment.max_new_tokens"
            if self.max_new_tokens >= self._query_budget()
            else "prompt.max_query_tokens"
        )
        consumers = sorted(
            [
                (self.virtual_tokens, "tune.virtual_tokens", self.virtual_tokens),
                (answer, answer_name, max(self.max_new_tokens, self.max_query_tokens)),
                (examples, "prompt.examples", prompt.examples),
            ],
            key=lambda consumer: -consumer[0],
        )
        (_, first, first_value), (_, second, second_value), _ = consumers
        if prompt.max_document_tokens is not None:
            second, second_value = "prompt.max_document_tokens", prompt.max_document_tokens
        raise ConfigError(
            f"`{first}: {first_value}` and `{second}: {second_value}` contradict each other: the "
            f"{context} tokens that {self.language_model.config.name} can see leave "
            f"{max(budget, 0)} for each of {blocks} documents.",
            hint="Lower one of them, or take a model with a longer context.",
        )

    def prefix_ids(self, examples: Sequence[Pair]) -> list[int]:
        """Everything that is the same for every document, up to the last document's label.

        Begin tokens, the style's instruction, and the example pairs, each ended like a query.

        Raises:
            ValueError: more examples than ``prompt.examples`` made room for.
        """
        if len(examples) > self.prompt.examples:
            raise ValueError(
                f"{len(examples)} examples where room was made for {self.prompt.examples}"
            )
        ids = [*self.language_model.begin_token_ids, *self._instruction]
        for number, pair in enumerate(examples, start=1):
            ids += self._header(number, first=self._starts_prompt(number))
            ids += self._text_ids(pair.document)[0]
            ids += self._closing
            ids += self.query_ids(pair.query.text)
            if self._bad_label:
                ids += self._bad_label
                bad = self.language_model.encode(" " + bad_question(pair.document))
                ids += bad[:_BAD_QUESTION_TOKENS] + self.end_of_query_ids
        return ids

    def _text_ids(self, document: Document) -> tuple[list[int], int, int]:
        """Ids of a document's text, and how many tokens and words of it were cut."""
        words = document.full_text.split()
        kept = words[: self.prompt.max_document_words]
        ids = self.language_model.encode(" " + " ".join(kept)) if kept else []
        cut_tokens = 0
        if self.document_budget is not None and len(ids) > self.document_budget:
            cut_tokens = len(ids) - self.document_budget
            ids = ids[: self.document_budget]
        return ids, cut_tokens, len(words) - len(kept)

    def document_ids(self, document: Document) -> DocumentTokens:
        """The document to write a query for, with the labels around it.

        Only its text is cut: first to ``prompt.max_document_words`` words, then to
        :attr:`document_budget` tokens. Newlines in it become blanks.
        """
        number = self.prompt.examples + 1
        text, cut_tokens, cut_words = self._text_ids(document)
        header = self._header(number, first=self._starts_prompt(number))
        return DocumentTokens([*header, *text, *self._closing], cut_tokens, cut_words)

    def query_ids(self, text: str) -> list[int]:
        """The query of an example: its tokens as they follow the label, and the end of the query.

        The text is cut to :attr:`max_query_tokens`; the end comes on top of them, because the next
        block begins behind it.
        """
        return self._query(text)[: self.max_query_tokens] + self.end_of_query_ids

    def target_ids(self, text: str) -> list[int]:
        """The query as target, which ends like an example's only where all of it is there.

        An end behind a cut query would teach the model to stop in the middle of a sentence. The
        published code has no end at all; a loss that ends on it teaches the model when to stop.
        """
        ids = self._query(text)
        if len(ids) > self.max_query_tokens:
            return ids[: self.max_query_tokens]
        return ids + self.end_of_query_ids

    def query_is_cut(self, text: str) -> bool:
        """Whether a part of this query is left out."""
        return len(self._query(text)) > self.max_query_tokens

    def _query(self, text: str) -> list[int]:
        written = query_text(text)
        return self.language_model.encode(written) if written else []

    def decode(self, ids: Sequence[int]) -> str:
        """The first line of generated ids as text, without its stop token.

        Undoes :meth:`query_ids` for plain text (lower-cased by lower-casing tokenizers).
        """
        model = self.language_model
        kept: list[int] = []
        for token_id in ids:
            if token_id in model.stop_token_ids:
                # A token may hold text in front of its newline, such as "?\n".
                kept += [token_id] if token_id not in self._end_tokens() else []
                break
            kept.append(token_id)
        text: str = model.tokenizer.decode(kept, skip_special_tokens=True)
        return text.split("\n", 1)[0].strip()

    def _end_tokens(self) -> set[int]:
        return {self.language_model.end_token_id, *self.end_of_query_ids[-1:]}
