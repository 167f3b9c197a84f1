"""What a language model is worth as a writer of queries, before any retriever is trained.

    python tools/starter/evaluate.py WORK/language_model/model --pairs WORK/pairs/pairs.jsonl \
        --settings tools/starter/language_model_cpu.yaml --collections FOLDER … --out FILE

The JSON that it writes holds, of ``validation_sequences`` held-out queries of each style:
``perplexity`` by style behind 0, 1 and 2 examples of the same style; ``reworded_perplexity``, the
same where each query also shares one of its style's wordings with its examples; and of both, over
all styles, ``two_examples_to_none`` with a 95 % interval. Then ``collections``: how many of the
queries that the model writes greedily for random documents lead BM25 back to their document, behind
0, 1 and 2 random labelled examples.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from command import run_command
from language_model import QueryLoss, Settings, losses_by_style, perplexities
from pairs import content_words
from sequences import PairStore, Template, load_pairs
from settings import read_settings

from sptar.config import AugmentConfig, DataConfig, FilterConfig, LanguageModelConfig, PromptConfig
from sptar.data.collection import Collection
from sptar.data.sources import convert
from sptar.errors import DataError
from sptar.io import to_json, write_json
from sptar.llm.engine.generation import PromptedGenerator
from sptar.llm.loading import LanguageModel, load_language_model
from sptar.llm.template import PromptTemplate
from sptar.retrieval.lexical.bm25 import Bm25Index
from sptar.types import Document, Pair, WeakQuery
from sptar.weak.augment import augment_block


@dataclass(frozen=True)
class Worth:
    """Measured on the weak queries of one collection's documents behind so many examples.

    Attributes:
        collection: its name.
        examples: pairs in front of each document.
        examples_from: the split that they were drawn from.
        documents: for how many a query was written.
        in_top_10: share of the queries with their document among BM25's best 10 of the whole
            collection; an empty query counts as not found.
        in_top_30: the same for the best 30.
        empty: share of the queries without a word.
        distinct: share of different queries, capitals aside, among those that are not empty.
        in_document: mean over the queries of the share of their content words that stand in the
            document, letter by letter.
        words: mean number of words.
    """

    collection: str
    examples: int
    examples_from: str
    documents: int
    in_top_10: float
    in_top_30: float
    empty: float
    distinct: float
    in_document: float
    words: float


@dataclass(frozen=True)
class Sample:
    """Documents to write a query for, and pairs to show, of other documents."""

    documents: list[Document]
    examples: list[Pair]
    examples_from: str


def draw_sample(collection: Collection, *, name: str, documents: int, seed: int) -> Sample:
    """Two labelled pairs and some of the documents that these do not show.

    The pairs come from the train split, where there is none from dev, and only where there is
    neither from test: nothing is trained on them. One pair for a query, and no document twice.

    Raises:
        DataError: there are not two such pairs, or no document is left.
    """
    splits = [split for split in ("train", "dev") if split in collection.qrels]
    split = [*splits, *sorted(collection.qrels)][0]
    order = random.Random(f"{seed}/examples/{name}")
    examples: list[Pair] = []
    judged = collection.qrels[split]
    for query_id in order.sample(sorted(judged), len(judged)):
        shown = {pair.document.doc_id for pair in examples}
        relevant = [
            doc_id
            for doc_id, grade in sorted(judged[query_id].items())
            if grade > 0 and doc_id in collection.corpus and doc_id not in shown
        ]
        if relevant and query_id in collection.queries:
            document = collection.corpus.get(order.choice(relevant))
            if document.text.strip():
                examples.append(Pair(collection.queries[query_id], document))
        if len(examples) == 2:
            break
    order = random.Random(f"{seed}/documents/{name}")
    shown = {pair.document.doc_id for pair in examples}
    drawn: list[Document] = []
    for position in order.sample(range(len(collection.corpus)), len(collection.corpus)):
        document = collection.corpus[position]
        if document.full_text and document.doc_id not in shown:
            drawn.append(document)
        if len(drawn) == documents:
            break
    if len(examples) < 2 or not drawn:
        raise DataError(f"The collection {name} has too few labels or documents to measure with.")
    return Sample(drawn, examples, split)


def write_queries(
    model: LanguageModel, sample: Sample, examples: int, *, max_new_tokens: int, seed: int
) -> list[WeakQuery]:
    """One greedy query for each document, as the pipeline writes it without a soft prompt."""
    # An example may be as long as an answer: more would only take room from the documents.
    prompt = PromptConfig(examples=examples, max_query_tokens=max_new_tokens)
    template = PromptTemplate(model, prompt, virtual_tokens=0, max_new_tokens=max_new_tokens)
    config = AugmentConfig(decoding="greedy", max_new_tokens=max_new_tokens)
    generator = PromptedGenerator(
        model, template, None, sample.examples[:examples], config, seed=seed
    )
    return augment_block(sample.documents, generator, config)


def overlap(query: str, document: str) -> float | None:
    """Share of the query's different content words that the document has; ``None`` without any."""
    words = set(content_words(query))
    return len(words & set(content_words(document))) / len(words) if words else None


