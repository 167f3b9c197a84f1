"""Tokens each second of soft prompt tuning, beside PEFT and the Trainer of transformers.

    python benchmarks/tuning.py --out benchmarks/results/tuning.json

Both learn from the same start, on the same prompts in the same order, with the same schedule, and
evaluate before the first and after each epoch; so both have to find the same losses. All variants
run in one process, one after the other in each round. All queries have the same number of tokens,
because the Trainer's mean over the tokens of a batch is then the mean over its rows that this
package takes.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import describe_machine, spread
from random_model import DOCUMENT_TOKENS, EXAMPLE_TOKENS, SHAPES, Texts, Workload, workload

import sptar.llm.tuning.loop
from sptar.config import TuneConfig
from sptar.llm.soft_prompt import initial_matrix
from sptar.llm.tuning.frozen_products import FrozenProducts
from sptar.llm.tuning.loop import TuningLoop
from sptar.llm.tuning.query_loss import PromptRow
from sptar.llm.tuning.soft_prompts import tune_soft_prompt
from sptar.types import Document, Pair, Query

QUERY_TOKENS = 12
SEED = 4


@dataclass(frozen=True)
class Task:
    """What is learned, and how."""

    load: Workload
    train: tuple[Pair, ...]
    evaluation: tuple[Pair, ...]
    config: TuneConfig

    def loop(self) -> TuningLoop:
        """The package's loop, which names prompts and their order."""
        load = self.load
        return TuningLoop(load.model, load.template, self.train, self.evaluation, self.config, SEED)

    def rows(self) -> tuple[list[PromptRow], list[PromptRow]]:
        """Prompts of all epochs in the order of training, and those of the evaluation."""
        loop = self.loop()
        epochs = range(1, self.config.epochs + 1)
        trained = [loop.training_row(e, index) for e in epochs for index in loop.order(e)]
        return trained, loop.evaluation_rows()

    def tokens(self) -> int:
        """Tokens that go through the model, virtual ones included, padding not."""
        trained, evaluated = self.rows()
        read = [*trained, *evaluated * (self.config.epochs + 1)]
        return sum(len(row.ids) + self.config.virtual_tokens for row in read)


@dataclass(frozen=True)
class Curves:
    """Mean training loss of each epoch, and the evaluation losses, the first before training."""

    training: list[float]
    evaluation: list[float]


def fixed_query(load: Workload, texts: Texts) -> str:
    """A query of exactly so many tokens, its end included."""
    while True:
        text = texts.words(5)
        if len(load.template.query_ids(text)) == QUERY_TOKENS:
            return text


