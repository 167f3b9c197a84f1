"""Soft prompt augmentor: weak queries for a block of documents, exactly n rows for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sptar.config import AugmentConfig
from sptar.types import Document, Generation, GenerationRequest, Generator, WeakQuery
from sptar.weak.clean import CLEANERS

__all__ = ["WeakQueryIds", "augment_block", "choose_prefix", "weak_query_id", "weak_query_to_row"]


def weak_query_id(doc_id: str, number: int, prefix: str = "weak") -> str:
    """Id of query ``number`` (0 … n-1) of a document; two different pairs never share one.

    >>> weak_query_id("d7", 0)
    'weak:d7:0'
    """
    return f"{prefix}:{doc_id}:{number}"


def choose_prefix(known_ids: Iterable[str]) -> str:
    """A prefix under which no weak query id can equal one of the ``known_ids``.

    Give it the ids of the collection's queries, and of its documents: a query whose id is a
    document's id would never retrieve that document.

    >>> choose_prefix(["q1", "q2"])
    'weak'
    >>> choose_prefix(["weak:d7:0", "weak2:x"])
    'weak3'
    """
    taken = {known.partition(":")[0] for known in known_ids if known.startswith("weak")}
    prefix, number = "weak", 1
    while prefix in taken:
        number += 1
        prefix = f"weak{number}"
    return prefix


def weak_query_to_row(weak_query: WeakQuery) -> dict[str, Any]:
    """JSON object of a weak query; what is rare (a refusal, no end) stands there where it is so."""
    row = asdict(weak_query)
    if weak_query.refusal is None:
        del row["refusal"]
    if weak_query.finished:
        del row["finished"]
    return row


@dataclass(frozen=True, slots=True)
class WeakQueryIds:
    """Makes the ids of weak queries: call it with a document id and a number."""

    prefix: str = "weak"

    def __call__(self, doc_id: str, number: int) -> str:
        return weak_query_id(doc_id, number, self.prefix)


def augment_block(
    documents: Sequence[Document],
    generator: Generator,
    config: AugmentConfig,
    new_ids: Callable[[str, int], str] | None = None,
    *,
    on_cut: Callable[[Document, int], None] | None = None,
) -> list[WeakQuery]:
    """Write exactly ``config.queries_per_document`` queries for each document, in their order.

    An answer that is empty after cleaning is asked for again, all such answers of the block
    together, until it is not or ``config.max_attempts`` answers were given. Greedy decoding
    would repeat itself and is asked once (the published code retries it all the same), and so is a
    document that a server refuses. What is still empty then stays in the result with an empty
    text; the weak data filter drops and counts it.

    Args:
        documents: one block of the documents to augment.
        generator: answers requests, independently of one another.
        config: how many queries, how often to try.
        new_ids: makes the id of a weak query from a document id and a number, e.g.
            ``WeakQueryIds(choose_prefix(query_ids))``.
        on_cut: told about each document that was too long for the prompt, and how many of its
            tokens were left out.
    """
    make_id = WeakQueryIds() if new_ids is None else new_ids
    clean = CLEANERS[config.cleaning]
    attempts_allowed = 1 if config.decoding == "greedy" else config.max_attempts
    numbers = range(config.queries_per_document)
    requests = [GenerationRequest(document, number) for document in documents for number in numbers]
    answers: dict[int, Generation] = {}
    texts = [""] * len(requests)
    attempts = [0] * len(requests)

    open_rows = list(range(len(requests)))
    for attempt in range(attempts_allowed):
        if not open_rows:
            break
        asked = [
            GenerationRequest(requests[row].document, requests[row].number, attempt)
            for row in open_rows
        ]
        given = generator.generate(asked)
        if len(given) != len(asked):
            raise ValueError(f"the generator gave {len(given)} answers to {len(asked)} requests")
        for row, answer in zip(open_rows, given, strict=True):
            answers[row] = answer
            texts[row] = clean(answer.raw)
            attempts[row] = attempt + 1
        open_rows = [row for row in open_rows if not texts[row] and answers[row].refusal is None]

    if on_cut is not None:
        for row, request in enumerate(requests):
            if answers[row].cut_tokens and request.number == 0:
                on_cut(request.document, answers[row].cut_tokens)
    return [
        WeakQuery(
            query_id=make_id(request.document.doc_id, request.number),
            doc_id=request.document.doc_id,
            text=texts[row],
            raw=answers[row].raw,
            attempts=attempts[row],
            log_probability=answers[row].log_probability,
            tokens=answers[row].tokens,
            cut_tokens=answers[row].cut_tokens,
            refusal=answers[row].refusal,
            finished=answers[row].stopped or answers[row].refusal is not None,
        )
        for row, request in enumerate(requests)
    ]