def worth(
    queries: Sequence[WeakQuery], sample: Sample, index: Bm25Index, *, name: str, examples: int
) -> Worth:
    """Ranks, repetitions and overlap of the queries, which are those of the sample's documents."""
    longest = FilterConfig().max_query_words
    texts = [" ".join(query.text.split()[:longest]) for query in queries]
    ranks = [found.rank for found in index.rank_sources(texts, [query.doc_id for query in queries])]
    written = [text for text in texts if text]
    overlaps = [
        share
        for text, document in zip(texts, sample.documents, strict=True)
        if (share := overlap(text, document.full_text)) is not None
    ]

    def found_within(limit: int) -> float:
        return sum(rank is not None and rank <= limit for rank in ranks) / len(ranks)

    return Worth(
        collection=name,
        examples=examples,
        examples_from=sample.examples_from if examples else "",
        documents=len(texts),
        in_top_10=round(found_within(10), 4),
        in_top_30=round(found_within(30), 4),
        empty=round(1 - len(written) / len(texts), 4),
        distinct=round(len({text.lower() for text in written}) / max(1, len(written)), 4),
        in_document=round(statistics.mean(overlaps), 4) if overlaps else 0.0,
        words=round(statistics.mean(len(text.split()) for text in texts), 2),
    )


def on_collection(
    model: LanguageModel, folder: Path, *, documents: int, max_new_tokens: int, seed: int
) -> list[Worth]:
    """Behind 0, 1 and 2 examples, for the same documents of a BEIR folder.

    Raises:
        DataError: the folder is damaged or too small.
    """
    with tempfile.TemporaryDirectory() as normalised:
        # Broken rows are not what is measured here.
        convert(DataConfig(source=str(folder), on_error="skip"), normalised)
        collection = Collection.open(normalised)
        name = folder.resolve().name
        sample = draw_sample(collection, name=name, documents=documents, seed=seed)
        index = Bm25Index.build(collection.corpus)
        return [
            worth(
                write_queries(model, sample, examples, max_new_tokens=max_new_tokens, seed=seed),
                sample,
                index,
                name=name,
                examples=examples,
            )
            for examples in range(3)
        ]


@dataclass(frozen=True)
class PerplexityRatio:
    """Perplexity of the same queries behind two examples, divided by that behind none.

    Attributes:
        ratio: of the perplexities over the tokens of all styles' queries; below 1 examples help.
        low: where the 95 % interval of ``ratio`` begins.
        high: where it ends.
        queries: how many were drawn.
        documents: how many different ones these belong to.
    """

    ratio: float
    low: float
    high: float
    queries: int
    documents: int


def two_to_none(found: Mapping[str, Sequence[QueryLoss]], draws: int = 2000) -> PerplexityRatio:
    """What two examples change, paired by query.

    The interval is a percentile bootstrap with ``draws`` draws over the documents: a query that was
    drawn twice, or in two styles of one document, tells little more than once. It says what other
    held-out documents could have shown, not what other text, wordings or examples could.
    """
    change: dict[str, float] = {}
    tokens: dict[str, int] = {}
    queries = [query for style in sorted(found) for query in found[style]]
    for query in queries:
        behind = query.nats[2] - query.nats[0]
        change[query.document] = change.get(query.document, 0.0) + behind
        tokens[query.document] = tokens.get(query.document, 0) + query.tokens
    changes, sizes = np.array(list(change.values())), np.array(list(tokens.values()))
    drawn = np.random.default_rng(0).integers(0, len(changes), (draws, len(changes)))
    logarithms = changes[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.exp(np.quantile(logarithms, [0.025, 0.975]))
    return PerplexityRatio(
        ratio=round(float(np.exp(changes.sum() / sizes.sum())), 4),
        low=round(float(low), 4),
        high=round(float(high), 4),
        queries=len(queries),
        documents=len(changes),
    )


@dataclass(frozen=True)
class HeldOut:
    """Measured on the pairs that are not trained.

    Attributes:
        validation_sequences: queries drawn of each style.
        perplexity: by style behind 0, 1 and 2 examples.
        reworded_perplexity: the same, each query in one wording with its examples.
        two_examples_to_none: of each of these two, by its name.
    """

    validation_sequences: int
    perplexity: Mapping[str, list[float]]
    reworded_perplexity: Mapping[str, list[float]]
    two_examples_to_none: Mapping[str, PerplexityRatio]


def on_held_out(model: LanguageModel, pairs: Path, settings: Settings) -> HeldOut:
    """Perplexities of the pairs that are not trained, as they are and in one wording.

    Raises:
        DataError: no style has three such pairs.
    """
    template = Template(model, settings.document_tokens, settings.query_tokens)
    store = PairStore(load_pairs(pairs).held_out, settings.styles)
    plain, reworded = (
        losses_by_style(model.model, store, template, settings, reworded_share=share)
        for share in (0.0, 1.0)
    )
    if not plain:
        raise DataError("no style has three held-out pairs to measure with.", path=pairs)
    return HeldOut(
        validation_sequences=settings.validation_sequences,
        perplexity=perplexities(plain),
        reworded_perplexity=perplexities(reworded),
        two_examples_to_none={
            "perplexity": two_to_none(plain),
            "reworded_perplexity": two_to_none(reworded),
        },
    )


def main() -> None:
    """Measure a language model and write what was found."""
    parser = argparse.ArgumentParser(description="What a language model is worth as a writer.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--settings", type=Path, required=True, help="those of its training")
    parser.add_argument(
        "--validation-sequences", type=int, default=64, help="held-out queries of each style"
    )
    parser.add_argument("--collections", type=Path, nargs="*", default=[])
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings = replace(
        read_settings(options.settings, Settings),
        validation_sequences=options.validation_sequences,
    )
    model = load_language_model(
        LanguageModelConfig(name=str(options.model), device=settings.device, dtype="float32")
    )
    found: list[Worth] = []
    held_out = asdict(on_held_out(model, options.pairs, settings))
    print(to_json(held_out), flush=True)
    for folder in options.collections:
        for row in on_collection(
            model,
            folder,
            documents=options.documents,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
        ):
            print(to_json(asdict(row)), flush=True)
            found.append(row)
    write_json(options.out, {**held_out, "collections": [asdict(row) for row in found]})


if __name__ == "__main__":
    run_command(main)
