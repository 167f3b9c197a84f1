"""The losses of a bi-encoder against the formulas, and what of it is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from rounding import rounding
from sptar.config import TrainConfig
from sptar.errors import ModelError
from sptar.retrieval.dense.encoder import load_encoder
from sptar.retrieval.specs import recipe
from sptar.training.dev_set import DevSet
from sptar.training.loop import TrainingData, train_retriever
from sptar.training.low_rank import add_low_rank
from sptar.training.protocols import TrainingBatch
from sptar.training.trainable.bi_encoder import BiEncoderTrainable
from sptar.types import Query
from steady import steady_adam
from tiny import DOCUMENTS, PAIRS, QUERIES, encoder

QUERY_TEXTS = tuple(query.text for query in QUERIES[:4])
TEXTS = tuple(document.full_text for document in DOCUMENTS)


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A start without dropout whose [CLS] tells texts apart."""
    return encoder(tmp_path_factory.mktemp("still") / "bert", spread=0.2, dropout=0)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return encoder(tmp_path_factory.mktemp("other") / "bert", seed=1, spread=0.2, dropout=0)


def trainable(start, row="dpr", **settings):
    config = recipe(TrainConfig(start=str(start), **settings), row)
    return BiEncoderTrainable(load_encoder(None, config), config)


def batch(negatives=0, teacher=None, in_batch=None):
    """Four pairs; their negatives are documents of the second half."""
    return TrainingBatch(
        numbers=(0, 1, 2, 3),
        queries=QUERY_TEXTS,
        positives=TEXTS[:4],
        negatives=tuple(
            tuple(TEXTS[4 + (2 * pair + column) % 8] for column in range(negatives))
            for pair in range(4)
        ),
        teacher=teacher,
        in_batch=in_batch,
    )


def vectors(model, texts, role):
    return model.encoder.encode_texts(texts, role).astype(np.float64)


def gradients(model):
    return {
        name: parameter.grad.clone()
        for name, parameter in model.module.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("row", ["dpr", "contriever"])
@pytest.mark.parametrize("negatives", [0, 1, 2])
def test_hard_negatives_are_further_columns_of_every_query(still, row, negatives):
    model = trainable(still, row)
    given = batch(negatives)
    columns = [*given.positives]
    for column in range(negatives):
        columns += [found[column] for found in given.negatives]
    scores = vectors(model, given.queries, "query") @ vectors(model, columns, "document").T
    scores *= 20.0 if row == "dpr" else 1.0
    own = np.diag(scores[:, :4])
    expected = np.mean(np.log(np.exp(scores - own[:, None]).sum(axis=1)))
    loss = model.loss(given)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_margins_of_both_teachers(still):
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(4, 3)).astype(np.float32)
    in_batch = rng.normal(size=(4, 4)).astype(np.float32)
    model = trainable(still, "tas_b", in_batch_weight=0.5)
    given = batch(2, teacher, in_batch)
    query = vectors(model, given.queries, "query")
    positive = vectors(model, given.positives, "document")
    pairs = []
    for pair in range(4):
        negative = vectors(model, given.negatives[pair], "document")
        for column in range(2):
            student = query[pair] @ positive[pair] - query[pair] @ negative[column]
            pairs.append((student - (teacher[pair, 0] - teacher[pair, 1 + column])) ** 2)
    others = [
        (query[i] @ positive[i] - query[i] @ positive[j] - (in_batch[i, i] - in_batch[i, j])) ** 2
        for i in range(4)
        for j in range(4)
        if i != j
    ]
    expected = np.mean(pairs) + 0.5 * np.mean(others)
    assert float(model.loss(given)) == pytest.approx(expected, rel=1e-4)
    alone = trainable(still, "tas_b").loss(batch(2, teacher))
    assert float(alone) == pytest.approx(np.mean(pairs), rel=1e-4)


@pytest.mark.parametrize("row", ["dpr", "dragon", "tas_b", "static"])
@pytest.mark.parametrize("size", [1, 3])
def test_the_cached_loss_has_the_gradients_of_the_plain_one(still, row, size):
    teacher = np.arange(8, dtype=np.float32).reshape(4, 2) if row == "tas_b" else None
    in_batch = np.arange(16, dtype=np.float32).reshape(4, 4) if row == "tas_b" else None
    given = batch(1, teacher, in_batch)
    plain, cached = trainable(still, row), trainable(still, row, micro_batch_size=size)
    losses = []
    for model in (plain, cached):
        model.module.train()
        loss = model.loss(given)
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    expected, found = gradients(plain), gradients(cached)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=rounding(products=40))


def test_a_cached_training_run_is_the_plain_one(still, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim, "AdamW", steady_adam())
    trained = []
    for size in (None, 3):
        config = recipe(
            TrainConfig(
                start=str(still), batch_size=8, epochs=3, learning_rate=1e-3, micro_batch_size=size
            )
        )
        folder = tmp_path / str(size)
        train_retriever(
            TrainingData(PAIRS),
            DevSet((), (), {}),
            config,
            5,
            folder / "out",
            lambda run, qrels: 0.0,
            folder / "state",
        )
        trained.append(load_encoder(folder / "out", config).encode_queries(QUERIES))
    np.testing.assert_allclose(trained[0], trained[1], atol=1e-4)


def train(start, folder, row, **settings):
    config = recipe(
        TrainConfig(start=str(start), batch_size=8, epochs=3, learning_rate=3e-3, **settings),
        row,
    )
    result = train_retriever(
        TrainingData(PAIRS),
        DevSet((), (), {}),
        config,
        5,
        folder / "out",
        lambda run, qrels: 0.0,
        folder / "state",
    )
    return config, result


