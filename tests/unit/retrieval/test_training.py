"""The training loop: the same seed gives the same weights, and the best epoch is kept."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from training_runs import DEV, Scripted, reciprocal_rank, same, weights

from sptar.config import TrainConfig
from sptar.errors import DataError, ModelError
from sptar.progress import RecordedProgress
from sptar.retrieval.dense.encoder import load_encoder
from sptar.training.loop import DevSet, TrainingData, train_retriever
from sptar.types import Document, Pair, Query
from tiny import DOCUMENTS, PAIRS, QUERIES


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(recipe, tmp_path):
    results = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        train_retriever(
            TrainingData(PAIRS),
            DEV,
            recipe(),
            seed,
            folder / "out",
            reciprocal_rank,
            folder / "state",
        )
        results.append(weights(folder / "out"))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_the_best_epoch_is_kept_and_patience_ends_the_run(recipe, tmp_path):
    """Best is epoch 2, on a tie with epoch 3; after two epochs without gain it is over."""
    scores = (0.9, 0.3, 0.5, 0.5, 0.4)
    result = train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(keep="best", epochs=9, patience=2),
        5,
        tmp_path / "out",
        Scripted(*scores),
        tmp_path / "s",
    )
    assert [record.dev_score for record in result.history] == [0.3, 0.5, 0.5, 0.4]
    assert (result.best_epoch, result.best_dev_score, result.start_dev_score) == (2, 0.5, 0.9)
    # Epoch 2 of the same plan, trained on its own, has these weights.
    other = train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(epochs=9, patience=1),
        5,
        tmp_path / "two",
        Scripted(0, 1, 2, 2),
        tmp_path / "t",
    )
    assert other.best_epoch == 2
    assert same(weights(tmp_path / "out"), weights(tmp_path / "two"))


@pytest.mark.parametrize(("keep", "best_epoch"), [({"keep": "best"}, 1), ({}, 0)])
def test_the_start_is_kept_where_no_epoch_beats_it(
    recipe, tmp_path, tiny_encoder, keep, best_epoch
):
    result = train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(**keep, epochs=2),
        5,
        tmp_path / "out",
        Scripted(0.9, 0.8, 0.7),
        tmp_path / "state",
    )
    assert result.best_epoch == best_epoch
    start = load_encoder(tiny_encoder, TrainConfig()).encode_queries(QUERIES)
    kept = load_encoder(tmp_path / "out").encode_queries(QUERIES)
    assert np.array_equal(start, kept) == (best_epoch == 0)
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("the untrained start" in card) == (best_epoch == 0)


def test_no_training_stops_early_unless_asked_to(recipe, tmp_path):
    """Twelve epochs without gain: with a patience, methods would differ in their steps."""
    result = train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(epochs=12, batch_size=8),
        5,
        tmp_path / "out",
        Scripted(0.9, *[0.1] * 12),
        tmp_path / "state",
    )
    assert (len(result.history), result.best_epoch) == (12, 0)


def test_without_dev_queries_the_last_epoch_is_kept(recipe, tmp_path):
    result = train_retriever(
        TrainingData(PAIRS),
        DevSet((), (), {}),
        recipe(),
        5,
        tmp_path / "out",
        Scripted(),
        tmp_path / "state",
    )
    assert (result.best_epoch, result.best_dev_score, result.start_dev_score) == (3, None, None)


def test_an_epoch_has_the_steps_that_were_asked_for(recipe, tmp_path):
    result = train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(epochs=2, steps_per_epoch=5),
        5,
        tmp_path / "out",
        Scripted(0, 1, 2),
        tmp_path / "state",
    )
    assert [record.steps for record in result.history] == [5, 5]
    assert result.steps == 10
    assert "2 of 2 epochs, 10 steps in all." in (tmp_path / "out" / "README.md").read_text()


def test_lone_pairs_are_counted_and_change_nothing(recipe, tmp_path):
    pairs = [
        Pair(QUERIES[0], DOCUMENTS[0]),
        Pair(QUERIES[0], DOCUMENTS[1]),
        Pair(QUERIES[0], DOCUMENTS[2]),
        Pair(QUERIES[1], DOCUMENTS[3]),
    ]
    result = train_retriever(
        TrainingData(pairs),
        DEV,
        recipe(epochs=2),
        5,
        tmp_path / "out",
        Scripted(0, 1, 2),
        tmp_path / "state",
    )
    assert [(record.steps, record.singletons) for record in result.history] == [(1, 2), (1, 2)]
    assert (result.pairs, result.singletons) == (4, 4)


def test_the_loss_is_the_in_batch_softmax_of_scaled_cosines(recipe, tmp_path, tiny_encoder):
    """One batch, dropout off, against the formula on vectors of the start."""
    config = json.loads((tiny_encoder / "config.json").read_text())
    still = tmp_path / "still"
    shutil.copytree(tiny_encoder, still)
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(still, TrainConfig())
    queries = encoder.encode_queries(QUERIES).astype(np.float64)
    documents = encoder.encode_documents(DOCUMENTS[: len(QUERIES)]).astype(np.float64)
    scores = 20.0 * queries @ documents.T
    expected = np.mean(np.log(np.exp(scores).sum(axis=1)) - np.diag(scores))
    result = train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(start=str(still), batch_size=8, epochs=1),
        5,
        tmp_path / "out",
        Scripted(0, 1),
        tmp_path / "state",
    )
    assert result.history[0].loss == pytest.approx(expected, abs=1e-4)


def test_learning_rate_warms_up_and_decays(recipe, tmp_path, monkeypatch):
    rates = []
    real = torch.optim.AdamW.step

    def step(self, *arguments, **named):
        rates.append(self.param_groups[0]["lr"])
        return real(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(epochs=5, warmup=0.2),
        5,
        tmp_path / "out",
        Scripted(0, 1, 2, 3, 4, 5),
        tmp_path / "state",
    )
    shares = (np.arange(10) + 0.5) / 10
    expected = 1e-3 * np.where(shares < 0.2, shares / 0.2, (1 - shares) / 0.8)
    np.testing.assert_allclose(rates, expected)


def test_gradients_are_clipped_and_biases_do_not_decay(recipe, tmp_path, monkeypatch):
    """A large scale makes gradients longer than 1; what the optimiser sees has that length."""
    seen = []
    real = torch.optim.AdamW.step

    def step(self, *arguments, **named):
        trained = [(p, group) for group in self.param_groups for p in group["params"]]
        lengths = [p.grad.double().norm() for p, _ in trained if p.grad is not None]
        decays = {(p.ndim > 1, group["weight_decay"]) for p, group in trained}
        seen.append((float(torch.stack(lengths).norm()), decays))
        return real(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(epochs=2, scale=100.0),
        5,
        tmp_path / "out",
        Scripted(0, 1, 2),
        tmp_path / "state",
    )
    # Clipping divides by a length computed in float32: a relative 1e-4 is far above its rounding.
    assert max(length for length, _ in seen) == pytest.approx(1.0, rel=1e-4)
    assert all(decays == {(True, 0.01), (False, 0.0)} for _, decays in seen)


def test_every_step_of_every_epoch_has_random_numbers_of_its_own(recipe, tmp_path, monkeypatch):
    """Dropout that is the same in each epoch would never show a pair with other units left out."""
    drawn = []
    real = torch.manual_seed

    def seeded(seed):
        drawn.append(seed)
        return real(seed)

    for seed in (5, 6):
        with monkeypatch.context() as patched:
            patched.setattr("sptar.training.loop.torch.manual_seed", seeded)
            train_retriever(
                TrainingData(PAIRS),
                DEV,
                recipe(epochs=3, steps_per_epoch=2),
                seed,
                tmp_path / f"out{seed}",
                Scripted(0, 1, 2, 3),
                tmp_path / f"state{seed}",
            )
    assert len(drawn) == len(set(drawn)) == 2 * 3 * 2


def test_bfloat16_trains_and_keeps_float32_weights(recipe, tmp_path):
    result = train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(dtype="bfloat16", epochs=20, batch_size=8),
        5,
        tmp_path / "out",
        reciprocal_rank,
        tmp_path / "state",
    )
    assert result.history[-1].loss < result.history[0].loss
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.float32}


@pytest.mark.parametrize("shape", ["llama", "gpt2", "bert"])
def test_a_language_model_is_a_start_too(recipe, tmp_path, tiny_models, shape):
    result = train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(start=str(tiny_models[shape]), epochs=8, batch_size=8, steps_per_epoch=6),
        5,
        tmp_path / "out",
        reciprocal_rank,
        tmp_path / "state",
    )
    assert result.history[-1].loss < result.history[0].loss / 2


def test_too_few_pairs_are_refused_before_anything_is_loaded(recipe, tmp_path):
    for pairs in ([], PAIRS[:1]):
        with pytest.raises(DataError, match="too few"):
            train_retriever(
                TrainingData(pairs),
                DEV,
                recipe(start="./none"),
                5,
                tmp_path / "o",
                Scripted(),
                tmp_path / "s",
            )
    same_query = [Pair(QUERIES[0], document) for document in DOCUMENTS]
    with pytest.raises(DataError, match="No two of the 12 training pairs"):
        train_retriever(
            TrainingData(same_query),
            DEV,
            recipe(start="./none"),
            5,
            tmp_path / "o",
            Scripted(),
            tmp_path / "s",
        )


def test_a_diverged_run_says_so(recipe, tmp_path):
    with pytest.raises(ModelError, match="diverged") as caught:
        train_retriever(
            TrainingData(PAIRS),
            DEV,
            recipe(learning_rate=1e30),
            5,
            tmp_path / "o",
            Scripted(0, 0, 0, 0),
            tmp_path / "s",
        )
    assert "train.learning_rate" in str(caught.value)


def test_progress_hears_of_batches_and_epochs(recipe, tmp_path):
    progress = RecordedProgress()
    train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(epochs=2),
        5,
        tmp_path / "o",
        Scripted(0.25, 0.5, 0.75),
        tmp_path / "s",
        progress,
    )
    assert progress.advanced == 4
    assert progress.finished == 2
    assert any("Epoch 2" in text and "dev 0.7500" in text for text in progress.messages)


def test_the_random_state_of_the_caller_is_left_alone(recipe, tmp_path):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    train_retriever(
        TrainingData(PAIRS),
        DEV,
        recipe(epochs=1),
        5,
        tmp_path / "o",
        Scripted(0, 1),
        tmp_path / "s",
    )
    assert torch.equal(torch.random.get_rng_state(), before)


def test_equal_texts_under_different_ids_are_never_each_others_negatives(recipe, tmp_path):
    """Two ids, one text: the pair of the copy must not stand in the batch of the original."""
    copy = Document("copy", DOCUMENTS[0].text, DOCUMENTS[0].title)
    pairs = [
        Pair(QUERIES[0], DOCUMENTS[0]),
        Pair(Query("q99", "another question on bees"), copy),
        Pair(QUERIES[1], DOCUMENTS[1]),
        Pair(QUERIES[2], DOCUMENTS[2]),
    ]
    result = train_retriever(
        TrainingData(pairs),
        DEV,
        recipe(epochs=1),
        5,
        tmp_path / "o",
        Scripted(0, 1),
        tmp_path / "s",
    )
    assert result.steps == 2
