"""What every retriever of the table must do, whatever its recipe: one suite for all rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from retriever_examples import (
    DEV,
    QRELS,
    ROWS,
    SETTINGS,
    OwnDocument,
    Trained,
    share_at_rank_one,
    train,
    training_data,
)
from safetensors.torch import load_file

from rounding import rounding
from sptar.config import TrainConfig
from sptar.retrieval.families import load_corpus_encoder
from sptar.retrieval.ranking import ListedIds
from sptar.retrieval.specs import RETRIEVERS, recipe, retriever_spec
from sptar.steps.recipes import training_settings
from sptar.training.protocols import TrainingBatch
from sptar.training.students import load_trainable
from sptar.training.texts import TrainingTexts
from sptar.types import Document, Query
from tiny import DOCUMENTS, PAIRS, QUERIES, encoder


@pytest.fixture(scope="module")
def starts(tiny_encoder, tiny_models, tmp_path_factory):
    wide = tmp_path_factory.mktemp("wide") / "bert"
    return {**tiny_models, "encoder": tiny_encoder, "wide": encoder(wide, spread=0.2, dropout=0)}


@pytest.fixture(scope="module", params=ROWS, ids="-".join)
def example(request, starts):
    row, start = request.param
    config = recipe(
        TrainConfig(
            start=str(starts[start]),
            batch_size=8,
            epochs=15,
            steps_per_epoch=4,
            learning_rate=3e-3,
            query_prompt="query: ",
            document_prompt="document: ",
            max_tokens=64,
        ),
        RETRIEVERS[row].reranks or row,
        SETTINGS.get(row),
    )
    return row, config


@pytest.fixture(scope="module")
def trained(example, tmp_path_factory):
    row, config = example
    folder = tmp_path_factory.mktemp(row) / "model"
    return Trained(row, folder, config, train(config, folder))


def assert_same_rankings(found, expected):
    assert found.keys() == expected.keys()
    for query_id, scores in expected.items():
        assert list(found[query_id]) == list(scores)
        assert list(found[query_id].values()) == pytest.approx(
            list(scores.values()), rel=rounding(), abs=rounding(size=2.0)
        )


def test_the_query_itself_is_no_answer_and_a_namesake_is_one(trained):
    text = DOCUMENTS[0].full_text
    itself, other = (Query(DOCUMENTS[0].doc_id, text, is_document=own) for own in (True, False))
    without = trained.search(queries=[itself])[itself.query_id]
    found = trained.search(queries=[other])[other.query_id]
    assert DOCUMENTS[0].doc_id in found
    assert DOCUMENTS[0].doc_id not in without
    rest = {doc_id: score for doc_id, score in found.items() if doc_id != itself.query_id}
    assert_same_rankings({"q": without}, {"q": rest})


def test_it_learns_its_training_pairs(trained):
    assert trained.result.start_dev_score < 0.8
    assert trained.result.best_dev_score == 1.0
    assert share_at_rank_one(trained.search(), QRELS) == 1.0


def test_it_loads_back_to_identical_scores(trained):
    assert trained.search() == trained.search()


def test_the_ranking_depends_on_no_batch_block_or_order(trained, tmp_path):
    expected = trained.search()
    assert_same_rankings(trained.search(batch_size=1, block=3), expected)
    assert_same_rankings(trained.search(DOCUMENTS[::-1], batch_size=5, block=1), expected)
    assert_same_rankings(
        trained.search(DOCUMENTS[6:] + DOCUMENTS[:6], batch_size=3, block=5, disk=tmp_path),
        expected,
    )


def test_each_query_is_answered_as_if_it_were_alone(trained):
    expected = trained.search()
    for query in QUERIES[:3]:
        assert_same_rankings(
            trained.search(queries=[query]), {query.query_id: expected[query.query_id]}
        )


def test_blocks_can_be_joined_and_may_be_empty(trained, tmp_path):
    if trained.spec.is_reranker:
        pytest.skip("a reranker keeps no blocks")
    encoder = load_corpus_encoder(trained.folder, trained.config)
    empty = encoder.encode_block([])
    parts = [empty, encoder.encode_block(DOCUMENTS[:5]), encoder.encode_block(DOCUMENTS[5:])]
    path = tmp_path / f"joined{encoder.block_suffix}"
    encoder.save_block(path, encoder.join_blocks(parts))
    run = encoder.searcher([empty, path], ListedIds(DOCUMENTS)).search(QUERIES, 100)
    assert_same_rankings(run, trained.search())


def test_only_the_best_are_returned_and_never_the_query_itself(trained):
    documents = [
        *DOCUMENTS,
        Document("q01", QUERIES[0].text),
        Document("q01 again", QUERIES[0].text),
    ]
    run = trained.search(documents)
    assert "q01" not in run["q01"]
    assert "q01" in run["q02"]
    assert "q01 again" in run["q01"]
    scores = run["q02"]
    assert scores["q01"] == pytest.approx(
        scores["q01 again"], rel=rounding(), abs=rounding(size=2.0)
    )


def test_empty_and_over_long_texts_work(trained):
    odd = [*DOCUMENTS, Document("empty", ""), Document("long", "bees dance on the comb " * 300)]
    queries = [*QUERIES, Query("empty query", " "), Query("long query", "bees " * 500)]
    run = trained.search(odd, queries)
    assert run.keys() == {query.query_id for query in queries}
    for scores in run.values():
        assert len(scores) == len(odd) or trained.spec.family == "sparse"
        assert np.isfinite(list(scores.values())).all()
    expected = trained.search()
    for query_id, scores in expected.items():
        kept = {doc_id: score for doc_id, score in run[query_id].items() if doc_id in scores}
        assert_same_rankings({query_id: kept}, {query_id: scores})


def plain_scores(trained, queries, documents):
    """[q, d] scores by the plain library, by its own methods, from the saved folder alone."""
    folder, family = str(trained.folder), trained.spec.family
    query_texts = [query.text for query in queries]
    document_texts = [document.full_text for document in documents]
    if family == "cross_encoder":
        from sentence_transformers import CrossEncoder

        # Its ``predict`` knows no prompts for the two sides.
        pairs = [
            (f"query: {query}", f"document: {document}")
            for query in query_texts
            for document in document_texts
        ]
        return CrossEncoder(folder).predict(pairs).reshape(len(queries), len(documents))
    if family == "late_interaction":
        from sentence_transformers import MultiVectorEncoder as Library
    elif family == "sparse":
        from sentence_transformers import SparseEncoder as Library
    else:
        from sentence_transformers import SentenceTransformer as Library
    model = Library(folder)
    found = model.similarity(model.encode_query(query_texts), model.encode_document(document_texts))
    return np.asarray(found)


def test_the_plain_library_gives_the_same_scores(trained):
    """From the folder alone: prompts and bounds lie in it."""
    long = Document("long", "the bees dance on the comb and tell each other " * 40)
    documents = [*DOCUMENTS, long]
    scores = plain_scores(trained, QUERIES, documents)
    run = trained.search(documents)
    for query, row in zip(QUERIES, scores, strict=True):
        for document, score in zip(documents, row, strict=True):
            ours = run[query.query_id].get(document.doc_id, 0.0)
            assert ours == pytest.approx(float(score), rel=2e-5, abs=2e-5)


@pytest.mark.parametrize("role", ["query", "document"])
def test_prompts_matter(trained, role):
    run = trained.search(**{f"{role}_prompt": "bees: "})
    expected = trained.search()
    differences = [
        abs(run[query_id].get(doc_id, 0.0) - score)
        for query_id, scores in expected.items()
        for doc_id, score in scores.items()
    ]
    assert max(differences) > 1e-3


def test_the_folder_is_safe_and_names_no_machine(trained):
    start = Path(trained.config.start)
    files = [file for file in trained.folder.rglob("*") if file.is_file()]
    assert any(file.suffix == ".safetensors" for file in files)
    for file in files:
        assert file.suffix in {".json", ".safetensors", ".md", ".txt"}
        content = file.read_bytes()
        assert str(start.parent).encode() not in content
        assert str(trained.folder.parent).encode() not in content


def test_the_card_tells_what_it_was_made_from(trained):
    card = (trained.folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert f"`{Path(trained.config.start).name}`" in card
    assert "8 pairs" in card
    assert "8 distinct queries, 8 distinct documents" in card
    assert "share at rank 1 on 8 dev queries" in card
    assert f"epoch {trained.result.best_epoch} of {len(trained.result.history)}" in card
    assert card.count("\n| ") == 3 + len(trained.result.history)
    library = {
        "bi_encoder": "SentenceTransformer",
        "late_interaction": "MultiVectorEncoder",
        "sparse": "SparseEncoder",
        "cross_encoder": "CrossEncoder",
    }[trained.spec.family]
    assert f'model = {library}("path/to/this/folder")' in card
    assert "'query: '" in card
    assert ("Hard negatives of each pair" in card) == (trained.config.negatives != "none")
    assert ("Teacher of the margins" in card) == (trained.spec.loss == "margin_mse")


def weights(folder):
    return {
        (file.relative_to(folder), name): tensor
        for file in folder.rglob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def test_a_killed_training_goes_on_to_the_same_weights(example, tmp_path):
    config = example[1].model_copy(update={"epochs": 2, "steps_per_epoch": 2})
    calls = []

    def scripted(run, qrels):
        calls.append(run)
        if len(calls) == killed:
            raise KeyboardInterrupt
        return float(len(calls))

    killed = 0
    train(config, tmp_path / "whole", scripted, "first")
    calls.clear()
    killed = 3
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "again", scripted, "second")
    resumed = train(config, tmp_path / "again", scripted, "second")
    assert (resumed.resumed_after, resumed.best_epoch) == (1, 2)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "again")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_cached_loss_has_the_gradients_of_the_plain_one(example, starts):
    """Without dropout, which draws other numbers for other batches."""
    _, config = example
    if config.start == str(starts["encoder"]):
        config = config.model_copy(update={"start": str(starts["wide"])})
    texts = TrainingTexts.of(training_data(config).pairs, training_data(config).negatives)
    margins = retriever_spec(config).loss == "margin_mse"
    batch = TrainingBatch(
        numbers=tuple(range(len(PAIRS))),
        queries=texts.queries,
        positives=texts.documents,
        negatives=texts.negatives,
        teacher=training_data(config).teacher_scores,
        in_batch=OwnDocument().scores(range(len(PAIRS))) if margins else None,
    )
    results = []
    for size in (None, 3):
        cut = config.model_copy(update={"micro_batch_size": size})
        trainable = load_trainable(cut, DEV)
        trainable.module.train()
        loss = trainable.loss(batch)
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        loss.backward()
        gradients = {
            name: parameter.grad
            for name, parameter in trainable.module.named_parameters()
            if parameter.grad is not None
        }
        results.append((float(loss.detach()), gradients))
    (plain_loss, plain), (cached_loss, cached) = results
    assert cached_loss == pytest.approx(plain_loss, rel=1e-4)
    assert plain.keys() == cached.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(
            cached[name],
            gradient,
            rtol=1e-3,
            atol=rounding(products=40, size=max(1.0, float(gradient.abs().max()))),
        )


VALUES = {
    "scale": (7.5, 8.5),
    "pooling": ("mean", "cls"),
    "towers": ("shared", "separate"),
    "encode_dtype": ("float32", "bfloat16"),
    "token_dimension": (77, 78),
    "query_sparsity": (0.5, 0.6),
    "document_sparsity": (0.5, 0.6),
    "lora_rank": (3, 4),
    "lora_alpha": (3.0, 4.0),
    "in_batch_weight": (0.1, 0.2),
}


def test_its_identity_knows_the_settings_that_it_reads_and_no_others(example, monkeypatch):
    """A setting that a row never reads must not train it anew, one that it reads must."""
    _, config = example
    read = set()

    def recorded(self, name):
        read.add(name)
        return object.__getattribute__(self, name)

    texts = TrainingTexts.of(training_data(config).pairs, training_data(config).negatives)
    margins = retriever_spec(config).loss == "margin_mse"
    batch = TrainingBatch(
        numbers=tuple(range(len(PAIRS))),
        queries=texts.queries,
        positives=texts.documents,
        negatives=texts.negatives,
        teacher=training_data(config).teacher_scores,
        in_batch=OwnDocument().scores(range(len(PAIRS))) if margins else None,
    )
    monkeypatch.setattr(TrainConfig, "__getattribute__", recorded)
    trainable = load_trainable(config, DEV)
    trainable.module.train()
    trainable.loss(batch)
    monkeypatch.undo()
    if retriever_spec(config).start_layers == "token_table":
        # It is passed to the loader of a model of which only the token table is taken.
        read.discard("pooling")
    known = {
        name
        for name, (one, other) in VALUES.items()
        if training_settings(config.model_copy(update={name: one}))
        != training_settings(config.model_copy(update={name: other}))
    }
    assert known == read & set(VALUES)
    assert {"start", "max_tokens"} <= read
