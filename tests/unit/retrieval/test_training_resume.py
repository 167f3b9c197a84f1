"""A training that was killed goes on to the same weights; one that is another's is left alone."""

from __future__ import annotations

import pytest
from training_runs import DEV, QRELS, Scripted, same, weights

from sptar.training.dev_set import DevSet
from sptar.training.loop import TrainingData, train_retriever
from sptar.training.state import TrainingState
from tiny import DOCUMENTS, PAIRS, QUERIES


@pytest.mark.parametrize("killed_in", [1, 2, 3])
def test_a_killed_run_ends_in_the_same_weights(recipe, tmp_path, killed_in):
    scores = [0.1, 0.5, 0.4, 0.6]
    whole = train_retriever(
        TrainingData(PAIRS), DEV, recipe(), 5, tmp_path / "whole", Scripted(*scores), tmp_path / "a"
    )
    broken = Scripted(*scores[:killed_in], KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train_retriever(
            TrainingData(PAIRS), DEV, recipe(), 5, tmp_path / "out", broken, tmp_path / "b"
        )
    assert not (tmp_path / "out").exists()
    # Only what was lost is done again: the start's score too when no epoch was finished.
    rest = Scripted(*(scores if killed_in == 1 else scores[killed_in:]))
    resumed = train_retriever(
        TrainingData(PAIRS), DEV, recipe(), 5, tmp_path / "out", rest, tmp_path / "b"
    )
    assert rest.scores == []
    assert resumed.resumed_after == killed_in - 1
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "out"))
    keep = ("epoch", "loss", "dev_score", "steps", "singletons")
    assert [[getattr(record, name) for name in keep] for record in whole.history] == [
        [getattr(record, name) for name in keep] for record in resumed.history
    ]
    assert (resumed.best_epoch, resumed.start_dev_score) == (3, 0.1)


def test_a_kill_between_best_weights_and_state_changes_nothing(recipe, tmp_path, monkeypatch):
    scores = [0.1, 0.5, 0.6, 0.4]
    train_retriever(
        TrainingData(PAIRS), DEV, recipe(), 5, tmp_path / "a", Scripted(*scores), tmp_path / "s"
    )
    real = TrainingState.save

    def killed(self, model, optimizer, progress):
        if len(progress.history) == 2:
            raise KeyboardInterrupt
        real(self, model, optimizer, progress)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(TrainingState, "save", killed)
        train_retriever(
            TrainingData(PAIRS), DEV, recipe(), 5, tmp_path / "b", Scripted(*scores), tmp_path / "t"
        )
    result = train_retriever(
        TrainingData(PAIRS), DEV, recipe(), 5, tmp_path / "b", Scripted(*scores[2:]), tmp_path / "t"
    )
    assert (result.resumed_after, result.best_epoch) == (1, 2)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_finished_run_called_again_trains_nothing(recipe, tmp_path):
    train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(),
        5,
        tmp_path / "one",
        Scripted(0.1, 0.5, 0.4, 0.3),
        tmp_path / "state",
    )
    again = train_retriever(
        TrainingData(PAIRS), DEV, recipe(), 5, tmp_path / "two", Scripted(), tmp_path / "state"
    )
    assert again.best_epoch == 1
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.parametrize("change", ["seed", "pairs", "recipe", "dev"])
def test_the_state_of_another_run_is_not_taken_up(recipe, tmp_path, change):
    state = tmp_path / "state"
    train_retriever(
        TrainingData(PAIRS), DEV, recipe(), 5, tmp_path / "one", Scripted(0, 0, 0, 0), state
    )
    pairs = PAIRS[1:] if change == "pairs" else PAIRS
    dev = DevSet(QUERIES[1:], DOCUMENTS, QRELS) if change == "dev" else DEV
    config = recipe(learning_rate=2e-3) if change == "recipe" else recipe()
    seed = 6 if change == "seed" else 5
    result = train_retriever(
        TrainingData(pairs), dev, config, seed, tmp_path / "two", Scripted(0, 0, 0, 0), state
    )
    assert result.resumed_after == 0
    assert len(result.history) == 3


def test_a_damaged_state_means_a_fresh_start(recipe, tmp_path):
    state = tmp_path / "state"
    train_retriever(
        TrainingData(PAIRS), DEV, recipe(), 5, tmp_path / "one", Scripted(0, 1, 2, 3), state
    )
    file = state / "training_state.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    result = train_retriever(
        TrainingData(PAIRS), DEV, recipe(), 5, tmp_path / "two", Scripted(0, 1, 2, 3), state
    )
    assert result.resumed_after == 0
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
