"""Pairs of a document and a query in several styles, from open text.

    python tools/starter/pairs.py --text TEXT --out WORK/pairs

Reads ``passages.jsonl.xz`` and ``questions.jsonl.xz`` of the folder TEXT and writes one JSON line
for each pair: ``style``, ``source``, ``query``, ``document``, ``held_out``. A pair is kept when
BM25 finds the document among the best ``--rank`` for its query, over the documents of all pairs:
that is what a weak query is asked for later. How many were kept and left out is counted in
``statistics.json``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from command import run_command
from text_rows import (
    MOST_WORDS,
    KeptAside,
    Row,
    asked,
    one_line,
    passages,
    plain,
    questions,
)

from sptar.io import write_json, write_jsonl
from sptar.retrieval.lexical.bm25 import Bm25Index
from sptar.types import Document

STYLES = (
    "title",
    "heading",
    "keywords",
    "how_to",
    "definition",
    "question",
    "statement",
    "exercise",
)
"""How a query is worded. Within one training sequence all pairs share a style."""

_LISTS = yaml.safe_load(Path(__file__).with_name("word_lists.yaml").read_text(encoding="utf-8"))
_SECTION_WORDS, _SMALL_WORDS, _VERBS = (
    frozenset(str(_LISTS[name]).split()) for name in ("sections", "small", "verbs")
)
_QUESTION_WORDS = ("what", "how", "why", "when", "can")
_WORD = re.compile(r"[a-z0-9][a-z0-9'+#._-]*[a-z0-9+#]|[a-z0-9]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True)
class StyledPair:
    """One query for one document. ``held_out`` pairs measure perplexity and are never trained."""

    style: str
    source: str
    query: str
    document: str
    held_out: bool


@dataclass(frozen=True)
class StyledPairs:
    """All pairs, and how many of each style were kept or left out."""

    pairs: list[StyledPair]
    counts: dict[str, int]


def content_words(text: str) -> list[str]:
    """Its words in order, without the small ones."""
    return [word for word in _WORD.findall(text.lower()) if word not in _SMALL_WORDS]


class ListedCorpus:
    """Documents in memory, by position and by id."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._documents = [Document(f"{number:07d}", text) for number, text in enumerate(texts)]
        self._positions = {d.doc_id: number for number, d in enumerate(self._documents)}

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, position: int) -> Document:
        return self._documents[position]

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents)

    def __contains__(self, doc_id: object) -> bool:
        return doc_id in self._positions

    def position(self, doc_id: str) -> int:
        """Position of a document id."""
        return self._positions[doc_id]

    def doc_id(self, position: int) -> str:
        """Id of the document at a position."""
        return self._documents[position].doc_id

    def get(self, doc_id: str) -> Document:
        """The document with this id."""
        return self._documents[self._positions[doc_id]]


class Rarity:
    """How many documents hold a word."""

    def __init__(self, documents: Sequence[str]) -> None:
        self._counts = Counter(word for text in documents for word in set(content_words(text)))

    def keywords(self, text: str, count: int, order: random.Random) -> str:
        """Some of the telling words of a text, in the order in which they come.

        A word that stands there often and in few other documents tells more; words that fewer than
        three documents have are mostly names of variables and left out.
        """
        inside = Counter(content_words(text))
        scores = {
            word: times / self._counts[word] ** 0.5
            for word, times in inside.items()
            if self._counts[word] >= 3 and len(word) > 2 and not word.isdigit()
        }
        best = sorted(scores, key=lambda word: (-scores[word], word))[: count + 3]
        chosen = set(order.sample(best, min(count, len(best))))
        return " ".join(word for word in inside if word in chosen)


@dataclass(frozen=True)
class Claim:
    """A sentence as the query, and the document that it belongs to."""

    query: str
    document: str


def statement(text: str, order: random.Random) -> Claim | None:
    """One sentence as the query; half of the time it is taken out of the document."""
    sentences = _SENTENCE.split(text)
    fit = [n for n, sentence in enumerate(sentences) if 7 <= len(sentence.split()) <= 22]
    if len(sentences) < 3 or not fit:
        return None
    number = order.choice(fit)
    rest = sentences[:number] + sentences[number + 1 :] if order.random() < 0.5 else sentences
    return Claim(plain(sentences[number]), " ".join(rest))


def _instruction(section: str, order: random.Random) -> str | None:
    """A heading that begins with a verb as a how-to question; ``None`` for other headings."""
    first, *rest = section.removeprefix("how to ").removeprefix("to ").split()
    stem = first.removesuffix("ing")
    verb = next((v for v in (first, stem, stem + "e", stem[:-1]) if v in _VERBS), None)
    if verb is None:
        return None
    opening = order.choice(["how to", "how do i", "how can i", "how do you", "how to"])
    return " ".join([opening, verb, *rest])


