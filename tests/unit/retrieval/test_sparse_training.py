"""The loss of a sparse encoder, its regularisers, and what it learns."""

from __future__ import annotations

import json
import math

import pytest
import torch
from sentence_transformers import SparseEncoder
from sparse_models import TEXTS, splade
from training_runs import QRELS

from sptar.retrieval.ranking import ListedIds
from sptar.retrieval.sparse.encoder import load_sparse_encoder
from sptar.training.dev_set import DevSet
from sptar.training.loop import TrainingData, train_retriever
from sptar.training.protocols import TrainingBatch
from sptar.training.trainable.sparse import SparseTrainable, flops
from tiny import DOCUMENTS, PAIRS, QUERIES

BATCH = TrainingBatch(
    numbers=tuple(range(4)),
    queries=tuple(pair.query.text for pair in PAIRS[:4]),
    positives=tuple(pair.document.full_text for pair in PAIRS[:4]),
    negatives=tuple((DOCUMENTS[8 + i].full_text, DOCUMENTS[4 + i].full_text) for i in range(4)),
)
NEGATIVES = [(DOCUMENTS[8 + number % 4],) for number in range(len(PAIRS))]
"""With the pairs' own documents these are all: nothing is ranked that was not trained on."""


def without_dropout(module):
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return module


def share_at_rank_one(run, qrels):
    hits = sum(next(iter(run[query_id]), "") in judged for query_id, judged in qrels.items())
    return hits / len(qrels)


def test_flops_by_hand():
    weights = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 4.0, 1.0]])
    assert flops(weights).item() == 0.5**2 + 0.0 + 3.0**2 + 0.5**2
    # The same activity spread over more words costs less.
    assert flops(torch.tensor([[2.0, 0.0], [0.0, 2.0]])) < flops(
        torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    )


def test_the_loss_by_loops(masked_lm):
    config = splade(masked_lm, scale=0.1, query_sparsity=0.02, document_sparsity=0.03)
    trainable = SparseTrainable(load_sparse_encoder(None, config), config)
    encoder = trainable.encoder
    queries = encoder.encode_texts(BATCH.queries, "query").toarray().astype(float)
    texts = [*BATCH.positives, *(text for row in BATCH.negatives for text in row)]
    documents = encoder.encode_texts(texts, "document").toarray().astype(float)
    expected = 0.0
    for number, query in enumerate(queries):
        scores = [0.1 * sum(query * document) for document in documents]
        expected -= scores[number] - math.log(sum(math.exp(score) for score in scores))
    expected /= len(queries)
    for weight, vectors in ((0.02, queries), (0.03, documents)):
        expected += weight * sum((sum(column) / len(column)) ** 2 for column in vectors.T)
    loss = trainable.loss(BATCH)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    # Negatives and both regularisers are in it.
    for change in ({"query_sparsity": 0.0}, {"document_sparsity": 0.0}, {"scale": 0.2}):
        other = SparseTrainable(encoder, config.model_copy(update=change))
        assert abs(other.loss(BATCH).item() - loss.item()) > 1e-3
    without = TrainingBatch(BATCH.numbers, BATCH.queries, BATCH.positives, ((),) * 4)
    assert abs(trainable.loss(without).item() - loss.item()) > 1e-3


@pytest.mark.parametrize("kind", ["masked_lm", "encoder"])
def test_a_loss_in_pieces_has_the_same_gradients(kind, starts):
    found = []
    for size in (None, 3):
        config = splade(starts[kind], micro_batch_size=size, query_sparsity=1e-3)
        trainable = SparseTrainable(load_sparse_encoder(None, config), config)
        without_dropout(trainable.module).train()
        loss = trainable.loss(BATCH)
        loss.backward()
        gradients = {
            name: parameter.grad
            for name, parameter in trainable.module.named_parameters()
            if parameter.grad is not None
        }
        found.append((loss.item(), gradients))
    (whole, expected), (pieces, gradients) = found
    assert pieces == pytest.approx(whole, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-3)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3


def test_the_loss_in_bfloat16_is_float32_and_close(masked_lm):
    losses = []
    for dtype in ("float32", "bfloat16"):
        config = splade(masked_lm, dtype=dtype)
        loss = SparseTrainable(load_sparse_encoder(None, config), config).loss(BATCH)
        assert loss.dtype == torch.float32
        losses.append(loss.item())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("kind", ["masked_lm", "encoder"])
