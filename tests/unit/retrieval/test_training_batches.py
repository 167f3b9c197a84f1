"""Texts of pairs with their negatives, and the batches that each row wants."""

from __future__ import annotations

import numpy as np
import pytest

from sptar.config import TrainConfig
from sptar.errors import ConfigError, DataError
from sptar.retrieval.specs import recipe
from sptar.training.batches import TrainingBatches, conflict_free
from sptar.training.texts import TrainingTexts
from sptar.types import Document, Pair, Query


def pair(number, document=None):
    document = number if document is None else document
    return Pair(
        Query(f"q{number}", f"query {number}"), Document(f"d{document}", f"text {document}")
    )


def document(number):
    return Document(f"d{number}", f"text {number}")


class Axes:
    """A trainable that encodes queries: the number in a text says on which axis it lies."""

    def __init__(self, axis_of):
        self.axis_of = axis_of
        self.asked = []

    def query_vectors(self, texts):
        self.asked.append(list(texts))
        axes = [self.axis_of(int(text.split()[1])) for text in texts]
        return np.eye(max(axes) + 1, dtype=np.float32)[axes]


def test_a_negative_that_answers_its_own_query_is_refused():
    with pytest.raises(DataError, match="Document d7 is a hard negative of query q1"):
        TrainingTexts.of(
            [pair(1), pair(1, 7), pair(2)], [[document(7)], [document(8)], [document(9)]]
        )
    # Known is what the texts say, not the ids.
    copy = Document("another id", "text 1")
    with pytest.raises(DataError, match="another id"):
        TrainingTexts.of([pair(1), pair(2)], [[copy], [document(9)]])


def test_negatives_fit_their_pairs():
    with pytest.raises(DataError, match="for 1 pairs, and 2 pairs"):
        TrainingTexts.of([pair(1), pair(2)], [[document(8)]])
    with pytest.raises(DataError, match="different numbers"):
        TrainingTexts.of([pair(1), pair(2)], [[document(8)], []])
    texts = TrainingTexts.of([pair(1), pair(2)])
    assert texts.negatives == ((), ())


def test_a_negative_keeps_pairs_apart_whose_query_it_answers():
    """d2 answers q2 and is a negative of q1: in one batch it would be a false negative."""
    pairs = [pair(1), pair(2), pair(3), pair(4)]
    apart = TrainingTexts.of(pairs, [[document(2)], [document(9)], [document(9)], [document(9)]])
    together = TrainingTexts.of(pairs, [[document(n)] for n in (8, 9, 9, 9)])
    config = TrainConfig(batch_size=4)
    for seed in range(10):
        batches, alone = conflict_free(apart, config, seed, 1)
        assert alone == 0
        assert sorted(index for batch in batches for index in batch) == [0, 1, 2, 3]
        assert not any({0, 1} <= set(batch) for batch in batches)
        assert [len(batch) for batch in conflict_free(together, config, seed, 1)[0]] == [4]


def test_a_lone_pair_teaches_when_it_brings_negatives():
    pairs = [pair(1, 1), pair(1, 2), pair(1, 3)]
    config = TrainConfig(batch_size=4)
    assert conflict_free(TrainingTexts.of(pairs), config, 0, 1) == ([], 3)
    texts = TrainingTexts.of(pairs, [[document(9)]] * 3)
    batches, alone = conflict_free(texts, config, 0, 1)
    assert sorted(batches) == [[0], [1], [2]]
    assert alone == 0


def shuffled(count, **settings):
    config = recipe(TrainConfig(**settings), "bm25ce")
    texts = TrainingTexts.of([pair(n) for n in range(count)], [[document(99)]] * count)
    return TrainingBatches(texts, None, config, 3, Axes(int))


def test_shuffled_batches_keep_the_small_last_one():
    batches = shuffled(9, batch_size=4)
    first, alone = batches.of_epoch(1)
    assert [len(batch) for batch in first] == [4, 4, 1]
    assert sorted(index for batch in first for index in batch) == list(range(9))
    assert alone == 0
    assert shuffled(9, batch_size=4).of_epoch(1) == (first, 0)
    assert batches.of_epoch(2)[0] != first