def of_passage(row: Row, away: bool, rarity: Rarity, order: random.Random) -> Iterator[StyledPair]:
    """What a passage with its headings gives: up to four pairs."""
    text = one_line(row["text"])
    headings = [plain(heading) for heading in row["headings"]]
    title = headings[0] if headings else ""
    section = headings[-1] if headings else ""

    def pair(style: str, query: str, document: str = text) -> Iterator[StyledPair]:
        if 2 <= len(query.split()) <= 24 and len(document.split()) >= 15:
            yield StyledPair(style, row["source"], query, document, away)

    telling = bool(section) and not set(content_words(section)) <= _SECTION_WORDS
    if title:
        yield from pair("title", title)
    if telling and section != title:
        if (how_to := _instruction(section, order)) is not None:
            yield from pair("how_to", how_to)
        elif section.endswith("?") or section.split()[0] in _QUESTION_WORDS:
            yield from pair("question", section)
        else:
            yield from pair("heading", section)
    elif section and title and section != title:
        yield from pair("heading", f"{title} {section}")
    yield from pair("keywords", rarity.keywords(text, order.randint(2, 5), order))
    if (claim := statement(text, order)) is not None:
        yield from pair("statement", claim.query, claim.document)


def of_question(row: Row, away: bool) -> Iterator[StyledPair]:
    """What a question or a term with its text gives."""
    query, text = asked(row), row["text"]
    style = "question"
    if "term" in row:
        style, text = "definition", f"{row['term']}: {text}"
    elif row["source"] == "medquad" and query.startswith("what is "):
        style = "definition"
    text = " ".join(text.split()[:MOST_WORDS])
    if len(query.split()) >= 2 and len(text.split()) >= 6:
        yield StyledPair(style, row["source"], query, text, away)


class Textbooks:
    """The passages of textbooks. An exercise has no text of its own and gets one of theirs."""

    def __init__(self, rows: Sequence[Row], kept_aside: KeptAside) -> None:
        books = [row for row in rows if row["source"].startswith("openstax")]
        self._corpus = ListedCorpus([one_line(row["text"]) for row in books])
        self._away = [kept_aside(row) for row in books]
        self._index = Bm25Index.build(self._corpus) if books else None

    def of_exercise(self, row: Row) -> Iterator[StyledPair]:
        """The exercise with the passage that BM25 finds best; held out where that passage is."""
        if self._index is None or len(row["question"].split()) > 30:
            return
        for found in self._index.top(f"{row['question']} {' '.join(row['headings'])}", 1):
            position = self._corpus.position(found.doc_id)
            query, document = one_line(row["question"].lower()), self._corpus[position].text
            yield StyledPair("exercise", row["source"], query, document, self._away[position])


def retrievable(pairs: list[StyledPair], rank: int, counts: Counter[str]) -> list[StyledPair]:
    """Those whose document BM25 finds among the best ``rank`` of all documents here.

    An exercise got its document from BM25 and is not asked again.
    """
    corpus = ListedCorpus(list(dict.fromkeys(pair.document for pair in pairs)))
    doc_ids = {document.text: document.doc_id for document in corpus}
    ranks = Bm25Index.build(corpus).rank_sources(
        [pair.query for pair in pairs], [doc_ids[pair.document] for pair in pairs]
    )
    kept = []
    for pair, found in zip(pairs, ranks, strict=True):
        if pair.style == "exercise" or (found.rank is not None and found.rank <= rank):
            counts[f"{pair.style}: kept"] += 1
            kept.append(pair)
        else:
            counts[f"{pair.style}: not found by BM25"] += 1
    return kept


def build(text_folder: Path, *, rank: int, seed: int, limit: int | None = None) -> StyledPairs:
    """All pairs that the text gives; with ``limit`` those of the first rows of each file."""
    order = random.Random(seed)
    passage_rows = list(passages(text_folder, limit))
    question_rows = list(questions(text_folder, limit))
    kept_aside = KeptAside([*passage_rows, *question_rows])
    rarity = Rarity([row["text"] for row in passage_rows])
    pairs = [
        pair for row in passage_rows for pair in of_passage(row, kept_aside(row), rarity, order)
    ]
    pairs += [
        pair for row in question_rows if "text" in row for pair in of_question(row, kept_aside(row))
    ]
    books = Textbooks(passage_rows, kept_aside)
    pairs += [pair for row in question_rows if "text" not in row for pair in books.of_exercise(row)]
    counts: Counter[str] = Counter()
    kept = retrievable(pairs, rank, counts)
    unique = list({(pair.query, pair.document): pair for pair in kept}.values())
    counts["the same pair again"] = len(kept) - len(unique)
    counts["held out"] = sum(pair.held_out for pair in unique)
    return StyledPairs(unique, dict(sorted(counts.items())))


def main() -> None:
    """Make the pairs of a text folder."""
    parser = argparse.ArgumentParser(description="Pairs of a document and a query, in styles.")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="rows of each file, to try it out")
    options = parser.parse_args()
    made = build(options.text, rank=options.rank, seed=options.seed, limit=options.limit)
    write_jsonl(options.out / "pairs.jsonl", (asdict(pair) for pair in made.pairs))
    write_json(options.out / "statistics.json", made.counts)
    print(json.dumps(made.counts, indent=1))


if __name__ == "__main__":
    run_command(main)