def test_separate_towers_are_trained_apart_and_come_back(still, other, tmp_path):
    config, result = train(
        still, tmp_path, "dpr", towers="separate", query_start=str(other), scale=1.0
    )
    start = load_encoder(None, config)
    trained = load_encoder(tmp_path / "out", config)
    assert start.two_towers
    assert trained.two_towers
    texts = [query.text for query in QUERIES]
    # Each tower starts as the model it was made of, and ends as something else.
    for role, model in (("query", other), ("document", still)):
        alone = load_encoder(model, recipe(TrainConfig(start=str(model))))
        before = start.encode_texts(texts, role)
        np.testing.assert_allclose(before, alone.encode_texts(texts, role), atol=1e-6)
        assert np.abs(trained.encode_texts(texts, role) - before).max() > 1e-2
    assert (
        np.abs(trained.encode_texts(texts, "query") - trained.encode_texts(texts, "document")).max()
        > 1e-2
    )
    plain = SentenceTransformer(str(tmp_path / "out"))
    np.testing.assert_allclose(
        plain.encode_query(texts, normalize_embeddings=True),
        trained.encode_texts(texts, "query"),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        plain.encode_document(texts, normalize_embeddings=True),
        trained.encode_texts(texts, "document"),
        atol=1e-6,
    )
    shared = sum(parameter.numel() for parameter in load_encoder(still).model.parameters())
    assert result.parameters == 2 * shared
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`bert` for documents, `bert` for queries" in card


def test_a_shared_tower_is_counted_once(still, tmp_path):
    _, result = train(still, tmp_path, "dpr")
    shared = sum(parameter.numel() for parameter in load_encoder(still).model.parameters())
    assert result.parameters == shared


@pytest.mark.parametrize("shape", ["llama", "gpt2", "qwen", "encoder"])
def test_only_the_low_rank_update_is_trained_and_the_merged_model_is_the_same(
    tiny_models, still, tmp_path, shape
):
    start = still if shape == "encoder" else tiny_models[shape]
    model = trainable(start, "lora", lora_rank=3)
    names = {name for name, p in model.module.named_parameters() if p.requires_grad}
    assert names
    assert all("lora_" in name for name in names)
    before = load_encoder(start, recipe(TrainConfig(), "lora")).encode_queries(QUERIES)
    # The update starts as zero.
    np.testing.assert_allclose(model.encoder.encode_queries(QUERIES), before, atol=1e-6)
    frozen = {
        name: parameter.detach().clone()
        for name, parameter in model.module.named_parameters()
        if name not in names
    }
    optimizer = torch.optim.AdamW(
        [p for p in model.module.parameters() if p.requires_grad], lr=1e-2
    )
    for _ in range(3):
        model.loss(batch(1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in model.module.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name])
    expected = model.encoder.encode_queries(QUERIES)
    assert np.abs(expected - before).max() > 1e-2
    model.save(tmp_path)
    assert not any("lora" in name for name in load_file(tmp_path / "model.safetensors"))
    saved = load_encoder(tmp_path, recipe(TrainConfig(), "lora"))
    np.testing.assert_allclose(saved.encode_queries(QUERIES), expected, atol=1e-5)
    np.testing.assert_allclose(model.encoder.encode_queries(QUERIES), expected, atol=1e-5)


def test_the_low_rank_update_is_the_same_each_time_and_its_state_is_small(still, tmp_path):
    first, second = trainable(still, "lora"), trainable(still, "lora")
    for one, other_one in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(one, other_one)
    train(still, tmp_path, "lora")
    stored = load_file(tmp_path / "state" / "weights-epoch-0003.safetensors")
    assert all("lora_" in name for name in stored)


def test_the_last_token_of_a_padded_text_is_its_own_last_token(tiny_models):
    """A short text beside a long one, against the text alone."""
    model = trainable(tiny_models["llama"], "lora")
    together = model.encoder.embed([TEXTS[2], TEXTS[1]], "document")[0]
    alone = model.encoder.embed([TEXTS[2]], "document")[0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert model.encoder.pooling == "lasttoken"


def test_a_start_without_layers_takes_no_low_rank_update(still):
    with pytest.raises(ModelError, match="no transformer"):
        add_low_rank(trainable(still, "static").module, 4, 8.0)


def test_queries_may_be_read_shorter_than_documents(still, tmp_path):
    config = recipe(TrainConfig(start=str(still), max_tokens=32, max_query_tokens=6))
    model = BiEncoderTrainable(load_encoder(None, config), config)
    long = Query("long", "how do bees share the place of flowers with each other on the comb")
    short = Query("short", "how do bees share")
    one, other_one = model.encoder.encode_queries([long, short])
    np.testing.assert_allclose(one, other_one, atol=1e-6)
    as_documents = model.encoder.encode_texts([long.text, short.text], "document")
    assert np.abs(as_documents[0] - as_documents[1]).max() > 1e-3
    assert (model.encoder.max_tokens, model.encoder.max_query_tokens) == (32, 6)
    model.save(tmp_path)
    plain = SentenceTransformer(str(tmp_path))
    np.testing.assert_allclose(
        plain.encode_query(long.text, normalize_embeddings=True), one, atol=1e-6
    )
    assert "6 tokens of a query and 32 of a document" in model.reading_in_words()


def test_the_ranking_of_the_dev_set_is_exact(still):
    model = trainable(still)
    model.module.eval()
    found = model.rank(QUERIES, DOCUMENTS, 5)
    scores = (
        vectors(model, [q.text for q in QUERIES], "query") @ vectors(model, TEXTS, "document").T
    )
    for query, row in zip(QUERIES, scores, strict=True):
        best = [DOCUMENTS[i].doc_id for i in np.argsort(-row)[:5]]
        assert list(found[query.query_id]) == best
