"""Training a cross-encoder is binary classification of pairs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from crossencoder_models import TEXTS, config_of
from sentence_transformers import CrossEncoder
from training_runs import DEV, Scripted

from rounding import rounding
from sptar.retrieval.cross.reranker import load_cross_encoder
from sptar.training.loop import TrainingData, train_retriever
from sptar.training.losses import cached as cached_loss
from sptar.training.protocols import TrainingBatch
from sptar.training.trainable.cross import CrossEncoderTrainable
from tiny import DOCUMENTS, PAIRS, QUERIES


def batch_of(pairs, negatives=2):
    return TrainingBatch(
        numbers=tuple(range(len(pairs))),
        queries=tuple(pair.query.text for pair in pairs),
        positives=tuple(pair.document.full_text for pair in pairs),
        negatives=tuple(
            tuple(TEXTS[(number + 1 + k) % len(TEXTS)] for k in range(negatives))
            for number in range(len(pairs))
        ),
    )


def test_the_loss_is_the_mean_cross_entropy_of_all_rows(classifier):
    """By hand from the plain library's scores: -ln σ(s) for a positive, -ln (1 - σ(s)) else."""
    config = config_of(classifier)
    trainable = CrossEncoderTrainable(load_cross_encoder(None, config), config, None)
    assert trainable.spec.name == "bm25ce"
    plain = CrossEncoder(str(classifier), device="cpu", activation_fn=torch.nn.Identity())
    plain.max_seq_length = 64
    batch = batch_of(PAIRS[:3], negatives=4)
    losses = []
    for query, positive, negatives in zip(
        batch.queries, batch.positives, batch.negatives, strict=True
    ):
        losses.append(np.log1p(np.exp(-plain.predict([(query, positive)])[0])))
        losses += [np.log1p(np.exp(plain.predict([(query, text)])[0])) for text in negatives]
    assert len(losses) == 15
    found = trainable.loss(batch)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def gradient_of(trainable, batch, *, training):
    trainable.module.train(training)
    trainable.module.zero_grad()
    torch.manual_seed(5)
    loss = trainable.loss(batch)
    loss.backward()
    return loss.item(), {
        name: parameter.grad.clone()
        for name, parameter in trainable.module.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("size", [1, 4, 100])
def test_micro_batches_change_neither_loss_nor_gradient(classifier, size):
    batch = batch_of(PAIRS[:5])
    found = []
    for micro in (None, size):
        config = config_of(classifier, micro_batch_size=micro)
        trainable = CrossEncoderTrainable(load_cross_encoder(None, config), config, None)
        found.append(gradient_of(trainable, batch, training=False))
    assert found[0][0] == pytest.approx(found[1][0], rel=rounding())
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-6)


def test_with_dropout_a_piece_is_read_the_same_way_twice(classifier, monkeypatch):
    """Against the same pieces with the same random numbers, kept in memory."""
    config = config_of(classifier, micro_batch_size=4)
    batch = batch_of(PAIRS[:5])
    trainable = CrossEncoderTrainable(load_cross_encoder(None, config), config, None)
    loss, found = gradient_of(trainable, batch, training=True)
    with monkeypatch.context() as patched:
        patched.setattr(cached_loss, "checkpoint", lambda embed, *args, use_reentrant: embed(*args))
        kept_loss, kept = gradient_of(trainable, batch, training=True)
    assert loss == kept_loss
    assert found.keys() == kept.keys()
    for name, gradient in kept.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
    other, _ = gradient_of(trainable, batch, training=False)
    assert abs(other - loss) > 1e-4


