"""What every dense retriever of the table must do, whatever its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from sptar.config import TrainConfig
from sptar.retrieval.biencoder import DevSet, TrainingResult, train_biencoder
from sptar.retrieval.encoding import load_encoder
from sptar.retrieval.index import DenseIndex, DenseSearcher, ListedIds
from sptar.retrieval.specs import RETRIEVERS
from sptar.types import Document, Query
from tiny import DOCUMENTS, PAIRS, QUERIES

QRELS = {pair.query.query_id: {pair.document.doc_id: 1} for pair in PAIRS}


def share_at_rank_one(run, qrels):
    hits = 0
    for query_id, judged in qrels.items():
        best = min(run[query_id].items(), key=lambda item: (-item[1], item[0]))[0]
        hits += judged.get(best, 0) > 0
    return hits / len(qrels)


@dataclass(frozen=True)
class Trained:
    folder: Path
    config: TrainConfig
    result: TrainingResult

    def search(self, documents, *, batch_size=32, block_size=8192):
        config = self.config.model_copy(update={"encode_batch_size": batch_size})
        encoder = load_encoder(self.folder, config)
        index = DenseIndex(encoder.encode_documents(documents), ListedIds(documents), block_size)
        return DenseSearcher(encoder, index).search(QUERIES, 100)


@pytest.fixture(scope="module", params=[*RETRIEVERS])
def trained(request, tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    config = TrainConfig(
        retriever=request.param,
        start=str(tiny_encoder),
        batch_size=8,
        epochs=30,
        learning_rate=2e-3,
        query_prompt="query: ",
        document_prompt="document: ",
        max_tokens=64,
    )
    result = train_biencoder(
        PAIRS,
        DevSet(QUERIES, DOCUMENTS, QRELS),
        config,
        11,
        folder / "model",
        share_at_rank_one,
        folder / "state",
        dev_measure="share at rank 1",
    )
    return Trained(folder / "model", config, result)


def test_it_learns_its_training_pairs(trained):
    assert trained.result.start_dev_score < 0.7
    assert trained.result.best_dev_score == 1.0
    assert share_at_rank_one(trained.search(DOCUMENTS), QRELS) == 1.0


def test_it_loads_back_to_identical_scores(trained):
    assert trained.search(DOCUMENTS) == trained.search(DOCUMENTS)


def test_plain_sentence_transformers_gives_the_same_vectors(trained):
    """By its own methods, which put the saved prompts in front."""
    plain = SentenceTransformer(str(trained.folder))
    ours = load_encoder(trained.folder, trained.config)
    np.testing.assert_allclose(
        ours.encode_queries(QUERIES),
        plain.encode_query([query.text for query in QUERIES], normalize_embeddings=True),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        ours.encode_documents(DOCUMENTS),
        plain.encode_document(
            [document.full_text for document in DOCUMENTS], normalize_embeddings=True
        ),
        atol=1e-6,
    )
    assert plain.similarity_fn_name == ours.spec.similarity
    assert plain.max_seq_length == 64


def test_prompts_matter_and_are_those_of_the_recipe(trained):
    plain = SentenceTransformer(str(trained.folder))
    assert plain.prompts["query"] == "query: "
    assert plain.prompts["document"] == "document: "
    texts = [query.text for query in QUERIES]
    assert np.abs(plain.encode_query(texts) - plain.encode_document(texts)).max() > 1e-3


def test_the_ranking_depends_on_no_batch_block_or_order(trained):
    expected = trained.search(DOCUMENTS)
    for documents, batch_size, block_size in (
        (DOCUMENTS, 1, 3),
        (DOCUMENTS[::-1], 5, 1),
        (DOCUMENTS[6:] + DOCUMENTS[:6], 3, 100),
    ):
        found = trained.search(documents, batch_size=batch_size, block_size=block_size)
        for query_id, scores in expected.items():
            assert list(found[query_id]) == list(scores)
            assert list(found[query_id].values()) == pytest.approx(list(scores.values()), abs=1e-5)


def test_empty_and_over_long_texts_work(trained):
    odd = [*DOCUMENTS, Document("empty", ""), Document("long", "bees dance on the comb " * 2000)]
    encoder = load_encoder(trained.folder, trained.config)
    vectors = encoder.encode_documents(odd)
    assert np.isfinite(vectors).all()
    queries = encoder.encode_queries([Query("empty", ""), Query("long", "bees " * 5000)])
    assert np.isfinite(queries).all()
    run = trained.search(odd)
    assert all(len(scores) == len(odd) for scores in run.values())


def test_the_folder_is_safe_and_names_no_machine(trained):
    start = Path(trained.config.start)
    for file in trained.folder.rglob("*"):
        if not file.is_file():
            continue
        assert file.suffix in {".json", ".safetensors", ".md", ".txt"}
        if file.suffix != ".safetensors":
            text = file.read_text()
            assert str(start.parent) not in text
            assert str(trained.folder.parent) not in text


def test_the_card_tells_what_it_was_made_from(trained):
    card = (trained.folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert f"`{Path(trained.config.start).name}`" in card
    assert "8 pairs" in card
    assert "8 distinct queries, 8 distinct documents" in card
    assert "share at rank 1 on 8 dev queries" in card
    assert f"epoch {trained.result.best_epoch} of {len(trained.result.history)}" in card
    assert "'query: '" in card
    assert card.count("\n| ") == 3 + len(trained.result.history)
