"""The card says what a retriever is, what it learned from, and how the plain library uses it."""

from __future__ import annotations

import pytest

from sptar.config import TrainConfig
from sptar.retrieval.specs import RETRIEVERS, recipe
from sptar.training.card import CardFacts, model_card
from sptar.training.state import EpochRecord


def card(row, *, negatives=0, reading="", **settings):
    config = recipe(TrainConfig(**settings), row)
    facts = CardFacts(
        reading=reading,
        pairs=10,
        queries=9,
        documents=8,
        negatives_per_pair=negatives,
        dev_queries=7,
        dev_documents=60,
        best_epoch=1,
        start_dev_score=0.25,
        history=(EpochRecord(1, 0.5, 0.75, 1.0, 3, 0),),
        seed=42,
        dev_measure="nDCG@10",
    )
    return model_card(facts, RETRIEVERS[row], config)


@pytest.mark.parametrize(
    ("row", "library", "call", "pipeline"),
    [
        ("dpr", "SentenceTransformer", "encode_query", "sentence-similarity"),
        ("static", "SentenceTransformer", "encode_query", "sentence-similarity"),
        ("colbert", "MultiVectorEncoder", "encode_query", "sentence-similarity"),
        ("splade", "SparseEncoder", "encode_query", "feature-extraction"),
        ("bm25ce", "CrossEncoder", "predict", "text-ranking"),
    ],
)
def test_each_family_has_its_library(row, library, call, pipeline):
    import sentence_transformers

    text = card(row, negatives=1)
    code = text.split("```")[1]
    assert f"from sentence_transformers import {library}\n" in code
    assert f'{library}("path/to/this/folder")' in code
    assert hasattr(getattr(sentence_transformers, library), call)
    assert f"model.{call}(" in code
    assert f"pipeline_tag: {pipeline}\n" in text


def test_hub_names_are_base_models_and_folders_only_a_name(tmp_path):
    assert "\nbase_model: some/encoder\n" in card("dpr", start="some/encoder")
    folder = tmp_path / "my-encoder"
    folder.mkdir()
    text = card("dpr", start=str(folder))
    assert "base_model" not in text
    assert "`my-encoder`" in text
    assert str(tmp_path) not in text


def test_two_starts_are_named():
    text = card("dragon")
    assert (
        "`facebook/dragon-plus-context-encoder` for documents, "
        "`facebook/dragon-plus-query-encoder` for queries"
    ) in text


def test_negatives_are_told():
    assert "Hard negatives" not in card("dpr")
    text = card("colbert", negatives=1)
    assert "Hard negatives of each pair: 1, drawn from the corpus." in text
    assert "hard negatives included" in text
    mined = card("tas_b", negatives=1, mine_depth=50, mine_skip=3)
    assert "1, drawn from BM25's best 50 documents, the best 3 left out" in mined


def test_a_foreign_teacher_is_supervision():
    own = card("tas_b", negatives=1)
    assert "Teacher of the margins: a cross-encoder trained on the same pairs." in own
    assert "a late-interaction model trained on the same pairs, weight 0.75" in own
    assert "supervision" not in own
    for foreign in ({"teacher": "some/reranker"}, {"in_batch_teacher": "some/colbert"}):
        text = card("tas_b", negatives=1, **foreign)
        assert f"`{next(iter(foreign.values()))}`" in text
        assert "trained on labels from elsewhere is supervision" in text
    none = card("tas_b", negatives=1, in_batch_teacher="none")
    assert "Teacher within a batch" not in none
    assert "supervision" not in none
    assert "Teacher" not in card("dpr")


def test_what_makes_a_row_different_is_in_its_recipe():
    assert "low-rank update (rank 16, alpha 32)" in card("lora")
    assert "FLOPS regulariser: 5e-05 on queries, 3e-05 on documents" in card("splade")
    assert "Binary cross-entropy" in card("bm25ce", negatives=4)
    assert "At most 512 tokens of a query and a document together" in card("bm25ce", negatives=4)
    assert "At most 32 tokens of a query and 350 of a document" in card("colbert", negatives=1)
    assert "Its own words." in card("dpr", reading="Its own words.")
