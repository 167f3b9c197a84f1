"""A small corpus on which a training run can afford to choose its checkpoint every epoch."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sptar.errors import DataError
from sptar.types import Corpus, Document, Qrels, Query, Run

__all__ = ["DevSet", "reduced_dev_set"]


@dataclass(frozen=True, slots=True)
class DevSet:
    """Labelled queries and the documents among which theirs must be found.

    ``hard_negatives`` and ``random_negatives`` count the documents that answer no query of it.
    ``candidates`` are for rerankers: the documents, all of them among ``documents``, that each
    query's first-stage ranking gives them to order anew.
    """

    queries: Sequence[Query]
    documents: Sequence[Document]
    qrels: Qrels
    hard_negatives: int = 0
    random_negatives: int = 0
    candidates: Run | None = None


def reduced_dev_set(
    queries: Sequence[Query],
    qrels: Qrels,
    corpus: Corpus,
    negatives_for_each: int,
    negatives_for: Callable[[Query, int], list[str]],
    seed: int,
) -> DevSet:
    """All documents that answer a dev query, plus ``negatives_for_each`` others for each of them.

    The paper adds 20 documents for each labelled one. Here half of them (rounded down) are hard,
    from a ranking such as BM25's, and the rest is drawn from the whole corpus: with random
    documents alone nearly every checkpoint looks perfect, with hard ones alone a retriever is
    judged only on what BM25 finds.

    Args:
        queries: the dev queries; those without a document of grade 1 or more are left out.
        qrels: judgements of those queries (of others too, which are left out).
        corpus: the whole collection.
        negatives_for_each: negatives for each labelled document, 0 for none.
        negatives_for: asked (query, number) for the ids of so many documents, best first.
        seed: names the random draw.

    Returns:
        Documents in the order of the corpus, each once. No negative answers any dev query. When
        the hard ones run out or coincide, more are drawn at random; a small collection is taken
        whole.

    Raises:
        DataError: the corpus lacks a labelled document.
    """
    answers: dict[str, list[str]] = {}
    for query in queries:
        judged = qrels.get(query.query_id, {})
        relevant = [
            doc_id for doc_id, grade in judged.items() if grade > 0 and doc_id != query.own_doc_id
        ]
        for doc_id in relevant:
            if doc_id not in corpus:
                raise DataError(
                    f"Query {query.query_id} is labelled with document {doc_id}, which the corpus "
                    "does not hold.",
                    hint="Type: sptar data check",
                )
        if relevant:
            answers[query.query_id] = relevant
    kept = [query for query in queries if query.query_id in answers]
    positives = {doc_id for relevant in answers.values() for doc_id in relevant}

    hard: set[str] = set()
    for query in kept:
        wanted = negatives_for_each * len(answers[query.query_id]) // 2
        if wanted:
            hits = negatives_for(query, wanted + len(positives))
            hard.update([hit for hit in hits if hit not in positives][:wanted])

    target = negatives_for_each * len(positives)
    missing = max(0, target - len(hard))
    taken = positives | hard
    generator = random.Random(f"reduced corpus:{seed}")
    # A draw this large holds enough unused documents whatever was taken before.
    drawn = generator.sample(range(len(corpus)), min(len(corpus), missing + len(taken)))
    fresh = [doc_id for doc_id in map(corpus.doc_id, drawn) if doc_id not in taken][:missing]

    chosen = sorted(corpus.position(doc_id) for doc_id in (*taken, *fresh))
    return DevSet(
        queries=kept,
        documents=[corpus[position] for position in chosen],
        qrels={query.query_id: dict(qrels[query.query_id]) for query in kept},
        hard_negatives=len(hard),
        random_negatives=len(fresh),
    )
