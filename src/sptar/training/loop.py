"""The training loop of all retrievers, its checkpoint chosen on dev queries.

Models, tokenisation and losses are the libraries' and stand behind ``TrainableRetriever``; the loop
is ours. The trainer of sentence-transformers was the first choice and was left for three reasons:
it needs the ``datasets`` package, which a plain installation does not have; its checkpoints hold
pickles; and its sampler interface fixes the number of batches, while batches without false
negatives differ in number from epoch to epoch. Our loop names every random number by (seed, epoch,
step), so a run that was killed goes on after its last whole epoch to the same weights, bit for bit,
on the same machine with the same number of threads. On a GPU repeated runs agree to rounding.

Processes that train together (:mod:`sptar.training.distributed`) all go through this loop with the
same arguments: each embeds its share of a batch, their gradients are added up before the step, and
the first one alone scores, writes and reports.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sptar.config import TrainConfig, result_settings
from sptar.errors import ModelError
from sptar.identity import hash_json
from sptar.io import atomic_write_text
from sptar.progress import silent
from sptar.retrieval.specs import retriever_spec
from sptar.tensors.memory import is_out_of_memory, peak_memory
from sptar.training.batches import TrainingBatches
from sptar.training.card import CardFacts, model_card
from sptar.training.data import TrainingData, refuse_unfit
from sptar.training.dev_set import DevSet
from sptar.training.distributed import (
    all_reduce_gradients,
    broadcast,
    distributed_context,
    require_identical,
)
from sptar.training.protocols import TrainableRetriever, TrainingBatch
from sptar.training.state import EpochRecord, SavedProgress, TrainingState
from sptar.training.students import load_trainable
from sptar.training.texts import TrainingTexts
from sptar.types import Progress, Qrels, Run

__all__ = ["DevSet", "EpochRecord", "TrainingData", "TrainingResult", "train_retriever"]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training run did.

    ``best_epoch`` is the epoch whose weights were kept, 0 for the untrained start. ``steps`` and
    ``singletons`` (pairs alone in their batch, which teach nothing) are sums over ``history``;
    ``parameters`` counts the trained numbers. ``peak_memory_bytes`` is the GPU's peak, or that of
    the whole process on a CPU, ``None`` where it cannot be told. ``resumed_after`` is the epoch
    after which an interrupted run was taken up, 0 for none.
    """

    history: tuple[EpochRecord, ...]
    best_epoch: int
    start_dev_score: float | None
    best_dev_score: float | None
    steps: int
    pairs: int
    singletons: int
    parameters: int
    peak_memory_bytes: int | None
    resumed_after: int


def train_retriever(
    data: TrainingData,
    dev: DevSet,
    config: TrainConfig,
    seed: int,
    output: Path,
    dev_score: Callable[[Run, Qrels], float],
    checkpoint_folder: Path,
    progress: Progress = silent,
    *,
    dev_measure: str = "dev score",
    dev_depth: int = 1000,
) -> TrainingResult:
    """Train the start model on pairs and save the epoch that is best on dev.

    Args:
        data: pairs of a query and a document that answers it, with negatives and teachers where
            the recipe needs them. All documents paired with one query text count as its answers,
            and are never negatives for it.
        dev: labelled queries and the documents to search; without queries the last epoch is kept.
        config: resolved recipe, see :func:`sptar.retrieval.specs.recipe`.
        seed: of batches and dropout.
        output: folder that the row's library can load afterwards, with its model card.
        dev_score: higher is better; called once before training and after each epoch.
        checkpoint_folder: state of the run after each epoch. A second call with the same
            arguments goes on there, also when the first one finished. The caller removes it.
        dev_measure: name of ``dev_score`` for the card.
        dev_depth: documents ranked for each dev query.

    Raises:
        DataError: too few pairs, none that could stand in one batch with another, negatives or
            teacher scores that do not fit the pairs or that the recipe lacks.
        ModelError: the start cannot be loaded, the loss is no number, or memory runs out.
    """
    spec = retriever_spec(config)
    texts = TrainingTexts.of(data.pairs, data.negatives)
    refuse_unfit(data, texts, spec, config, seed)
    trainable = load_trainable(config, dev, progress=progress)
    batches = TrainingBatches(texts, data.teacher_scores, config, seed, trainable)
    run = _Run(data, texts, batches, dev, config, seed, dev_score, dev_depth, trainable, progress)
    result = run.train(checkpoint_folder)
    if not distributed_context().is_first:
        return result
    output.mkdir(parents=True, exist_ok=True)
    trainable.save(output)
    facts = CardFacts.of(
        trainable,
        texts,
        dev,
        history=result.history,
        best_epoch=result.best_epoch,
        start_dev_score=result.start_dev_score,
        seed=seed,
        dev_measure=dev_measure,
    )
    atomic_write_text(output / "README.md", model_card(facts, spec, config))
    return result


