"""Training of a bi-encoder with in-batch negatives, its checkpoint chosen on dev queries.

The model, its tokenisation and the loss are sentence-transformers'; the loop is ours. That
library's trainer was the first choice and was left for three reasons: it needs the ``datasets``
package, which a plain installation does not have; its checkpoints hold pickles; and its sampler
interface fixes the number of batches, while batches without false negatives differ in number from
epoch to epoch. Our loop names every random number by (seed, epoch, step), so a run that was killed
goes on after its last whole epoch to the same weights, bit for bit, on the same machine with the
same number of threads. On a GPU repeated runs agree to rounding. It uses one device.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import batch_to_device, cos_sim, dot_score

from sptar.config import TrainConfig, result_settings
from sptar.errors import DataError, ModelError
from sptar.identity import hash_json
from sptar.io import atomic_write_text
from sptar.progress import silent
from sptar.retrieval.encoding import Encoder, Role, load_encoder
from sptar.retrieval.index import DenseIndex, ListedIds
from sptar.retrieval.model_card import CardFacts, model_card
from sptar.retrieval.reduced_corpus import DevSet
from sptar.retrieval.training_state import EpochRecord, SavedProgress, TrainingState
from sptar.retrieval.training_texts import TrainingTexts
from sptar.types import Pair, Progress, Qrels, Run

__all__ = ["DevSet", "EpochRecord", "TrainingResult", "train_biencoder"]

_SIMILARITIES = {"cosine": cos_sim, "dot": dot_score}


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


def train_biencoder(
    pairs: Sequence[Pair],
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
    """Train the start encoder on pairs and save the epoch that is best on dev.

    Args:
        pairs: a query and a document that answers it. All documents paired with one query text
            count as its answers, and are never negatives for it.
        dev: labelled queries and the documents to search; without queries the last epoch is kept.
        config: recipe; ``start`` is a folder or hub name.
        seed: of batches and dropout.
        output: folder that ``SentenceTransformer`` can load afterwards, with its model card.
        dev_score: higher is better; called once before training and after each epoch.
        checkpoint_folder: state of the run after each epoch. A second call with the same
            arguments goes on there, also when the first one finished. The caller removes it.
        dev_measure: name of ``dev_score`` for the card.
        dev_depth: documents ranked for each dev query.

    Raises:
        DataError: fewer than two pairs, or none that could stand in one batch with another.
        ModelError: the start cannot be loaded, the loss is no number, or memory runs out.
    """
    texts = TrainingTexts.of(pairs)
    if len(pairs) < 2:
        raise DataError(
            f"{len(pairs)} training pairs are too few: other pairs of a batch are the negatives.",
            hint="Label more queries, or raise filter.k to keep more weak pairs.",
        )
    if not texts.batches(config, seed, 1)[0]:
        raise DataError(
            f"No two of the {len(pairs)} training pairs can stand in one batch: they share their "
            "query or document, so there are no negatives.",
            hint="Training needs pairs of at least two different queries and documents.",
        )
    encoder = load_encoder(config.start, config, progress=progress)
    run = _Run(texts, dev, config, seed, dev_score, dev_depth, encoder, progress)
    result = run.train(checkpoint_folder)
    _save(output, encoder, config, seed, texts, dev, result, dev_measure)
    return result


class _Run:
    """One training run: the model, its optimiser, and the loop over epochs."""

    def __init__(
        self,
        texts: TrainingTexts,
        dev: DevSet,
        config: TrainConfig,
        seed: int,
        dev_score: Callable[[Run, Qrels], float],
        dev_depth: int,
        encoder: Encoder,
        progress: Progress,
    ) -> None:
        self._texts = texts
        self._dev = dev
        self._dev_ids = ListedIds(dev.documents)
        self._config = config
        self._seed = seed
        self._dev_score = dev_score
        self._dev_depth = dev_depth
        self._encoder = encoder
        self._model = encoder.model
        self._spec = encoder.spec
        self._progress = progress
        self._device = torch.device(str(self._model.device))
        self._loss = MultipleNegativesRankingLoss(
            self._model,
            scale=self._spec.scale,
            similarity_fct=_SIMILARITIES[self._spec.similarity],
        )
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        if not trained:
            raise ModelError("The start encoder has nothing to train.", hint="Choose another.")
        self.parameters = sum(parameter.numel() for parameter in trained)
        matrices = [parameter for parameter in trained if parameter.ndim > 1]
        others = [parameter for parameter in trained if parameter.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": self._spec.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
        )

    def train(self, checkpoint_folder: Path) -> TrainingResult:
        state = TrainingState(checkpoint_folder, self._key())
        saved = state.load(self._model, self._optimizer)
        resumed_after = 0 if saved is None else len(saved.history)
        if saved is None:
            saved = SavedProgress((), 0, self._score())
            state.save_weights(self._model, 0)
        else:
            self._progress.message(f"Training goes on after epoch {resumed_after}.")
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        while not self._finished(saved):
            epoch = len(saved.history) + 1
            record = self._epoch(epoch)
            history = (*saved.history, record)
            best = epoch if self._better(record.dev_score, saved) else saved.best_epoch
            if best == epoch:
                state.save_weights(self._model, epoch)
            saved = SavedProgress(history, best, saved.start_dev_score)
            state.save(self._model, self._optimizer, saved)
            score = "" if record.dev_score is None else f", dev {record.dev_score:.4f}"
            self._progress.message(f"Epoch {epoch}: loss {record.loss:.4f}{score}.")
        state.load_weights(self._model, saved.best_epoch)
        self._model.eval()
        return TrainingResult(
            history=saved.history,
            best_epoch=saved.best_epoch,
            start_dev_score=saved.start_dev_score,
            best_dev_score=self._best_score(saved),
            steps=sum(record.steps for record in saved.history),
            pairs=len(self._texts.queries),
            singletons=sum(record.singletons for record in saved.history),
            parameters=self.parameters,
            peak_memory_bytes=_peak_memory(self._device),
            resumed_after=resumed_after,
        )

    def _key(self) -> str:
        """Identity of this run: a checkpoint of another one must never be taken up."""
        weights = hashlib.sha256()
        for name, parameter in self._model.named_parameters():
            weights.update(name.encode())
            weights.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        return hash_json(
            {
                "recipe": result_settings(self._config, leave_out=("start", "revision")),
                "seed": self._seed,
                "start": weights.hexdigest(),
                "reading": [
                    self._encoder.pooling,
                    self._encoder.max_tokens,
                    self._encoder.prompt("query"),
                    self._encoder.prompt("document"),
                ],
                "texts": [self._texts.queries, self._texts.documents],
                "dev": [
                    [[query.query_id, query.text] for query in self._dev.queries],
                    [[item.doc_id, item.full_text] for item in self._dev.documents],
                    self._dev.qrels,
                    self._dev_depth,
                ],
            }
        )

    def _best_score(self, saved: SavedProgress) -> float | None:
        if saved.best_epoch == 0:
            return saved.start_dev_score
        return saved.history[saved.best_epoch - 1].dev_score

    def _better(self, score: float | None, saved: SavedProgress) -> bool:
        """Whether a new epoch takes the place of the best so far; on a tie the earlier stays."""
        if score is None:
            return True
        if saved.best_epoch == 0 and self._config.keep == "best":
            return True
        best = self._best_score(saved)
        return best is None or score > best

    def _finished(self, saved: SavedProgress) -> bool:
        done = len(saved.history)
        return done >= self._config.epochs or done - saved.best_epoch >= self._config.patience

    def _epoch(self, epoch: int) -> EpochRecord:
        began = time.perf_counter()
        batches, alone = self._texts.batches(self._config, self._seed, epoch)
        self._progress.start(f"Training, epoch {epoch}", len(batches), "batches")
        self._model.train()
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

    def _step(self, batch: Sequence[int]) -> float:
        try:
            with torch.autocast(
                self._device.type, torch.bfloat16, enabled=self._config.dtype == "bfloat16"
            ):
                queries = self._embed([self._texts.queries[i] for i in batch], "query")
                documents = self._embed([self._texts.documents[i] for i in batch], "document")
            # The softmax stays in float32: a cosine in bfloat16 has two digits.
            loss = self._loss.compute_loss_from_embeddings(
                [queries.float(), documents.float()], None
            )
            loss.backward()
        except torch.OutOfMemoryError:
            raise ModelError(
                f"The device has too little memory for {self._config.batch_size} pairs of "
                f"{self._encoder.max_tokens} tokens.",
                hint="Lower train.max_tokens or train.batch_size.",
            ) from None
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._spec.max_gradient_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _embed(self, texts: Sequence[str], role: Role) -> torch.Tensor:
        readable = [self._encoder.readable(text, role) for text in texts]
        features: dict[str, Any] = self._model.preprocess(
            readable, prompt=self._encoder.prompt(role) or None, task=role
        )
        output = self._model(batch_to_device(features, self._device), task=role)
        vectors: torch.Tensor = output["sentence_embedding"]
        return vectors

    def _score(self) -> float | None:
        if not self._dev.queries:
            return None
        self._model.eval()
        index = DenseIndex(self._encoder.encode_documents(self._dev.documents), self._dev_ids)
        vectors = self._encoder.encode_queries(self._dev.queries)
        found = index.search(vectors, self._dev.queries, self._dev_depth)
        return float(self._dev_score(found, self._dev.qrels))


def _seed_of(seed: int, epoch: int, step: int) -> int:
    digest = hashlib.sha256(f"dropout:{seed}:{epoch}:{step}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _save(
    output: Path,
    encoder: Encoder,
    config: TrainConfig,
    seed: int,
    texts: TrainingTexts,
    dev: DevSet,
    result: TrainingResult,
    dev_measure: str,
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    encoder.save(output)
    is_folder = Path(config.start).is_dir()
    facts = CardFacts(
        base_model=Path(config.start).resolve().name if is_folder else config.start,
        base_is_hub_name=not is_folder,
        dimension=encoder.dimension,
        max_tokens=encoder.max_tokens,
        pooling=encoder.pooling,
        query_prompt=encoder.prompt("query"),
        document_prompt=encoder.prompt("document"),
        pairs=result.pairs,
        queries=len(set(texts.queries)),
        documents=len(set(texts.documents)),
        dev_queries=len(dev.queries),
        dev_documents=len(dev.documents),
        best_epoch=result.best_epoch,
        start_dev_score=result.start_dev_score,
        history=result.history,
        seed=seed,
        dev_measure=dev_measure,
    )
    atomic_write_text(output / "README.md", model_card(facts, encoder.spec, config))
