"""The help-centre collection: its promises, counted."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path
from statistics import median

import pytest

from sptar.config import DataConfig
from sptar.data.collection import Collection
from sptar.data.sources import convert
from sptar.evaluation.evaluate import evaluate
from sptar.retrieval.lexical.analyzer import Analyzer
from sptar.retrieval.lexical.bm25 import Bm25Index

SOURCE = resources.files("sptar.starter") / "transport_collection"


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    folder = tmp_path_factory.mktemp("transport") / "collection"
    report = convert(DataConfig(source=str(SOURCE)), folder)
    assert report.ok
    assert report.duplicate_documents == report.duplicate_queries == report.empty_documents == 0
    return Collection.open(folder)


def test_documents(collection: Collection) -> None:
    documents = list(collection.corpus)
    assert len(documents) >= 700
    assert all(40 <= len(document.text.split()) <= 140 for document in documents)
    assert all(document.title for document in documents)
    titles = Counter(document.title.casefold() for document in documents)
    assert max(titles.values()) <= 2
    # No sentence of more than a few words returns: nothing here was made from a template.
    sentences = Counter(
        sentence.strip().casefold()
        for document in documents
        for sentence in document.text.split(". ")
        if len(sentence.split()) > 6
    )
    assert max(sentences.values()) == 1


def test_queries_and_splits(collection: Collection) -> None:
    sizes = {name: len(qrels) for name, qrels in collection.qrels.items()}
    assert sizes["train"] == 50
    assert sizes["dev"] == 100
    assert sizes["test"] >= 300
    assert sum(sizes.values()) == len(collection.queries) >= 450
    judged: dict[str, set[str]] = {}
    for name, qrels in collection.qrels.items():
        for grades in qrels.values():
            assert set(grades.values()) <= {1, 2}
            assert 2 in grades.values()
        judged[name] = {doc_id for grades in qrels.values() for doc_id in grades}
    assert not judged["train"] & judged["dev"]
    assert not judged["train"] & judged["test"]
    assert not judged["dev"] & judged["test"]
    several = sum(
        len(grades) > 1 for qrels in collection.qrels.values() for grades in qrels.values()
    )
    assert several >= 50
    assert len(collection.corpus) - len(set().union(*judged.values())) >= 200


def test_passengers_use_other_words_than_the_operator(collection: Collection) -> None:
    analyzer = Analyzer("english")
    shares = []
    for qrels in collection.qrels.values():
        for query_id, grades in qrels.items():
            asked = analyzer.terms(collection.queries[query_id].text)
            told: set[str] = set()
            for doc_id, grade in grades.items():
                if grade == 2:
                    told |= set(analyzer.terms(collection.corpus.get(doc_id).full_text))
            shares.append(sum(term in told for term in asked) / max(1, len(asked)))
    assert median(shares) < 0.4


def test_bm25_finds_it_neither_trivial_nor_hopeless(collection: Collection) -> None:
    index = Bm25Index.build(collection.corpus, language="english", k1=0.9, b=0.4)
    qrels = collection.qrels["test"]
    run = index.search([collection.queries[query_id] for query_id in qrels], 100)
    assert 0.35 <= evaluate(run, qrels, ["nDCG@10"]).mean("nDCG@10") <= 0.70


def test_the_datasheet_tells_the_true_numbers(collection: Collection) -> None:
    sheet = Path(str(SOURCE)).joinpath("README.md").read_text(encoding="utf-8")
    unjudged = len(collection.corpus) - len(
        {d for qrels in collection.qrels.values() for grades in qrels.values() for d in grades}
    )
    for number in (
        len(collection.corpus),
        len(collection.queries),
        len(collection.qrels["test"]),
        unjudged,
    ):
        assert f"{number}" in sheet
    assert "CC0" in sheet