class _Run:
    """One training run: the model, its optimiser, and the loop over epochs."""

    def __init__(
        self,
        data: TrainingData,
        texts: TrainingTexts,
        batches: TrainingBatches,
        dev: DevSet,
        config: TrainConfig,
        seed: int,
        dev_score: Callable[[Run, Qrels], float],
        dev_depth: int,
        trainable: TrainableRetriever,
        progress: Progress,
    ) -> None:
        self._data = data
        self._texts = texts
        self._batches = batches
        self._dev = dev
        self._config = config
        self._seed = seed
        self._dev_score = dev_score
        self._dev_depth = dev_depth
        self._trainable = trainable
        self._module = trainable.module
        self._spec = trainable.spec
        self._progress = progress
        self._writes = distributed_context().is_first
        self._trained = [p for p in self._module.parameters() if p.requires_grad]
        if not self._trained:
            raise ModelError("The start model has nothing to train.", hint="Choose another.")
        self._device = self._trained[0].device
        matrices = [parameter for parameter in self._trained if parameter.ndim > 1]
        others = [parameter for parameter in self._trained if parameter.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": self._spec.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
        )

    def train(self, checkpoint_folder: Path) -> TrainingResult:
        key = self._key()
        require_identical(key, "the pairs, the recipe and the start model")
        state = TrainingState(checkpoint_folder, key)
        saved = state.load(self._module, self._optimizer)
        resumed_after = 0 if saved is None else len(saved.history)
        require_identical(str(resumed_after), f"the checkpoint in {checkpoint_folder}")
        if saved is None:
            saved = SavedProgress((), 0, self._score())
            if self._writes:
                state.save_weights(self._module, 0)
        else:
            self._progress.message(f"Training goes on after epoch {resumed_after}.")
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        while not self._finished(saved):
            epoch = len(saved.history) + 1
            record = self._epoch(epoch)
            history = (*saved.history, record)
            best = epoch if self._better(record.dev_score, saved) else saved.best_epoch
            saved = SavedProgress(history, best, saved.start_dev_score)
            if self._writes:
                if best == epoch:
                    state.save_weights(self._module, epoch)
                state.save(self._module, self._optimizer, saved)
            score = "" if record.dev_score is None else f", dev {record.dev_score:.4f}"
            self._progress.message(f"Epoch {epoch}: loss {record.loss:.4f}{score}.")
        if self._writes:
            state.load_weights(self._module, saved.best_epoch)
        self._module.eval()
        return TrainingResult(
            history=saved.history,
            best_epoch=saved.best_epoch,
            start_dev_score=saved.start_dev_score,
            best_dev_score=self._best_score(saved),
            steps=sum(record.steps for record in saved.history),
            pairs=len(self._texts.queries),
            singletons=sum(record.singletons for record in saved.history),
            parameters=sum(parameter.numel() for parameter in self._trained),
            peak_memory_bytes=peak_memory(self._device),
            resumed_after=resumed_after,
        )

    def _key(self) -> str:
        """Identity of this run: a checkpoint of another one must never be taken up."""
        return hash_json(
            {
                "recipe": result_settings(
                    self._config, leave_out=("start", "query_start", "revision")
                ),
                "seed": self._seed,
                "start": self._weights(trained_only=False),
                "reading": self._trainable.reading(),
                "texts": [self._texts.queries, self._texts.documents, self._texts.negatives],
                "teachers": self._teachers(),
                "dev": [
                    [[query.query_id, query.text] for query in self._dev.queries],
                    [[item.doc_id, item.full_text] for item in self._dev.documents],
                    self._dev.qrels,
                    self._dev.candidates,
                    self._dev_depth,
                ],
            }
        )

    def _weights(self, *, trained_only: bool) -> str:
        """Hash of the model's weights."""
        digest = hashlib.sha256()
        for name, parameter in self._module.named_parameters():
            if trained_only and not parameter.requires_grad:
                continue
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _teachers(self) -> list[str]:
        """What the teachers say, as hashes."""
        told: list[str] = []
        if self._data.teacher_scores is not None:
            scores = np.ascontiguousarray(self._data.teacher_scores, np.float32)
            told.append(hashlib.sha256(scores.tobytes()).hexdigest())
        teacher = self._data.in_batch_teacher
        if teacher is not None:
            digest = hashlib.sha256()
            count, size = len(self._texts.queries), self._config.batch_size
            for first in range(0, count, size):
                numbers = range(first, min(first + size, count))
                digest.update(np.ascontiguousarray(teacher.scores(numbers), np.float32).tobytes())
            told.append(digest.hexdigest())
        return told

    def _best_score(self, saved: SavedProgress) -> float | None:
        if saved.best_epoch == 0:
            return saved.start_dev_score
        return saved.history[saved.best_epoch - 1].dev_score

    def _better(self, score: float | None, saved: SavedProgress) -> bool:
        """Whether a new epoch takes the place of the best so far; on a tie the earlier stays."""
        if score is None:
            return True
        if saved.best_epoch == 0 and (self._config.keep == "best" or not self._spec.zero_shot):
            return True
        best = self._best_score(saved)
        return best is None or score > best

    def _finished(self, saved: SavedProgress) -> bool:
        done = len(saved.history)
        patience = self._config.patience
        if patience is not None and done - saved.best_epoch >= patience:
            return True
        return done >= self._config.epochs

    def _epoch(self, epoch: int) -> EpochRecord:
        began = time.perf_counter()
        batches, alone = self._batches.of_epoch(epoch)
        self._progress.start(f"Training, epoch {epoch}", len(batches), "batches")
        self._module.train()
        total = 0.0
        with _random_state_kept(self._device):
            for step, batch in enumerate(batches):
                share = (epoch - 1 + (step + 0.5) / len(batches)) / self._config.epochs
                self._set_learning_rate(share)
                torch.manual_seed(_seed_of(self._seed, epoch, step))
                total += self._step(batch) * len(batch)
                self._progress.advance()
        self._progress.finish()
        loss = total / max(1, sum(len(batch) for batch in batches))
        if not math.isfinite(loss):
            raise ModelError(
                f"Training diverged: the loss of epoch {epoch} is no number.",
                hint="Lower train.learning_rate, or set train.dtype=float32.",
            )
        if distributed_context().size > 1:
            require_identical(self._weights(trained_only=True), f"the weights after epoch {epoch}")
        score = self._score()
        return EpochRecord(
            epoch=epoch,
            loss=loss,
            dev_score=score,
            seconds=time.perf_counter() - began,
            steps=len(batches),
            singletons=alone,
        )

    def _set_learning_rate(self, share: float) -> None:
        """Linear warm-up, then linear decay, by the share of the training that is done."""
        warmup = self._config.warmup
        factor = share / warmup if share < warmup else (1.0 - share) / (1.0 - warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate * factor

    def _batch(self, numbers: Sequence[int]) -> TrainingBatch:
        texts, data = self._texts, self._data
        rows = list(numbers)
        teacher = data.in_batch_teacher
        return TrainingBatch(
            numbers=tuple(rows),
            queries=tuple(texts.queries[i] for i in rows),
            positives=tuple(texts.documents[i] for i in rows),
            negatives=tuple(texts.negatives[i] for i in rows),
            teacher=None if data.teacher_scores is None else data.teacher_scores[rows],
            in_batch=None if teacher is None else teacher.scores(rows),
        )

    def _step(self, numbers: Sequence[int]) -> float:
        try:
            loss = self._trainable.loss(self._batch(numbers))
            # Torch types this method's call as untyped.
            loss.backward()  # type: ignore[no-untyped-call]
            all_reduce_gradients(self._trained)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                f"The device has too little memory for {len(numbers)} pairs of "
                f"{self._config.max_tokens} tokens.",
                hint="Lower train.max_tokens or train.batch_size, or set train.micro_batch_size.",
            ) from None
        torch.nn.utils.clip_grad_norm_(self._trained, self._spec.max_gradient_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _score(self) -> float | None:
        if not self._dev.queries:
            return None
        self._module.eval()

        def score() -> float:
            found = self._trainable.rank(self._dev.queries, self._dev.documents, self._dev_depth)
            return float(self._dev_score(found, self._dev.qrels))

        told: float = broadcast(score)
        return told


def _seed_of(seed: int, epoch: int, step: int) -> int:
    digest = hashlib.sha256(f"dropout:{seed}:{epoch}:{step}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
