"""Tuning: frozen weights, exact batches, early stop, exact resumes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slow import slow_query_loss
from sptar.config import LanguageModelConfig, PromptConfig, TuneConfig
from sptar.errors import ConfigError, DataError, ModelError, WorkspaceError
from sptar.llm.loading import LanguageModel, load_language_model, weights_hash
from sptar.llm.soft_prompt import SoftPrompt, initial_matrix
from sptar.llm.template import PromptTemplate
from sptar.llm.tuning import loop as tuning_loop
from sptar.llm.tuning.loop import TuningLoop
from sptar.llm.tuning.query_loss import prompt_row, query_losses
from sptar.llm.tuning.soft_prompts import TuningResult, tune_soft_prompt
from sptar.progress import RecordedProgress
from sptar.types import Document, Pair, Query
from steady import steady_adam
from tiny import LANGUAGE_MODEL_SHAPES, PAIRS, WIDTH

TOKENS = 5
TRAIN, EVALUATION = PAIRS[:5], PAIRS[5:]


@pytest.fixture(scope="module")
def models(tiny_models: dict[str, Path]) -> dict[str, LanguageModel]:
    return {
        shape: load_language_model(LanguageModelConfig(name=str(folder), device="cpu"))
        for shape, folder in tiny_models.items()
    }


def template(model: LanguageModel, examples: int = 1, tokens: int = TOKENS) -> PromptTemplate:
    prompt = PromptConfig(examples=examples, max_document_tokens=24, max_query_tokens=16)
    return PromptTemplate(model, prompt, virtual_tokens=tokens, max_new_tokens=8)


def config(**values: Any) -> TuneConfig:
    return TuneConfig(**{"virtual_tokens": TOKENS, "epochs": 3, "learning_rate": 0.05} | values)


def virtual_tokens(seed: int = 0) -> torch.Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


def tune(model: LanguageModel, **values: Any) -> TuningResult:
    extra = {key: values.pop(key) for key in ("progress", "checkpoint_folder") if key in values}
    seed = values.pop("seed", 7)
    return tune_soft_prompt(
        model, template(model), TRAIN, EVALUATION, config(**values), seed, **extra
    )


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_tuning_learns_and_the_model_stays_frozen(
    models: dict[str, LanguageModel], shape: str
) -> None:
    model = models[shape]
    before = weights_hash(model.model)
    pairs = PAIRS[:2]
    result = tune_soft_prompt(
        model,
        template(model, examples=0, tokens=16),
        pairs,
        pairs,
        config(virtual_tokens=16, epochs=30, batch_size=2, learning_rate=0.3, patience=30),
        1,
    )
    assert result.best_evaluation_loss < result.initial_evaluation_loss - 0.7
    assert result.history[-1].training_loss < result.history[0].training_loss - 0.7
    assert result.weights_hash_before == result.weights_hash_after == before
    assert weights_hash(model.model) == before
    assert all(parameter.grad is None for parameter in model.model.parameters())
    assert result.trainable_parameters == 16 * WIDTH
    # The matrix that comes back is the one with the best loss.
    loop = TuningLoop(
        model, template(model, examples=0, tokens=16), pairs, pairs, config(virtual_tokens=16), 1
    )
    assert loop.evaluation_loss(result.soft_prompt.matrix) == result.best_evaluation_loss
    best = min(result.history, key=lambda record: record.evaluation_loss)
    assert best.epoch == result.best_epoch
    assert best.evaluation_loss == result.best_evaluation_loss


def test_frozen_proof_is_not_a_formality(
    models: dict[str, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["gpt2"]
    weight = model.model.transformer.h[0].mlp.c_fc.bias
    original = weight.detach().clone()
    honest = TuningLoop.evaluation_loss

    def meddling(self: TuningLoop, *arguments: Any) -> float:
        with torch.no_grad():
            weight[0] += 1
        return honest(self, *arguments)

    monkeypatch.setattr(TuningLoop, "evaluation_loss", meddling)
    try:
        with pytest.raises(ModelError, match="own weights changed"):
            tune(model, epochs=1)
    finally:
        with torch.no_grad():
            weight.copy_(original)


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_accumulation_equals_a_larger_batch(
    models: dict[str, LanguageModel], shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.optim, "AdamW", steady_adam())
    # Five pairs in groups of three: the last group is not full.
    results = [
        tune(models[shape], batch_size=batch, gradient_accumulation=groups, epochs=2)
        for batch, groups in ((3, 1), (1, 3))
    ]
    large, small = (result.history for result in results)
    for one, other in zip(large, small, strict=True):
        assert one.training_loss == pytest.approx(other.training_loss, abs=1e-4)
        assert one.evaluation_loss == pytest.approx(other.evaluation_loss, abs=1e-4)


def test_accumulated_gradient_is_the_gradient_of_the_mean(
    models: dict[str, LanguageModel],
) -> None:
    model = models["bert"]
    rows = [prompt_row(template(model), [PAIRS[0]], pair) for pair in PAIRS[1:6]]
    expected = virtual_tokens().requires_grad_()
    torch.stack([query_losses(model, expected, [row])[0] for row in rows]).mean().backward()
    for batch in (1, 2, 3, 5, 9):
        loop = TuningLoop(model, template(model), TRAIN, EVALUATION, config(batch_size=batch), 0)
        virtual = virtual_tokens().requires_grad_()
        total = loop.accumulate_gradients(virtual, rows)
        assert torch.allclose(virtual.grad, expected.grad, atol=1e-6)
        assert total == pytest.approx(
            sum(slow_query_loss(model, virtual, row) for row in rows), abs=1e-4
        )


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_evaluation_does_not_depend_on_its_batches(
    models: dict[str, LanguageModel], shape: str
) -> None:
    model = models[shape]
    losses = []
    for batch in (1, 2, 3, 16):
        loop = TuningLoop(
            model, template(model), TRAIN, EVALUATION, config(evaluation_batch_size=batch), 3
        )
        losses.append(loop.evaluation_loss(virtual_tokens()))
    assert max(losses) - min(losses) <= 1e-5
    slow = [slow_query_loss(model, virtual_tokens(), row) for row in loop.evaluation_rows()]
    assert losses[0] == pytest.approx(sum(slow) / len(slow), abs=1e-5)


def test_examples_never_hold_the_own_query(models: dict[str, LanguageModel]) -> None:
    model = models["gpt2"]
    twin = Pair(TRAIN[0].query, PAIRS[6].document)
    loop = TuningLoop(model, template(model), [*TRAIN, twin], EVALUATION, config(), 5)
    own = model.encode(" " + TRAIN[0].query.text)

    def occurrences(ids: list[int]) -> int:
        return sum(ids[start : start + len(own)] == own for start in range(len(ids)))

    seen = set()
    for epoch in range(1, 30):
        for index in (0, 5):
            row = loop.training_row(epoch, index)
            assert occurrences(row.ids) == 1
            assert row == loop.training_row(epoch, index)
            seen.add(tuple(row.ids))
    # Two pairs with four possible examples each.
    assert len(seen) == 8
    assert loop.evaluation_rows() == loop.evaluation_rows()


def test_order_is_a_new_permutation_in_each_epoch(models: dict[str, LanguageModel]) -> None:
    model = models["gpt2"]
    loop = TuningLoop(model, template(model), TRAIN, EVALUATION, config(), 5)
    orders = [tuple(loop.order(epoch)) for epoch in range(1, 9)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len(set(orders)) > 3


def test_too_few_queries_for_the_examples(models: dict[str, LanguageModel]) -> None:
    model = models["gpt2"]
    alone = [TRAIN[0], Pair(TRAIN[0].query, PAIRS[6].document)]
    with pytest.raises(ConfigError, match=r"`prompt\.examples: 1` and `split\.train_queries`"):
        TuningLoop(model, template(model), alone, EVALUATION, config(), 5)
    TuningLoop(model, template(model, examples=0), alone, EVALUATION, config(), 5)


def test_no_pairs(models: dict[str, LanguageModel]) -> None:
    model = models["gpt2"]
    with pytest.raises(DataError, match="S_train has 0, S_eval 3"):
        tune_soft_prompt(model, template(model), [], EVALUATION, config(), 0)
    with pytest.raises(DataError, match="S_train has 5, S_eval 0"):
        tune_soft_prompt(model, template(model), TRAIN, [], config(), 0)


def test_template_without_room(models: dict[str, LanguageModel]) -> None:
    model = models["gpt2"]
    with pytest.raises(ConfigError, match="room for 4 virtual tokens"):
        tune_soft_prompt(model, template(model, tokens=4), TRAIN, EVALUATION, config(), 0)


def test_learning_rate_decays_to_zero(models: dict[str, LanguageModel]) -> None:
    model = models["gpt2"]
    made = config(batch_size=2, epochs=2, learning_rate=0.6)
    loop = TuningLoop(model, template(model), TRAIN, EVALUATION, made, 5)
    # Three steps an epoch (2 + 2 + 1 pairs), six in all.
    rates = [loop.learning_rate(step) for step in range(6)]
    assert rates == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    result = tune(model, batch_size=2, epochs=2, learning_rate=0.6)
    assert [record.learning_rate for record in result.history] == pytest.approx([0.4, 0.1])


def planned(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Let S_eval's loss follow a plan; the first is the one before tuning."""
    plan = iter(losses)
    monkeypatch.setattr(TuningLoop, "evaluation_loss", lambda *_: next(plan))


