"""The weak data filter: is each weak query's source document among BM25's best k?

    python benchmarks/weak_filter.py --documents 100000 --queries 100000

Synthetic documents with a Zipf-like vocabulary. The queries mix words of their document with words
of others, so that sources stand at every rank. Every method answers the same question for the same
queries in one process with one thread, in turns; a method that is slow gets a sample of them.
Lucene (through pyserini) and tantivy rank with formulas and rounding of their own, so only their
times are compared; they stand in the table when they can be imported.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import as_record, describe_machine, spread

from sptar.retrieval.lexical.bm25 import Bm25Index
from sptar.types import Document

VOCABULARY = 200_000


class SyntheticCorpus:
    """Random documents, made again from their term numbers whenever they are read."""

    def __init__(self, documents: int, generator: np.random.Generator) -> None:
        # As if stop words were gone: the commonest term stands in every fifth document.
        weights = 1.0 / (np.arange(VOCABULARY) + 50.0)
        self.frequency = weights / weights.sum()
        self._cumulated = np.cumsum(self.frequency)
        lengths = generator.integers(40, 160, documents)
        self._ends = np.concatenate([[0], np.cumsum(lengths)])
        self._terms = self.draw(int(lengths.sum()), generator)

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Term numbers by their frequency in the language."""
        return np.searchsorted(self._cumulated, generator.random(count)).astype(np.int32)

    def terms(self, position: int) -> np.ndarray:
        """Term numbers of a document."""
        return self._terms[self._ends[position] : self._ends[position + 1]]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, position: int) -> Document:
        text = " ".join(f"w{term:x}" for term in self.terms(position))
        return Document(self.doc_id(position), text)

    def __iter__(self) -> Any:
        return (self[position] for position in range(len(self)))

    def __contains__(self, doc_id: object) -> bool:
        return True

    def doc_id(self, position: int) -> str:
        """Ids sort as their positions do."""
        return f"d{position:08d}"

    def position(self, doc_id: str) -> int:
        """Position of an id."""
        return int(doc_id[1:])

    def get(self, doc_id: str) -> Document:
        """Document of an id."""
        return self[self.position(doc_id)]


