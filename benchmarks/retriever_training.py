"""Training a bi-encoder: our loop beside sentence-transformers' Trainer.

    python benchmarks/retriever_training.py --start FOLDER --out FILE.json

Both learn from the same start on the same batches in the same order with the same loss, optimiser
and schedule, dropout off, so both have to find the same losses. Pairs are titles and texts of the
starter's collection. Every measurement is a process of its own, so that its peak memory is its own;
the variants take turns. Neither side evaluates inside the measured time, and ours writes the state
of each epoch, without which a killed training could not go on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from machine import as_record, describe_machine, spread
from retriever_costs import peak_bytes

from sptar.config import TrainConfig
from sptar.packaged import folder_of
from sptar.retrieval.specs import recipe
from sptar.training.batches import conflict_free
from sptar.training.loop import DevSet, TrainingData, train_retriever
from sptar.training.texts import TrainingTexts
from sptar.types import Document, Pair, Query

VARIANTS = ("ours", "trainer")
SEED = 7


def pairs() -> list[Pair]:
    """Each document of the starter's collection, asked for by its title."""
    corpus = Path(folder_of("starter:transport")) / "corpus.jsonl"
    rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    return [
        Pair(Query(f"q-{row['_id']}", row["title"]), Document(row["_id"], row["text"]))
        for row in rows
        if row["title"]
    ]


def without_dropout(start: str, folder: Path) -> Path:
    """A copy of the start that draws no random numbers while it learns."""
    shutil.copytree(folder_of(start), folder)
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    path.write_text(json.dumps(settings), encoding="utf-8")
    return folder


def settings(start: Path, options: argparse.Namespace) -> TrainConfig:
    """The recipe that both sides follow."""
    given = TrainConfig(
        start=str(start),
        epochs=options.epochs,
        batch_size=options.batch_size,
        max_tokens=options.tokens,
        micro_batch_size=options.micro_batch,
        device="cpu" if options.cpu else "auto",
    )
    return recipe(given, "dpr")


@dataclass
class Clock:
    """Progress of a training: when its first step began, when its last epoch ended."""

    began: float | None = None
    ended: float = field(default_factory=time.perf_counter)
    resident: int = 0

    def start(self, description: str, total: int | None, unit: str = "") -> None:
        """An epoch begins."""
        if description.startswith("Training") and self.began is None:
            self.resident = peak_bytes()
            self.began = time.perf_counter()

    def advance(self, steps: int = 1) -> None:
        """A step is done."""

    def finish(self) -> None:
        """An epoch is done."""
        self.ended = time.perf_counter()

    def message(self, text: str) -> None:
        """Nothing of interest."""