def test_epochs_of_so_many_steps_are_cut_from_passes_without_a_break():
    """Three batches a pass, epochs of seven: pass 3 begins in the first and ends in the second."""
    made = shuffled(5, batch_size=2, steps_per_epoch=7)
    epochs = [made.of_epoch(number)[0] for number in (1, 2, 3)]
    assert [len(epoch) for epoch in epochs] == [7, 7, 7]
    joined = [batch for epoch in epochs for batch in epoch]
    assert [len(batch) for batch in joined] == [2, 2, 1] * 7
    passes = [[index for batch in joined[i : i + 3] for index in batch] for i in range(0, 21, 3)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    # An epoch follows from its number: a resumed run asks for a later one first.
    for number in (3, 1, 2, 2):
        again = shuffled(5, batch_size=2, steps_per_epoch=7)
        assert again.of_epoch(number)[0] == epochs[number - 1]
    # The same batches come in the same order, however they are cut into epochs.
    other = shuffled(5, batch_size=2, steps_per_epoch=3)
    assert [b for number in range(1, 8) for b in other.of_epoch(number)[0]] == joined
    by_pass = shuffled(5, batch_size=2, steps_per_epoch="pass")
    assert [b for number in range(1, 8) for b in by_pass.of_epoch(number)[0]] == joined


def test_more_pairs_than_an_epoch_takes_are_all_seen_before_one_returns():
    made = shuffled(40, batch_size=4, steps_per_epoch=3)
    seen = [i for number in (1, 2, 3, 4) for batch in made.of_epoch(number)[0] for i in batch]
    assert sorted(seen[:40]) == list(range(40))


def test_lone_pairs_are_counted_once_for_each_pass():
    """A pass has one batch, {q2, any of q1's}, and leaves two of q1's three pairs alone."""
    texts = TrainingTexts.of([pair(1, 1), pair(1, 2), pair(1, 3), pair(2, 4)])
    made = TrainingBatches(texts, None, TrainConfig(batch_size=4, steps_per_epoch=3), 3, Axes(int))
    for number in (2, 1, 3):
        batches, alone = made.of_epoch(number)
        assert ([len(batch) for batch in batches], alone) == ([2, 2, 2], 6)


@pytest.mark.parametrize("count", [3, 9, 40])
def test_every_training_set_takes_the_same_number_of_steps(count):
    made = shuffled(count, batch_size=4, steps_per_epoch=6)
    assert [len(made.of_epoch(number)[0]) for number in (1, 2, 3)] == [6, 6, 6]


def test_topics_come_from_the_query_vectors_encoded_once():
    pairs = [pair(n) for n in range(12)] + [pair(0, 50)]
    texts = TrainingTexts.of(pairs, [[document(99)]] * 13)
    config = recipe(TrainConfig(batch_size=3, topics=3, steps_per_epoch=9), "tas_b")
    model = Axes(lambda number: number % 3)
    scores = np.tile(np.array([1.0, 0.0], dtype=np.float32), (13, 1))
    batches = TrainingBatches(texts, scores, config, 3, model)
    assert model.asked == [[f"query {n}" for n in range(12)]]
    first, alone = batches.of_epoch(1)
    assert alone == 0
    assert len(first) == 9
    whole = [batch for batch in first if len(batch) == 3]
    assert whole
    number = [*range(12), 0]
    assert all(len({number[index] % 3 for index in batch}) == 1 for batch in whole)
    assert model.asked == [[f"query {n}" for n in range(12)]]
    assert TrainingBatches(texts, scores, config, 3, model).of_epoch(1) == (first, 0)


def test_topics_need_teacher_scores_and_vectors():
    texts = TrainingTexts.of([pair(1), pair(2)], [[document(9)]] * 2)
    config = recipe(TrainConfig(), "tas_b")
    scores = np.zeros((2, 2), dtype=np.float32)
    with pytest.raises(ConfigError, match="teacher scores"):
        TrainingBatches(texts, None, config, 3, Axes(int))
    with pytest.raises(ConfigError, match="one vector for each query"):
        TrainingBatches(texts, scores, config, 3, object())