@pytest.mark.parametrize("micro", [None, 4])
def test_bfloat16_is_for_the_model_and_not_for_the_loss(classifier, micro):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = config_of(classifier, dtype=dtype, micro_batch_size=micro)
        trainable = CrossEncoderTrainable(load_cross_encoder(None, config), config, None)
        trainable.module.eval()
        loss = trainable.loss(batch_of(PAIRS[:4]))
        loss.backward()
        assert loss.dtype == torch.float32
        losses[dtype] = loss.item()
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_it_learns_its_pairs_and_ranks_the_candidates(classifier, tmp_path):
    config = config_of(classifier)
    batch = batch_of(PAIRS[:5], negatives=3)
    candidates = {
        pair.query.query_id: dict.fromkeys(
            [document.doc_id for document in DOCUMENTS[number : number + 4]], 1.0
        )
        for number, pair in enumerate(PAIRS[:5])
    }
    candidates["q07"] = {"d05": 1.0, "d99": 1.0, "d01": 2.0}
    trainable = CrossEncoderTrainable(load_cross_encoder(None, config), config, candidates)
    optimiser = torch.optim.AdamW(trainable.module.parameters(), lr=3e-3)
    trainable.module.train()
    torch.manual_seed(1)
    losses = []
    for _ in range(80):
        loss = trainable.loss(batch)
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    # Always telling the share of the positives, 1 in 4, would cost 0.56.
    assert losses[0] > 0.56
    # One batch alone can be hit hard by dropout.
    assert np.mean(losses[-10:]) < 0.3
    trainable.module.eval()
    run = trainable.rank(QUERIES, DOCUMENTS, 3)
    for pair in PAIRS[:5]:
        assert next(iter(run[pair.query.query_id])) == pair.document.doc_id
        assert len(run[pair.query.query_id]) == 3
    assert set(run["q07"]) == {"d05", "d01"}
    assert run["q08"] == {}
    trainable.save(tmp_path / "trained")
    plain = CrossEncoder(str(tmp_path / "trained"), device="cpu")
    rows = [(QUERIES[0].text, DOCUMENTS[int(doc_id[1:]) - 1].full_text) for doc_id in run["q01"]]
    np.testing.assert_allclose(plain.predict(rows), list(run["q01"].values()), atol=2e-5)


def test_without_candidates_all_documents_are_ranked(classifier):
    config = config_of(classifier)
    trainable = CrossEncoderTrainable(load_cross_encoder(None, config), config, None)
    run = trainable.rank(QUERIES[:2], DOCUMENTS, 100)
    assert {len(found) for found in run.values()} == {len(DOCUMENTS)}


def test_what_is_read_is_part_of_the_identity(classifier):
    def reading(**settings):
        config = config_of(classifier, **settings)
        reranker = load_cross_encoder(None, config)
        return json.dumps(CrossEncoderTrainable(reranker, config, None).reading())

    told = {
        reading(),
        reading(max_tokens=32),
        reading(max_query_tokens=8),
        reading(query_prompt="ask: "),
        reading(document_prompt="tell: "),
    }
    assert len(told) == 5


def test_the_card_says_how_texts_are_read(classifier):
    config = config_of(classifier, max_query_tokens=8, query_prompt="ask: ")
    told = CrossEncoderTrainable(load_cross_encoder(None, config), config, None)
    words = told.reading_in_words()
    assert "at most 64 tokens of both and 8 of the query; the longer one is cut." in words
    assert "ask: " in words


def test_the_start_of_a_cross_encoder_is_never_kept(classifier, tmp_path):
    """Its output layer is new: what dev says of it by chance is no reason to keep it."""
    negatives = [[DOCUMENTS[(number + 3) % len(DOCUMENTS)]] for number in range(6)]
    config = config_of(classifier, epochs=2, batch_size=4, steps_per_epoch=2)
    assert config.keep == "best_or_start"
    candidates = {
        query.query_id: {document.doc_id: 1.0 for document in DOCUMENTS} for query in QUERIES
    }
    dev = replace(DEV, candidates=candidates)
    result = train_retriever(
        TrainingData(PAIRS[:6], negatives),
        dev,
        config,
        5,
        tmp_path / "out",
        Scripted(0.9, 0.2, 0.4),
        tmp_path / "state",
    )
    assert (result.start_dev_score, result.best_epoch, result.best_dev_score) == (0.9, 2, 0.4)