def make_queries(
    corpus: SyntheticCorpus, count: int, generator: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Weak queries and the ids of their documents."""
    sources = generator.integers(0, len(corpus), count)
    texts = []
    for source in sources:
        terms = corpus.terms(int(source))
        own = terms[generator.integers(0, len(terms), generator.integers(1, 7))]
        foreign = corpus.draw(int(generator.integers(0, 4)), generator)
        texts.append(" ".join(f"w{term:x}" for term in np.concatenate([own, foreign])))
    return texts, [corpus.doc_id(int(source)) for source in sources]


Method = Callable[[list[str], list[str]], "list[bool] | None"]


def ours(index: Bm25Index, k: int) -> Method:
    """The rank of the source, then the cut-off."""

    def answer(texts: list[str], doc_ids: list[str]) -> list[bool]:
        return [
            found.rank is not None and found.rank <= k
            for found in index.rank_sources(texts, doc_ids)
        ]

    return answer


def score_everything(index: Bm25Index, corpus: SyntheticCorpus, k: int) -> Method:
    """The score of every document, then a count."""

    def answer(texts: list[str], doc_ids: list[str]) -> list[bool]:
        kept = []
        for text, doc_id in zip(texts, doc_ids, strict=True):
            source = corpus.position(doc_id)
            scores = index.scores(text)
            own = scores[source]
            better = np.count_nonzero(scores > own) + np.count_nonzero(scores[:source] == own)
            kept.append(bool(own > 0 and better < k))
        return kept

    return answer


def bm25s_top_k(index: Bm25Index, corpus: SyntheticCorpus, k: int) -> Method:
    """The library's own top k with its numba back end, over the same arrays and term numbers."""
    engine = index._engine
    engine.activate_numba_scorer()

    def answer(texts: list[str], doc_ids: list[str]) -> list[bool]:
        terms = [index._term_numbers(text) for text in texts]
        found, scores = engine.retrieve(
            terms, k=k, show_progress=False, n_threads=1, backend_selection="numba"
        )
        sources = [corpus.position(doc_id) for doc_id in doc_ids]
        return [
            bool(np.any((row == source) & (score > 0)))
            for row, score, source in zip(found, scores, sources, strict=True)
        ]

    return answer


def seconds_of_bm25s_index(corpus: SyntheticCorpus) -> float:
    """Seconds that the library takes for an index of the same documents with its own tokens."""
    import bm25s

    began = time.perf_counter()
    tokens = bm25s.tokenize(
        [document.text for document in corpus], stopwords=None, show_progress=False
    )
    bm25s.BM25(method="lucene", backend="numba").index(tokens, show_progress=False)
    return time.perf_counter() - began


def tantivy_top_k(corpus: SyntheticCorpus, k: int) -> tuple[Method, float]:
    """Tantivy with white-space tokens, and the seconds that its index took."""
    import tantivy

    began = time.perf_counter()
    schema = tantivy.SchemaBuilder()
    schema.add_text_field("text", tokenizer_name="whitespace", index_option="freq")
    schema.add_integer_field("number", stored=True, fast=True)
    index = tantivy.Index(schema.build())
    writer = index.writer(heap_size=256_000_000, num_threads=1)
    for position, document in enumerate(corpus):
        writer.add_document(tantivy.Document(text=document.text, number=position))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    seconds = time.perf_counter() - began
    searcher = index.searcher()

    def answer(texts: list[str], doc_ids: list[str]) -> None:
        for text, doc_id in zip(texts, doc_ids, strict=True):
            source = corpus.position(doc_id)
            hits = searcher.search(index.parse_query(text, ["text"]), k, count=False).hits
            any(searcher.doc(address)["number"][0] == source for _, address in hits)

    return answer, seconds


def lucene_top_k(corpus: SyntheticCorpus, k: int) -> tuple[Method, float]:
    """Lucene through pyserini, and the seconds that its index took."""
    from pyserini.index.lucene import LuceneIndexer
    from pyserini.search.lucene import LuceneSearcher

    began = time.perf_counter()
    folder = tempfile.mkdtemp()
    indexer = LuceneIndexer(args=["-index", folder, "-threads", "1", "-pretokenized"])
    for document in corpus:
        indexer.add_doc_dict({"id": document.doc_id, "contents": document.text})
    indexer.close()
    seconds = time.perf_counter() - began
    searcher = LuceneSearcher(folder)
    searcher.set_bm25(0.9, 0.4)
    from pyserini.analysis import JWhiteSpaceAnalyzer

    searcher.set_analyzer(JWhiteSpaceAnalyzer())

    def answer(texts: list[str], doc_ids: list[str]) -> None:
        for text, doc_id in zip(texts, doc_ids, strict=True):
            any(hit.docid == doc_id for hit in searcher.search(text, k=k))

    return answer, seconds


@dataclass
class Contestant:
    """A method, how many queries it gets in a round, and what was seen."""

    name: str
    method: Method
    queries: int
    index_seconds: float | None
    rates: list[float]
    answers: list[bool] | None = None


def main() -> None:
    """Run all methods in turns and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--k", type=int, default=70)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=5_000, help="for the slow methods")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    corpus = SyntheticCorpus(options.documents, generator)
    texts, doc_ids = make_queries(corpus, options.queries, generator)
    began = time.perf_counter()
    index = Bm25Index.build(corpus, language="none")
    built = time.perf_counter() - began
    library = seconds_of_bm25s_index(corpus)
    sample = min(options.sample, options.queries)
    everything = options.queries
    contestants = [
        Contestant("sptar", ours(index, options.k), everything, built, []),
        Contestant("bm25s top k", bm25s_top_k(index, corpus, options.k), everything, library, []),
        Contestant("score array", score_everything(index, corpus, options.k), sample, None, []),
    ]
    for name, make in (("tantivy", tantivy_top_k), ("Lucene", lucene_top_k)):
        try:
            method, seconds = make(corpus, options.k)
        except Exception as error:  # a missing package, or a Java that is too old
            print(f"{name}: left out, it cannot be used here ({str(error)[:200]})")
            continue
        contestants.append(Contestant(name, method, min(sample, 2_000), seconds, []))
    for contestant in contestants:
        contestant.method(texts[:100], doc_ids[:100])  # compiles, warms up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    growth: dict[str, int] = {}
    for _ in range(options.rounds):
        for contestant in contestants:
            asked = contestant.queries
            start = time.perf_counter()
            contestant.answers = contestant.method(texts[:asked], doc_ids[:asked])
            contestant.rates.append(asked / (time.perf_counter() - start))
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            growth[contestant.name] = growth.get(contestant.name, 0) + now - before
            before = now
    own = contestants[0]
    assert own.answers is not None
    rows = []
    for contestant in contestants:
        differing = None
        if contestant.answers is not None:
            asked = contestant.queries
            differing = sum(
                left != right
                for left, right in zip(contestant.answers, own.answers[:asked], strict=True)
            )
        rows.append(
            {
                "method": contestant.name,
                "queries": contestant.queries,
                "queries_per_second": as_record(spread(contestant.rates)),
                "sptar_is_faster_by": spread(own.rates).median / spread(contestant.rates).median,
                "decisions_that_differ": differing,
                "index_seconds": contestant.index_seconds,
                "peak_memory_growth_kib": growth[contestant.name],
            }
        )
    result = {
        "benchmark": "weak data filter",
        "documents": options.documents,
        "queries": options.queries,
        "k": options.k,
        "rounds": options.rounds,
        "kept_share": sum(own.answers) / len(own.answers),
        "machine": describe_machine(),
        "rows": rows,
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