def test_it_learns_its_pairs_and_the_plain_library_ranks_alike(kind, starts, tmp_path):
    config = splade(starts[kind], batch_size=8, epochs=30, patience=30, learning_rate=3e-3)
    result = train_retriever(
        TrainingData(PAIRS, NEGATIVES),
        DevSet(QUERIES, DOCUMENTS, QRELS),
        config,
        5,
        tmp_path / "model",
        share_at_rank_one,
        tmp_path / "state",
    )
    assert result.start_dev_score < 0.7
    assert result.best_dev_score == 1.0
    trained = load_sparse_encoder(tmp_path / "model", config)
    block = trained.encode_documents(DOCUMENTS)
    found = trained.searcher([block], ListedIds(DOCUMENTS)).search(QUERIES, 100)
    assert share_at_rank_one(found, QRELS) == 1.0
    plain = SparseEncoder(str(tmp_path / "model"))
    scores = plain.similarity(
        plain.encode_query([query.text for query in QUERIES]), plain.encode_document(TEXTS)
    ).numpy()
    for row, query in zip(scores, QUERIES, strict=True):
        for column, document in enumerate(DOCUMENTS):
            expected = found[query.query_id].get(document.doc_id, 0.0)
            assert row[column] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_regulariser_makes_vectors_sparse(tiny_encoder):
    """Without it they stay dense; each weight acts on its own role."""
    active = {}
    for weights in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.1)):
        config = splade(tiny_encoder, query_sparsity=weights[0], document_sparsity=weights[1])
        trainable = SparseTrainable(load_sparse_encoder(None, config), config)
        without_dropout(trainable.module).train()
        optimizer = torch.optim.AdamW(trainable.module.parameters(), lr=2e-3)
        for _ in range(30):
            trainable.loss(BATCH).backward()
            optimizer.step()
            optimizer.zero_grad()
        trainable.module.eval()
        active[weights] = (
            trainable.encoder.encode_texts(BATCH.queries, "query").nnz / 4,
            trainable.encoder.encode_texts(BATCH.positives, "document").nnz / 4,
        )
    dense, sparse_queries, sparse_documents = active.values()
    assert sparse_queries[0] < 0.5 * dense[0]
    assert sparse_documents[1] < 0.5 * dense[1]
    assert sparse_queries[0] < sparse_documents[0]
    assert sparse_documents[1] < sparse_queries[1]


def test_a_training_that_was_stopped_goes_on_bit_for_bit(masked_lm, tmp_path):
    config = splade(masked_lm, batch_size=4, epochs=4, patience=4, learning_rate=1e-3)

    def train(name, stop_at=None):
        calls = []

        def dev_score(run, qrels):
            calls.append(run)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            # Later is better, so that the last epoch is kept.
            return float(len(calls)) if stop_at is None else len(calls) / 100

        result = train_retriever(
            TrainingData(PAIRS, NEGATIVES),
            DevSet(QUERIES, DOCUMENTS, QRELS),
            config,
            5,
            tmp_path / name,
            dev_score,
            tmp_path / f"{name}-state",
        )
        return result, (tmp_path / name / "model.safetensors").read_bytes()

    _, expected = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("stopped", stop_at=4)
    result, found = train("stopped")
    assert result.resumed_after == 2
    assert found == expected


def test_how_texts_are_read_is_part_of_the_identity(masked_lm):
    readings = [
        SparseTrainable(load_sparse_encoder(None, config), config).reading()
        for config in (
            splade(masked_lm),
            splade(masked_lm, max_tokens=20),
            splade(masked_lm, max_query_tokens=9),
            splade(masked_lm, query_prompt="q: "),
            splade(masked_lm, document_prompt="d: "),
        )
    ]
    assert len({json.dumps(reading) for reading in readings}) == 5
    config = splade(masked_lm, max_tokens=20, max_query_tokens=9, query_prompt="q: ")
    words = SparseTrainable(load_sparse_encoder(None, config), config).reading_in_words()
    assert "at most 9 tokens of a query and 20 of a document" in words
    assert "'q: '" in words