def random_pairs(load: Workload, count: int, seed: int) -> tuple[Pair, ...]:
    """Pairs for tuning: each is the example of others, so one kind of document serves both."""
    texts = Texts(seed)
    shortest, longest = DOCUMENT_TOKENS
    middle = (shortest + longest + EXAMPLE_TOKENS) // 3
    return tuple(
        Pair(
            Query(f"q{seed}-{number}", fixed_query(load, texts)),
            Document(
                f"d{seed}-{number}",
                texts.of_tokens(load.model, middle - 40 + 80 * number // max(1, count - 1)),
            ),
        )
        for number in range(count)
    )


# PEFT and the Trainer -----------------------------------------------------------------------------


def with_trainer(task: Task) -> Curves:
    """The usual way: PEFT's prompt tuning, batches padded on the right, all logits."""
    from peft import PromptTuningConfig, get_peft_model
    from transformers import PrinterCallback, Trainer, TrainingArguments

    trained, evaluated = task.rows()
    config = task.config
    inner = copy.deepcopy(task.load.model.model)
    model = get_peft_model(
        inner,
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=config.virtual_tokens),
    )
    with torch.no_grad():
        start = initial_matrix(task.load.model, config, SEED)
        model.prompt_encoder["default"].embedding.weight.copy_(start)
    losses: list[torch.Tensor] = []

    class Recording(Trainer):
        """Keeps the loss of each batch, and takes the prompts as they come."""

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            losses.append(loss.detach())
            return loss

    steps = len(task.train) // config.batch_size
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=config.batch_size,
            per_device_eval_batch_size=8,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            lr_scheduler_type="linear",
            warmup_steps=0,
            max_grad_norm=0.0,
            eval_strategy="steps",
            eval_steps=steps,
            eval_on_start=True,
            prediction_loss_only=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=task.load.model.device.type == "cpu",
            remove_unused_columns=False,
            label_names=["labels"],
            dataloader_pin_memory=False,
        )
        trainer = Recording(
            model=model,
            args=arguments,
            train_dataset=[as_example(row) for row in trained],
            eval_dataset=[as_example(row) for row in evaluated],
            data_collator=padded,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    each = torch.stack(losses).cpu().reshape(config.epochs, steps).mean(dim=1).tolist()
    history = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    return Curves(each, history)


def as_example(row: PromptRow) -> dict[str, list[int]]:
    """Ids, and labels at the query alone."""
    hidden = [-100] * (len(row.ids) - row.targets)
    return {"input_ids": row.ids, "labels": [*hidden, *row.ids[-row.targets :]]}


def padded(examples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch, filled up on the right."""
    longest = max(len(example["input_ids"]) for example in examples)

    def filled(name: str, value: int) -> torch.Tensor:
        rows = [example[name] for example in examples]
        return torch.tensor([row + [value] * (longest - len(row)) for row in rows])

    ids = filled("input_ids", -1)
    mask = (ids >= 0).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": filled("labels", -100)}


# The tuning of this package, whole or without one of its parts -----------------------------------


def with_package(task: Task) -> Curves:
    """As the step does it."""
    load = task.load
    result = tune_soft_prompt(
        load.model, load.template, task.train, task.evaluation, task.config, SEED
    )
    return Curves(
        [record.training_loss for record in result.history],
        [
            result.initial_evaluation_loss,
            *(record.evaluation_loss for record in result.history),
        ],
    )


@contextmanager
def weights_as_they_are() -> Iterator[None]:
    """Without copies of the weights in oneDNN's layout."""
    with mock.patch.object(FrozenProducts, "in_use", return_value=nullcontext()):
        yield


@contextmanager
def large_evaluation_batches() -> Iterator[None]:
    """Without a limit on the tokens of a batch."""
    with mock.patch.object(sptar.llm.tuning.loop, "most_tokens_on", return_value=None):
        yield


VARIANTS = {
    "trainer": (with_trainer, nullcontext),
    "tune": (with_package, nullcontext),
    "tune, weights not packed": (with_package, weights_as_they_are),
    "tune, large evaluation batches": (with_package, large_evaluation_batches),
}


def clocks() -> tuple[float, float]:
    """Seconds by the wall and by the processor."""
    return time.perf_counter(), time.process_time()


def measure(options: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Time all variants by turns; compare their losses with the Trainer's."""
    tokens = task.tokens()
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in options.variants}
    curves: dict[str, Curves] = {}
    for number in range(options.rounds):
        for name in options.variants:
            run, part = VARIANTS[name]
            with part():
                wall, cpu = clocks()
                curves[name] = run(task)
                if task.load.model.device.type == "cuda":
                    torch.cuda.synchronize()
                end, cpu_end = clocks()
            took[name].append((end - wall, cpu_end - cpu))
            print(f"round {number + 1}: {name}: {tokens / (end - wall):.0f} tokens/s", flush=True)
    rows: dict[str, Any] = {}
    base = curves["trainer"]
    for name, found in took.items():
        pairs = list(zip(found, took["trainer"], strict=True))
        rows[name] = {
            "tokens_per_second": asdict(spread([tokens / wall for wall, _ in found])),
            "times_trainer": asdict(spread([b[0] / a[0] for a, b in pairs])),
            "times_trainer_by_processor_time": asdict(spread([b[1] / a[1] for a, b in pairs])),
            "seconds": [round(wall, 3) for wall, _ in found],
            "processor_seconds": [round(cpu, 3) for _, cpu in found],
            "training_losses": curves[name].training,
            "evaluation_losses": curves[name].evaluation,
            "largest_difference": {
                "training": largest(curves[name].training, base.training),
                "evaluation": largest(curves[name].evaluation, base.evaluation),
            },
        }
        row = rows[name]
        print(
            f"{name:32} {row['tokens_per_second']['median']:8.0f} tokens/s, "
            f"{row['times_trainer']['median']:.2f} times, by processor time "
            f"{row['times_trainer_by_processor_time']['median']:.2f}; "
            f"differences {row['largest_difference']}"
        )
    return {
        "train_pairs": len(task.train),
        "evaluation_pairs": len(task.evaluation),
        "epochs": task.config.epochs,
        "batch_size": task.config.batch_size,
        "tokens": tokens,
        "variants": rows,
    }


def largest(found: Sequence[float], expected: Sequence[float]) -> float:
    """Largest difference of two curves."""
    return max(abs(a - b) for a, b in zip(found, expected, strict=True))


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    load = workload(options.model_shape, options.device, torch.float32)
    task = Task(
        load,
        random_pairs(load, options.train, 30),
        random_pairs(load, options.evaluation, 31),
        TuneConfig(
            virtual_tokens=load.soft_prompt.virtual_tokens,
            init="vocabulary",
            epochs=options.epochs,
            patience=options.epochs,
        ),
    )
    cases = []
    for size in options.batch_sizes:
        print(f"\nbatches of {size}")
        cases.append(
            measure(
                options, replace(task, config=task.config.model_copy(update={"batch_size": size}))
            )
        )
    record = {
        "machine": describe_machine(options.device),
        "command": " ".join(["python", *sys.argv]),
        "model": {"shape": options.model_shape, **asdict(SHAPES[options.model_shape])},
        "cases": cases,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", type=int, default=4, help="pairs of S_train")
    parser.add_argument("--evaluation", type=int, default=8, help="pairs of S_eval")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--model-shape", choices=sorted(SHAPES), default="30M")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument(
        "--variants",
        type=lambda text: text.split(";"),
        default=list(VARIANTS)[:3],
        help="separated by semicolons; the first is the Trainer",
    )
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