def test_stops_after_more_than_patience(
    models: dict[str, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(monkeypatch, [9.0, 5.0, 4.0, 4.5, 4.0, 4.1, 4.2])
    result = tune(models["gpt2"], epochs=50, patience=2)
    # Epoch 2 is the best; 3 and 4 are patience (an equal loss is no gain), 5 is more than that.
    assert len(result.history) == 5
    assert result.best_epoch == 2
    assert result.best_evaluation_loss == 4.0


def test_keeps_the_start_when_nothing_is_better(
    models: dict[str, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(monkeypatch, [3.0, 6.0, 5.0, 4.0])
    result = tune(models["gpt2"], epochs=3, patience=1)
    # Epochs that improve on each other go on, although none beats the start yet.
    assert len(result.history) == 3
    assert result.best_epoch == 0
    start = initial_matrix(models["gpt2"], config(), 7)
    assert torch.equal(result.soft_prompt.matrix, start)


class KilledError(Exception):
    """Stands for a kill."""


class Killer:
    """A progress that ends the run at the n-th finished group."""

    def __init__(self, after: int) -> None:
        self.left = after

    def start(self, description: str, total: int | None, unit: str = "") -> None: ...

    def advance(self, amount: int = 1) -> None:
        self.left -= 1
        if self.left < 0:
            raise KilledError

    def finish(self) -> None: ...

    def message(self, text: str) -> None: ...


def without_time(result: TuningResult) -> tuple[Any, ...]:
    history = [replace(record, seconds=0.0) for record in result.history]
    return history, result.best_epoch, result.best_evaluation_loss, result.initial_evaluation_loss


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_killed_tuning_ends_the_same(
    models: dict[str, LanguageModel], tmp_path: Path, shape: str
) -> None:
    model = models[shape]
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 2, "patience": 9}
    undisturbed = tune(model, **settings)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    kills = 0
    # One advance at the start tells of epochs that were already done, then three an epoch.
    for after in (2, 5, 5, 6, 4, 100):
        try:
            result = tune(model, **settings, progress=Killer(after), checkpoint_folder=folder)
            break
        except KilledError:
            kills += 1
    assert kills >= 4
    assert torch.equal(result.soft_prompt.matrix, undisturbed.soft_prompt.matrix)
    assert without_time(result) == without_time(undisturbed)
    # A finished tuning is read back without training; nothing is pickled.
    again = tune(model, **settings, progress=Killer(1), checkpoint_folder=folder)
    assert torch.equal(again.soft_prompt.matrix, undisturbed.soft_prompt.matrix)
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]


def test_checkpoint_of_another_tuning(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    tune(models["gpt2"], checkpoint_folder=tmp_path)
    for change in ({"seed": 8}, {"learning_rate": 0.01}, {"epochs": 4}):
        with pytest.raises(WorkspaceError, match="other settings, data or model"):
            tune(models["gpt2"], checkpoint_folder=tmp_path, **change)
    with pytest.raises(WorkspaceError, match="other settings, data or model"):
        tune(models["llama"], checkpoint_folder=tmp_path)
    # Settings that cannot change the result may change between two attempts.
    tune(models["gpt2"], checkpoint_folder=tmp_path, evaluation_batch_size=2)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WorkspaceError, match="is damaged"):
        tune(models["gpt2"], checkpoint_folder=tmp_path)


def test_progress_counts_trained_and_evaluated_pairs(
    models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    progress = RecordedProgress()
    tune(models["gpt2"], epochs=2, progress=progress, checkpoint_folder=tmp_path)
    total = len(EVALUATION) + 2 * (len(TRAIN) + len(EVALUATION))
    assert progress.started == [("Tuning", total, "pairs")]
    assert (progress.advanced, progress.finished) == (total, 1)
    again = RecordedProgress()
    tune(models["gpt2"], epochs=2, progress=again, checkpoint_folder=tmp_path)
    assert again.advanced == total


def test_loss_that_is_no_number(models: dict[str, LanguageModel]) -> None:
    with pytest.raises(ModelError, match=r"no longer a number.*Lower `tune\.learning_rate`"):
        tune(models["gpt2"], learning_rate=1e30, epochs=20)


def test_memory_that_runs_out(
    models: dict[str, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    loop = TuningLoop(models["gpt2"], template(models["gpt2"]), TRAIN, EVALUATION, config(), 1)
    monkeypatch.setattr(tuning_loop, "query_losses", full)
    matrix = torch.nn.Parameter(virtual_tokens())
    monkeypatch.setattr(TuningLoop, "evaluation_loss", lambda *_: 1.0)
    with pytest.raises(ModelError, match="Memory ran out while tuning"):
        loop.run({"matrix": matrix}, matrix, "", Killer(99), None)


def test_result_counts_what_was_cut(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    model = models["gpt2"]
    long = Pair(Query("q", "moss " * 30), Document("d", "glass and sand " * 60))
    result = tune_soft_prompt(model, template(model), [*TRAIN, long], EVALUATION, config(), 0)
    tokens = [len(model.encode(" " + p.document.full_text)) for p in (*TRAIN, long, *EVALUATION)]
    assert result.cut_documents == sum(count > 24 for count in tokens)
    assert result.cut_document_tokens == sum(max(count - 24, 0) for count in tokens)
    assert result.cut_queries == sum(
        len(model.encode(" " + p.query.text)) > 16 for p in (*TRAIN, long, *EVALUATION)
    )
    assert result.cut_queries >= 1
    provenance = SoftPrompt.load(result.adapter.save(tmp_path / "prompt")).provenance
    assert provenance["base_model_weights"] == weights_hash(model.model)
    assert provenance["train_pairs"] == 6
    assert provenance["seed"] == 0


def test_bfloat16_model_keeps_a_float32_prompt(tiny_models: dict[str, Path]) -> None:
    settings = LanguageModelConfig(name=str(tiny_models["qwen"]), device="cpu", dtype="bfloat16")
    result = tune(load_language_model(settings), epochs=1)
    assert result.soft_prompt.matrix.dtype == torch.float32
    assert math.isfinite(result.best_evaluation_loss)
