"""Negatives and teachers in the loop: they reach the loss, are checked, and name the run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sptar.config import TrainConfig
from sptar.errors import DataError
from sptar.retrieval.specs import recipe as resolved_recipe
from sptar.training.loop import DevSet, TrainingData, train_retriever
from sptar.training.trainable.bi_encoder import BiEncoderTrainable
from tiny import DOCUMENTS, PAIRS, QUERIES

QRELS = {pair.query.query_id: {pair.document.doc_id: 1} for pair in PAIRS}
DEV = DevSet(QUERIES, DOCUMENTS, QRELS)
NEGATIVES = [[DOCUMENTS[8 + number % 4]] for number in range(len(PAIRS))]
SCORES = np.tile(np.array([4.0, 0.0], dtype=np.float32), (len(PAIRS), 1))


class Scripted:
    """A dev measure that follows a script; an exception in it stands for a kill."""

    def __init__(self, *scores):
        self.scores = list(scores)

    def __call__(self, run, qrels):
        score = self.scores.pop(0)
        if isinstance(score, BaseException):
            raise score
        return score


class InBatch:
    """Scores of all pairs' queries and documents, looked up."""

    def __init__(self, scores):
        self._scores = scores

    def scores(self, numbers):
        return self._scores[np.ix_(list(numbers), list(numbers))]


def tas_b(tiny_encoder, **settings):
    values = {"start": str(tiny_encoder), "batch_size": 4, "epochs": 2, "learning_rate": 1e-3}
    return resolved_recipe(TrainConfig(**(values | settings)), "tas_b")


@pytest.mark.parametrize("change", ["nothing", "negatives", "teacher", "in_batch", "candidates"])
def test_negatives_teachers_and_candidates_are_part_of_a_runs_identity(
    tiny_encoder, tmp_path, change
):
    config = tas_b(tiny_encoder)
    own = np.eye(len(PAIRS), dtype=np.float32)
    state = tmp_path / "state"
    first = TrainingData(PAIRS, NEGATIVES, SCORES, InBatch(own))
    train_retriever(first, DEV, config, 5, tmp_path / "one", Scripted(0, 0, 0), state)
    negatives = [NEGATIVES[-1], *NEGATIVES[1:]] if change == "negatives" else NEGATIVES
    other_own = own.copy()
    # The last number of the last batch by which the teacher is asked.
    other_own[7, 7] += change == "in_batch"
    data = TrainingData(
        PAIRS, negatives, SCORES * (2 if change == "teacher" else 1), InBatch(other_own)
    )
    candidates = {"q01": {"d01": 1.0}} if change == "candidates" else None
    dev = DevSet(QUERIES, DOCUMENTS, QRELS, candidates=candidates)
    scores = Scripted(0, 0, 0)
    result = train_retriever(data, dev, config, 5, tmp_path / "two", scores, state)
    assert result.resumed_after == (2 if change == "nothing" else 0)


def test_a_killed_run_with_teachers_and_topics_ends_in_the_same_weights(tiny_encoder, tmp_path):
    config = tas_b(tiny_encoder, topics=2, epochs=3)
    data = TrainingData(PAIRS, NEGATIVES, SCORES, InBatch(np.eye(8, dtype=np.float32)))
    train_retriever(data, DEV, config, 5, tmp_path / "whole", Scripted(0, 1, 2, 3), tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train_retriever(
            data,
            DEV,
            config,
            5,
            tmp_path / "out",
            Scripted(0, 1, KeyboardInterrupt()),
            tmp_path / "b",
        )
    resumed = train_retriever(
        data, DEV, config, 5, tmp_path / "out", Scripted(2, 3), tmp_path / "b"
    )
    assert resumed.resumed_after == 1
    expected, found = (
        load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out")
    )
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_batches_bring_their_own_negatives_and_teacher_rows(tiny_encoder, tmp_path, monkeypatch):
    seen = []
    real = BiEncoderTrainable.loss

    def loss(self, batch):
        seen.append(batch)
        return real(self, batch)

    monkeypatch.setattr(BiEncoderTrainable, "loss", loss)
    scores = np.arange(16, dtype=np.float32).reshape(8, 2)
    in_batch = np.arange(64, dtype=np.float32).reshape(8, 8)
    train_retriever(
        TrainingData(PAIRS, NEGATIVES, scores, InBatch(in_batch)),
        DevSet((), (), {}),
        tas_b(tiny_encoder, epochs=1),
        5,
        tmp_path / "out",
        Scripted(),
        tmp_path / "state",
    )
    assert sorted(number for batch in seen for number in batch.numbers) == list(range(8))
    for batch in seen:
        for row, number in enumerate(batch.numbers):
            assert batch.queries[row] == PAIRS[number].query.text
            assert batch.positives[row] == PAIRS[number].document.full_text
            assert batch.negatives[row] == (NEGATIVES[number][0].full_text,)
            assert batch.teacher[row].tolist() == scores[number].tolist()
            for column, other in enumerate(batch.numbers):
                assert batch.in_batch[row, column] == in_batch[number, other]


def test_data_that_a_row_cannot_learn_from_are_refused_before_anything_is_loaded(tmp_path):
    def attempt(row, data):
        config = resolved_recipe(TrainConfig(start="./none"), row)
        train_retriever(data, DEV, config, 5, tmp_path / "o", Scripted(), tmp_path / "s")

    with pytest.raises(DataError, match="bm25ce learns from hard negatives"):
        attempt("bm25ce", TrainingData(PAIRS))
    with pytest.raises(DataError, match="tas_b learns from hard negatives"):
        attempt("tas_b", TrainingData(PAIRS, (), SCORES))
    with pytest.raises(DataError, match="no teacher scores"):
        attempt("tas_b", TrainingData(PAIRS, NEGATIVES))
    with pytest.raises(DataError, match=r"shape \(8, 3\), not \(8, 2\)"):
        attempt("tas_b", TrainingData(PAIRS, NEGATIVES, np.zeros((8, 3), dtype=np.float32)))
    with pytest.raises(DataError, match="no numbers"):
        attempt("tas_b", TrainingData(PAIRS, NEGATIVES, SCORES * np.nan))
    with pytest.raises(DataError, match="d01 is a hard negative of query q01"):
        attempt("dpr", TrainingData(PAIRS, [[DOCUMENTS[0]], *NEGATIVES[1:]]))
    with pytest.raises(DataError, match="too few"):
        attempt("bm25ce", TrainingData(()))


def test_one_pair_with_negatives_is_enough_to_learn_from(tiny_encoder, tmp_path):
    config = resolved_recipe(TrainConfig(start=str(tiny_encoder), batch_size=4, epochs=1), "dpr")
    result = train_retriever(
        TrainingData(PAIRS[:1], NEGATIVES[:1]),
        DEV,
        config,
        5,
        tmp_path / "o",
        Scripted(0, 1),
        tmp_path / "s",
    )
    assert (result.steps, result.singletons) == (1, 0)
    assert result.history[0].loss > 0
