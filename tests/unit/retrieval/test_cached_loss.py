"""Embedding in pieces changes memory, not gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rounding import rounding
from sptar.training.losses.cached import embed_in_pieces, vectors_in_pieces

CPU = torch.device("cpu")
TEXTS = ["bees", "a sourdough starter", "frost", "the ferry", "glass of sand", "", "cork oaks"]


class Letters(torch.nn.Module):
    """A text to the mean of its letters' vectors, through a layer with dropout."""

    def __init__(self, dropout=0.0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.table = torch.nn.Embedding(128, 6)
            self.layer = torch.nn.Linear(6, 4)
        self.dropout = torch.nn.Dropout(dropout)
        self.calls = []

    def forward(self, texts):
        self.calls.append(list(texts))
        rows = [
            self.table(torch.tensor([ord(letter) for letter in f"^{text}"])).mean(dim=0)
            for text in texts
        ]
        return torch.tanh(self.layer(self.dropout(torch.stack(rows))))


def in_batch_loss(vectors):
    """Every text against every other: no term belongs to one text alone."""
    scores = 3.0 * vectors @ vectors.T
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(vectors)).flip(0))


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=12), st.integers(1, 14))
def test_gradients_are_those_of_the_whole_batch(texts, size):
    whole, cut = Letters(), Letters()
    expected = in_batch_loss(whole(texts))
    expected.backward()
    loss = in_batch_loss(vectors_in_pieces(cut, texts, size, CPU))
    loss.backward()
    # Three products in a row; the sums go over the letters of a text and over pairs of texts.
    error = rounding(products=3, terms=144)
    assert float(loss) == pytest.approx(float(expected), rel=error)
    for ours, theirs in zip(gradients(cut), gradients(whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2 * error)


def test_the_pieces_have_their_size_and_texts_of_similar_length():
    model = Letters()
    vectors = vectors_in_pieces(model, TEXTS, 3, CPU)
    longest_first = sorted(TEXTS, key=len, reverse=True)
    assert model.calls == [longest_first[:3], longest_first[3:6], longest_first[6:]]
    torch.testing.assert_close(vectors, Letters()(TEXTS))


@pytest.mark.parametrize("size", [None, len(TEXTS)])
def test_a_batch_that_fits_is_embedded_once(size):
    model = Letters()
    in_batch_loss(vectors_in_pieces(model, TEXTS, size, CPU)).backward()
    assert model.calls == [TEXTS]


def test_dropout_is_the_same_when_a_piece_is_embedded_again():
    """Against the same pieces, in the same random order, all kept in memory."""
    kept, cached = Letters(dropout=0.5), Letters(dropout=0.5)
    pieces = [[0, 1, 2], [3, 4, 5], [6]]
    torch.manual_seed(5)
    expected = in_batch_loss(torch.cat([kept([TEXTS[i] for i in piece]) for piece in pieces]))
    after = torch.random.get_rng_state()
    expected.backward()
    torch.manual_seed(5)
    found = embed_in_pieces(lambda rows: cached([TEXTS[i] for i in rows]), range(7), 3, CPU)
    loss = in_batch_loss(torch.cat(found))
    assert torch.equal(torch.random.get_rng_state(), after)
    torch.rand(3)  # Whatever is drawn in between.
    before = torch.random.get_rng_state()
    loss.backward()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert float(loss.detach()) == float(expected.detach())
    for ours, theirs in zip(gradients(cached), gradients(kept), strict=True):
        assert torch.equal(ours, theirs)


def test_bfloat16_is_the_same_when_a_piece_is_embedded_again():
    def embed_with(model):
        def embed(texts):
            with torch.autocast("cpu", torch.bfloat16):
                return model(texts).float()

        return embed

    kept, cached = Letters(), Letters()
    longest_first = sorted(TEXTS, key=len, reverse=True)
    in_batch_loss(
        torch.cat([embed_with(kept)(longest_first[i : i + 2]) for i in range(0, 7, 2)])
    ).backward()
    in_batch_loss(vectors_in_pieces(embed_with(cached), longest_first, 2, CPU)).backward()
    exact = Letters()
    in_batch_loss(exact(longest_first)).backward()
    for ours, theirs, other in zip(
        gradients(cached), gradients(kept), gradients(exact), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        assert not torch.equal(ours, other)


def test_the_backward_pass_holds_one_piece_at_a_time():
    """Each piece is embedded again only when the one before is done."""
    events = []
    weight = torch.ones(1, requires_grad=True)

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(context, value, first):
            context.first = first
            context.save_for_backward(value)
            events.append(("embed", first))
            return value * 2.0

        @staticmethod
        def backward(context, gradient):
            assert context.saved_tensors
            events.append(("backward", context.first))
            return gradient * 2.0, None

    def embed(rows):
        return Watched.apply(torch.ones(len(rows)) * weight, rows[0])

    torch.cat(embed_in_pieces(embed, range(6), 2, CPU)).square().sum().backward()
    assert events[:3] == [("embed", 0), ("embed", 2), ("embed", 4)]
    again = events[3:]
    assert len(again) == 6
    for (first, piece), (second, same_piece) in zip(again[::2], again[1::2], strict=True):
        assert (first, second) == ("embed", "backward")
        assert piece == same_piece
    assert weight.grad.item() == pytest.approx(6 * 8.0)


def test_a_piece_may_be_several_tensors_and_pieces_may_differ_in_shape():
    """As late interaction has them: token vectors and a mask, padded to the piece's longest."""
    table = torch.nn.Embedding(128, 3)

    def embed(rows):
        texts = [f"^{TEXTS[row]}" for row in rows]
        width = max(map(len, texts))
        ids = torch.tensor([[ord(letter) for letter in text.ljust(width)] for text in texts])
        mask = torch.tensor([[place < len(text) for place in range(width)] for text in texts])
        return table(ids), mask

    pieces = embed_in_pieces(embed, range(len(TEXTS)), 2, CPU)
    assert [vectors.shape[0] for vectors, _ in pieces] == [2, 2, 2, 1]
    assert len({vectors.shape[1] for vectors, _ in pieces}) > 1
    sum((vectors * mask[..., None]).square().sum() for vectors, mask in pieces).backward()
    cached = table.weight.grad.clone()
    table.weight.grad = None
    vectors, mask = embed(range(len(TEXTS)))
    (vectors * mask[..., None]).square().sum().backward()
    torch.testing.assert_close(cached, table.weight.grad)


def test_a_piece_has_a_size():
    with pytest.raises(ValueError, match="at least 1"):
        embed_in_pieces(lambda rows: torch.ones(len(rows)), range(3), 0, CPU)