def ours(config: TrainConfig) -> dict[str, Any]:
    """The package's loop; the state of each epoch is written as always."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        result = train_retriever(
            TrainingData(pairs()),
            DevSet([], [], {}),
            config,
            SEED,
            Path(folder) / "model",
            lambda run, qrels: 0.0,
            Path(folder) / "checkpoints",
            clock,
        )
    assert clock.began is not None
    return {
        "seconds": clock.ended - clock.began,
        "before": clock.resident,
        "losses": [record.loss for record in result.history],
    }


def trainer(config: TrainConfig) -> dict[str, Any]:
    """The library's Trainer on our batches, in our order, with our optimiser and schedule."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )
    from sentence_transformers.sentence_transformer.training_args import (
        SentenceTransformerTrainingArguments,
    )
    from transformers import TrainerCallback

    device = "cpu" if config.device == "cpu" or not torch.cuda.is_available() else "cuda"
    model = SentenceTransformer(config.start, device=device, model_kwargs={"dtype": torch.float32})
    model.max_seq_length = config.max_tokens
    texts = TrainingTexts.of(pairs(), [])
    epochs = [conflict_free(texts, config, SEED, epoch)[0] for epoch in range(1, config.epochs + 1)]
    batches = [batch for epoch in epochs for batch in epoch]
    data = Dataset.from_dict({"query": texts.queries, "document": texts.documents})
    if config.micro_batch_size is None:
        loss: Any = MultipleNegativesRankingLoss(model, scale=config.scale)
    else:
        loss = CachedMultipleNegativesRankingLoss(
            model, scale=config.scale, mini_batch_size=config.micro_batch_size
        )
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in parameters if w.ndim > 1], "weight_decay": 0.01},
            {"params": [w for w in parameters if w.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
    )
    shares = [
        (number + (step + 0.5) / len(epoch)) / config.epochs
        for number, epoch in enumerate(epochs)
        for step in range(len(epoch))
    ]

    def factor(step: int) -> float:
        share = shares[min(step, len(shares) - 1)]
        return share / config.warmup if share < config.warmup else (1 - share) / (1 - config.warmup)

    class GivenBatches(torch.utils.data.BatchSampler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

        def __iter__(self) -> Iterator[list[int]]:
            return iter(batches)

        def __len__(self) -> int:
            return len(batches)

    class Begin(TrainerCallback):
        began = 0.0
        before = 0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if not self.began:
                self.before = peak_bytes()
                self.began = time.perf_counter()

    begin = Begin()
    losses: list[float] = []
    plain = loss.forward

    def remembered(*args: Any, **kwargs: Any) -> torch.Tensor:
        value: torch.Tensor = plain(*args, **kwargs)
        losses.append(float(value.detach()))
        return value

    loss.forward = remembered
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=config.batch_size,
            batch_sampler=GivenBatches,
            max_grad_norm=1.0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            seed=SEED,
            use_cpu=device == "cpu",
        )
        SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=data,
            loss=loss,
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)),
            callbacks=[begin],
        ).train()
        ended = time.perf_counter()
    ends = [sum(len(epoch) for epoch in epochs[: number + 1]) for number in range(len(epochs))]
    weights = [len(batch) for batch in batches]
    means = []
    for first, last in zip([0, *ends[:-1]], ends, strict=True):
        summed = sum(x * w for x, w in zip(losses[first:last], weights[first:last], strict=True))
        means.append(summed / sum(weights[first:last]))
    return {"seconds": ended - begin.began, "before": begin.before, "losses": means}


def measure(options: argparse.Namespace) -> None:
    """One training in this process; the result goes to a file."""
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        start = without_dropout(options.start, Path(folder) / "start")
        run = {"ours": ours, "trainer": trainer}[options.variant]
        found = run(settings(start, options))
    found["peak"] = peak_bytes()
    Path(options.measured).write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    """Take turns, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", default="starter:encoder", help="folder of a start encoder")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=None, help="compare the cached losses")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--measured", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        measure(options)
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        measured = Path(folder) / "measured.json"
        for _ in range(options.rounds):
            for name in VARIANTS:
                command = [sys.executable, __file__, *sys.argv[1:], "--variant", name]
                subprocess.run([*command, "--measured", str(measured)], check=True)
                found[name].append(json.loads(measured.read_text(encoding="utf-8")))
    apart = max(
        abs(a - b)
        for a, b in zip(found["ours"][0]["losses"], found["trainer"][0]["losses"], strict=True)
    )
    ratios = [
        theirs["seconds"] / mine["seconds"]
        for mine, theirs in zip(found["ours"], found["trainer"], strict=True)
    ]
    print(f"{len(pairs())} pairs, batches of {options.batch_size}, {options.epochs} epochs")
    for name in VARIANTS:
        taken = spread([item["seconds"] for item in found[name]])
        peak = max(item["peak"] for item in found[name]) / 2**20
        losses = ", ".join(f"{loss:.5f}" for loss in found[name][0]["losses"])
        print(
            f"{name:8} {taken.median:7.2f} s ({taken.smallest:.2f}–{taken.largest:.2f}), "
            f"peak {peak:,.0f} MiB, losses {losses}"
        )
    print(f"ours is {spread(ratios).median:.2f} times as fast; losses differ by {apart:.1e}")
    if options.out:
        record = {
            "machine": machine,
            "settings": {key: str(value) for key, value in vars(options).items()},
            "found": found,
            "ours_is_faster_by": as_record(spread(ratios)),
            "losses_differ_by": apart,
        }
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
