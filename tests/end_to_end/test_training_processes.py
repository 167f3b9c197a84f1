"""Two training processes give the retriever that one gives, also when they were killed once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sptar.config import TrainConfig
from sptar.errors import ConfigError
from sptar.executors.torchrun import launch
from sptar.progress import RecordedProgress
from sptar.retrieval.late.encoder import load_late_encoder
from sptar.retrieval.specs import recipe, retriever_spec
from sptar.steps import train_worker
from sptar.steps.train_job import TrainingJob, read_result
from sptar.steps.train_worker import train
from sptar.tensors.checkpoints import read_checkpoint
from sptar.training.loop import DevSet, TrainingData
from sptar.training.teachers import LateTeacher
from steady import EPSILON, steady_adam
from tiny import DOCUMENTS, PAIRS, QUERIES, encoder

QRELS = {pair.query.query_id: {pair.document.doc_id: 1} for pair in PAIRS}
CANDIDATES = {query.query_id: {item.doc_id: 0.0 for item in DOCUMENTS} for query in QUERIES}
DEV = DevSet([*QUERIES], [*DOCUMENTS], QRELS, hard_negatives=1, candidates=CANDIDATES)
SPARE = DOCUMENTS[len(PAIRS) :]
NEGATIVES = [
    [SPARE[(number + column) % len(SPARE)] for column in range(2)] for number in range(len(PAIRS))
]
SCORES = np.random.default_rng(0).normal(size=(len(PAIRS), 3)).astype(np.float32)

STILL = {
    "dpr": {},
    "dpr in micro batches": {"micro_batch_size": 3, "negatives": "random"},
    "dragon": {"negatives": "random"},
    "colbert": {"negatives": "random"},
    "splade": {"micro_batch_size": 2},
    "tas_b": {"topics": 2},
    "bm25ce": {"batch_size": 3},
}
"""Trained without dropout, and the settings in which they differ."""

RATE = 3e-4
GRADIENT_ERROR = 5e-6
"""By how much the sums of a gradient differ when two processes share a batch, or on another
processor. The largest elements are 0.1; each is the sum of some 400 products (tokens of a batch)
behind a dozen layers. Rounding that adds up at random gives 0.1 · √(12 · 400) · 2⁻²⁴ = 4e-7 for an
element; between instruction sets from SSE to AVX-512 up to 1.2e-6 was seen after four steps."""


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("starts")
    return {
        dropout: encoder(folder / str(dropout), spread=0.2, dropout=dropout)
        for dropout in (0.0, 0.1)
    }


@pytest.fixture(scope="module")
def make_job(starts, tmp_path_factory):
    teacher = tmp_path_factory.mktemp("teacher")
    config = recipe(TrainConfig(start=str(starts[0.0])), "colbert")
    LateTeacher.build(load_late_encoder(None, config), PAIRS, teacher)

    def make(folder, retriever, dropout=0.0, processes=2, **settings):
        values = {
            "start": str(starts[dropout]),
            "batch_size": 5,
            "epochs": 2,
            # Whatever the scores say: what is compared are trained weights.
            "keep": "best",
            "learning_rate": RATE,
            "max_tokens": 64,
            "processes": processes,
        }
        config = recipe(TrainConfig(**(values | settings)), retriever)
        data = TrainingData(PAIRS)
        if config.negatives != "none":
            data = replace(data, negatives=NEGATIVES)
        if retriever_spec(config).loss == "margin_mse":
            data = replace(data, teacher_scores=SCORES, in_batch_teacher=LateTeacher.load(teacher))
        return TrainingJob(
            data, DEV, config, 3, "mrr@10", 1, folder / "model", folder / "checkpoints"
        )

    return make


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def killed(make_job, folder):
    """A run that torchrun started from outside, and that was stopped after an epoch."""
    job = make_job(folder / "killed", "dpr", dropout=0.1)
    job.write(folder / "killed" / "job")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--local-addr", "127.0.0.1", "--nproc-per-node", "2"),
        *("-m", "process_checks", "train_from_outside", str(folder / "killed" / "job")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return job, done


@pytest.fixture(scope="module")
def trained(make_job, killed, folder):
    """Jobs by name, done by two processes one after the other; their progress."""
    killed_job, _ = killed
    jobs = {
        "killed": killed_job,
        "whole": make_job(folder / "whole", "dpr", dropout=0.1),
        "dropout": make_job(folder / "dropout", "dpr", dropout=0.1, micro_batch_size=2),
    }
    for name, settings in STILL.items():
        jobs[name] = make_job(folder / name, name.split()[0], **settings)
    for name, job in jobs.items():
        job.write(folder / name / "job")
    names, progress = [str(folder / name / "job") for name in jobs], RecordedProgress()
    launch("process_checks", ["train_jobs", *names], 2, folder / "launch", progress)
    return jobs, progress


def weights(folder):
    return {
        f"{file.relative_to(folder)}:{name}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def test_a_run_from_outside_shares_its_training_and_leaves_its_epochs(killed):
    job, done = killed
    assert done.returncode != 0
    assert not job.output.exists()
    _, record = read_checkpoint(job.checkpoints / "training_state.safetensors")
    assert [epoch["epoch"] for epoch in record["progress"]["history"]] == [1]


def test_a_killed_run_ends_in_the_same_bytes(killed, trained, folder):
    killed_result, whole = (read_result(folder / name / "job") for name in ("killed", "whole"))
    assert (killed_result.resumed_after, whole.resumed_after) == (1, 0)
    one, other = (folder / name / "model" / "model.safetensors" for name in ("killed", "whole"))
    assert one.read_bytes() == other.read_bytes()
    assert [record.loss for record in killed_result.history] == [
        record.loss for record in whole.history
    ]


@pytest.mark.parametrize("name", [*STILL, "dropout"])
def test_two_processes_train_what_one_trains(trained, folder, tmp_path, monkeypatch, name):
    monkeypatch.setattr(torch.optim, "AdamW", steady_adam())
    jobs, _ = trained
    told = read_result(folder / name / "job")
    alone = replace(
        jobs[name],
        recipe=jobs[name].recipe.model_copy(update={"processes": 1}),
        output=tmp_path / "model",
        checkpoints=tmp_path / "checkpoints",
    )
    result = train(alone, tmp_path / "job")
    assert [record.steps for record in told.history] == [record.steps for record in result.history]
    for ours, theirs in zip(told.history, result.history, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert ours.dev_score == pytest.approx(theirs.dev_score)
    assert told.best_epoch == result.best_epoch
    assert told.start_dev_score == pytest.approx(result.start_dev_score)
    found, expected = weights(jobs[name].output), weights(alone.output)
    assert found.keys() == expected.keys()
    moved, steps = 0.0, sum(record.steps for record in result.history)
    # Each step moves a weight by twice the error of its gradient at most, see `steady_adam`.
    bound = steps * 2 * RATE * GRADIENT_ERROR / EPSILON
    start = load_file(Path(alone.recipe.start) / "model.safetensors")
    for key, tensor in expected.items():
        before = start.get(key.partition(":")[2].removeprefix("bert."))
        moved = max(moved, 0.0 if before is None else float((tensor - before).abs().max()))
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=bound, msg=key)
    assert moved > 30 * bound
    readme, other = ((job.output / "README.md").read_text() for job in (jobs[name], alone))
    assert readme.splitlines()[:5] == other.splitlines()[:5]


def test_progress_is_told_once(trained):
    jobs, progress = trained
    epochs = sum(message.startswith("Epoch") for message in progress.messages)
    assert epochs == 2 * len(jobs) - 1  # one epoch of the killed run was done
    assert progress.messages.count("Training goes on after epoch 1.") == 1
    assert len(progress.started) == progress.finished == epochs


def test_a_job_comes_back_from_its_files(make_job, tmp_path):
    job = make_job(tmp_path, "tas_b", topics=2)
    job.write(tmp_path / "job")
    found = TrainingJob.read(tmp_path / "job")
    assert found.recipe == job.recipe
    assert found.recipe.model_fields_set == job.recipe.model_fields_set
    assert found.dev == DEV
    assert list(found.data.pairs) == list(job.data.pairs)
    assert [list(own) for own in found.data.negatives] == NEGATIVES
    assert np.array_equal(found.data.teacher_scores, SCORES)
    ours, theirs = found.data.in_batch_teacher, job.data.in_batch_teacher
    assert np.array_equal(ours.scores([3, 0, 5]), theirs.scores([3, 0, 5]))
    assert (found.seed, found.measure, found.relevance_level) == (3, "mrr@10", 1)
    assert (found.output, found.checkpoints) == (job.output, job.checkpoints)


def test_nothing_is_started_without_a_device_for_each(make_job, tmp_path):
    job = make_job(tmp_path, "dpr", device="cuda:0")
    with pytest.raises(ConfigError, match="a device of its own"):
        train(job, tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_processes_without_work_are_told_of(make_job, tmp_path, monkeypatch):
    launched = []
    monkeypatch.setattr(train_worker, "launch", lambda *told: launched.append(told))
    monkeypatch.setattr(train_worker, "read_result", lambda folder: "result")
    for size in (2, 3):
        progress = RecordedProgress()
        job = make_job(tmp_path, "dpr", micro_batch_size=size)
        assert train(job, tmp_path / "job", progress) == "result"
        assert any("nothing to do" in said for said in progress.messages) is (size == 3)
    expected = ("sptar.steps.train_worker", [str(tmp_path / "job")], 2)
    assert [told[:3] for told in launched] == [expected] * 2
