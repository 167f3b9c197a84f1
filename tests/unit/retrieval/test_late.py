"""ColBERT in training: MaxSim of a batch, its gradients, the loss, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from test_late_encoder import settings_for
from test_late_scores import slow_maxsim

from sptar.retrieval.late.encoder import load_late_encoder
from sptar.retrieval.late.scores import late_scores
from sptar.training.protocols import TrainingBatch
from sptar.training.trainable.late import LateTrainable, maxsim
from sptar.types import Document, Query
from tiny import DOCUMENTS, PAIRS, QUERIES

QRELS = {pair.query.query_id: {pair.document.doc_id: 1} for pair in PAIRS}


def batch_of(numbers, negatives=0):
    """Pairs, and as negatives the documents that follow."""
    return TrainingBatch(
        numbers=tuple(numbers),
        queries=tuple(PAIRS[i].query.text for i in numbers),
        positives=tuple(PAIRS[i].document.full_text for i in numbers),
        negatives=tuple(
            tuple(DOCUMENTS[(i + 8 + n) % 12].full_text for n in range(negatives)) for i in numbers
        ),
    )


def padded(parts, filler):
    """[n, t, d] with rows of ``filler`` behind each text, and the mask."""
    tokens = max(len(part) for part in parts) + 2
    vectors = torch.full((len(parts), tokens, parts[0].shape[1]), filler)
    mask = torch.zeros(len(parts), tokens, dtype=torch.bool)
    for number, part in enumerate(parts):
        vectors[number, : len(part)] = torch.as_tensor(part)
        mask[number, : len(part)] = True
    return vectors, mask


@pytest.mark.parametrize("at_once", [1, 300, 1 << 24])
@pytest.mark.parametrize("filler", [0.0, 100.0, -100.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_maxsim_of_a_batch_is_that_of_loops_and_padding_never_wins(at_once, filler, sign):
    """With all-negative similarities a padded token of zeros would win, if it took part."""
    generator = np.random.default_rng(0)
    queries = [sign * generator.uniform(0.1, 1, (n, 5)).astype(np.float32) for n in (3, 1, 4)]
    documents = [generator.uniform(0.1, 1, (n, 5)).astype(np.float32) for n in (2, 7, 0, 1, 4)]
    found = maxsim(*padded(queries, filler), *padded(documents, filler), at_once)
    expected = [[slow_maxsim(query, document) for document in documents] for query in queries]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_gradients_go_to_the_winning_tokens_alone_and_are_finite_for_empty_texts():
    queries = torch.tensor([[[1.0, 0.0], [9.0, 9.0]]], requires_grad=True)
    documents = torch.tensor(
        [[[0.5, 0.5], [0.8, 0.1], [9.0, 9.0]], [[3.0, 3.0], [3.0, 3.0], [3.0, 3.0]]],
        requires_grad=True,
    )
    query_mask = torch.tensor([[True, False]])
    document_mask = torch.tensor([[True, True, False], [False, False, False]])
    scores = maxsim(queries, query_mask, documents, document_mask)
    assert scores.tolist() == [[pytest.approx(0.8), pytest.approx(-1.0)]]
    torch.nn.functional.cross_entropy(scores, torch.tensor([1])).backward()
    assert torch.isfinite(documents.grad).all()
    assert torch.isfinite(queries.grad).all()
    moved = documents.grad.abs().sum(dim=-1) > 0
    assert moved.tolist() == [[False, True, False], [False, False, False]]
    assert (queries.grad.abs().sum(dim=-1) > 0).tolist() == [[True, False]]


@pytest.mark.parametrize("negatives", [0, 1, 2])
def test_the_loss_is_a_softmax_over_all_documents_of_the_batch(tiny_encoder, negatives):
    config = settings_for(tiny_encoder, scale=0.7)
    trainable = LateTrainable(load_late_encoder(None, config), config)
    trainable.module.eval()
    batch = batch_of(range(4), negatives)
    encoder = trainable.encoder
    texts = [*batch.positives, *(text for texts in batch.negatives for text in texts)]
    scores = 0.7 * late_scores(
        encoder.encode_queries([Query("q", text) for text in batch.queries]),
        encoder.encode_documents([Document("d", text) for text in texts]),
    )
    assert scores.shape == (4, 4 + 4 * negatives)
    expected = [np.log(np.exp(row - row[i]).sum()) for i, row in enumerate(scores.astype(float))]
    loss = trainable.loss(batch)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_micro_batches_give_the_same_loss_and_gradients(tiny_encoder, size):
    gradients = []
    for micro in (None, size):
        config = settings_for(tiny_encoder, micro_batch_size=micro)
        trainable = LateTrainable(load_late_encoder(None, config), config)
        trainable.module.eval()  # no dropout: its draws depend on the pieces
        loss = trainable.loss(batch_of(range(8), 1))
        loss.backward()
        gradients.append(
            (
                loss.item(),
                {
                    name: parameter.grad
                    for name, parameter in trainable.module.named_parameters()
                    if parameter.grad is not None
                },
            )
        )
    (loss, expected), (again, found) = gradients
    assert again == pytest.approx(loss, rel=1e-5)
    assert found.keys() == expected.keys()
    assert {"1.linear.weight"} < expected.keys()
    # Sums of float32 terms as large as the largest gradient, in another order.
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * largest)
        # The pooler is not used, and attention does not feel a shift of all its keys.
        if "key.bias" not in name:
            assert gradient.abs().max() > 0, name


def test_bfloat16_is_close_and_the_same_seed_gives_the_same_loss(tiny_encoder):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = settings_for(tiny_encoder, dtype=dtype)
        trainable = LateTrainable(load_late_encoder(None, config), config)
        trainable.module.train()
        with torch.random.fork_rng(devices=[]):
            drawn = []
            for seed in (1, 1, 2):
                torch.manual_seed(seed)
                drawn.append(trainable.loss(batch_of(range(8), 1)))
        assert drawn[0].item() == drawn[1].item() != drawn[2].item()
        assert drawn[0].dtype == torch.float32
        losses[dtype] = drawn[0].item()
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != losses["float32"]


def share_at_rank_one(run, qrels):
    return sum(next(iter(run[query_id])) in judged for query_id, judged in qrels.items()) / len(
        qrels
    )


def test_it_learns_its_pairs_and_says_the_same_after_saving(tiny_encoder, tmp_path):
    config = settings_for(tiny_encoder)
    trainable = LateTrainable(load_late_encoder(None, config), config)
    trainable.module.eval()
    before = trainable.rank(QUERIES, DOCUMENTS, 12)
    assert share_at_rank_one(before, QRELS) < 0.7
    optimizer = torch.optim.AdamW(trainable.module.parameters(), lr=2e-3)
    trainable.module.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(30):
            loss = trainable.loss(batch_of(range(8), 1))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    trainable.module.eval()
    after = trainable.rank(QUERIES, DOCUMENTS, 12)
    assert share_at_rank_one(after, QRELS) == 1.0
    trainable.save(tmp_path / "model")
    again = LateTrainable(load_late_encoder(tmp_path / "model", config), config)
    assert again.rank(QUERIES, DOCUMENTS, 12) == after
    assert again.reading() == trainable.reading()
    plain = MultiVectorEncoder(str(tmp_path / "model"), device="cpu")
    scores = plain.similarity(
        plain.encode_query([query.text for query in QUERIES]),
        plain.encode_document([document.full_text for document in DOCUMENTS]),
    )
    for row, query in enumerate(QUERIES):
        found = [after[query.query_id][document.doc_id] for document in DOCUMENTS]
        np.testing.assert_allclose(found, scores[row], rtol=1e-5)


def test_the_card_can_say_how_texts_are_read(tiny_encoder):
    config = settings_for(tiny_encoder, max_tokens=64, query_prompt="query: ")
    told = LateTrainable(load_late_encoder(None, config), config).reading_in_words()
    assert "32 tokens (filled up where it is shorter)" in told
    assert "at most 64 tokens; its punctuation gets no vector" in told
    assert "'query: '" in told
