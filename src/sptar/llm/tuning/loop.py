"""The training loop behind soft prompt tuning and LoRA: they differ only in what learns.

The model stays in evaluation mode while its prompt learns. Dropout protects weights that learn from
leaning on each other; here none of the model's own learns, LLaMA has no dropout anyway, and without
its noise a batch of n equals n single pairs and a resumed run equals an undisturbed one. The
published code trains, and evaluates, in training mode.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sptar.config import TuneConfig, result_settings
from sptar.errors import ConfigError, DataError, ModelError
from sptar.io import to_json
from sptar.llm.engine.batching import LengthBatches, most_tokens_on
from sptar.llm.loading import LanguageModel
from sptar.llm.template import PromptTemplate
from sptar.llm.tuning.checkpoint import EpochRecord, TuningState, read_state, write_state
from sptar.llm.tuning.frozen_products import FrozenProducts
from sptar.llm.tuning.query_loss import PromptRow, prompt_row, query_losses, recomputed_layers
from sptar.tensors.memory import is_out_of_memory
from sptar.types import Pair, Progress

__all__ = ["TuningLoop"]


class TuningLoop:
    """Trains given parameters on S_train, watches S_eval, keeps the best.

    Args:
        language_model: the model, whose own weights do not learn.
        template: prompt of the tuning; ``template.prompt.examples`` pairs of S_train stand in
            front of each pair, never one with the pair's own query.
        train: S_train's pairs.
        evaluation: S_eval's pairs.
        config: batch, epochs, patience and learning rate.
        seed: of order and examples: each draw has a random stream named by (seed, epoch, pair).

    Raises:
        DataError: there are no pairs.
        ConfigError: S_train has too few queries for M examples.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        template: PromptTemplate,
        train: Sequence[Pair],
        evaluation: Sequence[Pair],
        config: TuneConfig,
        seed: int,
    ) -> None:
        if not train or not evaluation:
            raise DataError(
                f"Tuning needs labelled pairs: S_train has {len(train)}, S_eval {len(evaluation)}."
            )
        self.language_model = language_model
        self.template = template
        self.train = list(train)
        self.evaluation = list(evaluation)
        self.config = config
        self.seed = seed
        self._check_examples()

    def _check_examples(self) -> None:
        wanted = self.template.prompt.examples
        for pair in self.train:
            others = sum(other.query.query_id != pair.query.query_id for other in self.train)
            if others < wanted:
                raise ConfigError(
                    f"`prompt.examples: {wanted}` and `split.train_queries` contradict each other: "
                    f"S_train has only {others} pairs of other queries to put in front of query "
                    f"{pair.query.query_id}.",
                    hint="Lower the first or raise the second.",
                )

    def _row(self, pair: Pair, stream: str) -> PromptRow:
        """The pair with examples drawn by the named random stream."""
        pool = [other for other in self.train if other.query.query_id != pair.query.query_id]
        examples = random.Random(stream).sample(pool, self.template.prompt.examples)
        return prompt_row(self.template, examples, pair)

    def training_row(self, epoch: int, index: int) -> PromptRow:
        """Pair ``index`` as it is seen in an epoch (from 1): other examples in each epoch."""
        return self._row(self.train[index], f"{self.seed}/{epoch}/{index}")

    def evaluation_rows(self) -> list[PromptRow]:
        """S_eval with examples drawn once, the same before, during and after tuning."""
        return [
            self._row(pair, f"{self.seed}/evaluation/{index}")
            for index, pair in enumerate(self.evaluation)
        ]

    def order(self, epoch: int) -> list[int]:
        """The order of S_train in an epoch."""
        order = list(range(len(self.train)))
        random.Random(f"{self.seed}/{epoch}/order").shuffle(order)
        return order

    @property
    def group_size(self) -> int:
        """Pairs behind one step of the optimizer; an epoch's last group may be smaller."""
        return self.config.batch_size * self.config.gradient_accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer in one pass over S_train."""
        return -(-len(self.train) // self.group_size)

    def learning_rate(self, step: int) -> float:
        """Linear decay to 0 over all epochs, no warm-up; ``step`` counts from 0."""
        total = self.steps_per_epoch * self.config.epochs
        return self.config.learning_rate * (total - step) / total

    def evaluation_loss(
        self, virtual: torch.Tensor | None, rows: Sequence[PromptRow] | None = None
    ) -> float:
        """Mean over pairs of their query loss.

        Rounded to six decimals, below which the arithmetic of different batch shapes differs, so
        that ``tune.evaluation_batch_size`` does not choose the best epoch.
        """
        rows = self.evaluation_rows() if rows is None else rows

        @torch.inference_mode()
        def work(batch: list[int]) -> list[float]:
            losses = query_losses(self.language_model, virtual, [rows[item] for item in batch])
            return losses.tolist()

        batches = LengthBatches(self.config.evaluation_batch_size)
        lengths = [len(row.ids) for row in rows]
        most_tokens = most_tokens_on(self.language_model.device)
        losses = batches.run(lengths, work, most_tokens=most_tokens)
        return self._finite(round(math.fsum(losses) / len(losses), 6), "evaluation")

    def _finite(self, loss: float, kind: str) -> float:
        if math.isfinite(loss):
            return loss
        lower = self.config.learning_rate / 10
        advice = f"Lower `tune.learning_rate` (try {lower:g})"
        if self.language_model.dtype == torch.float16:
            advice += ", or set `llm.dtype` to bfloat16 or float32: float16 overflows easily"
        raise ModelError(f"The {kind} loss is no longer a number.", hint=advice + ".")

    def accumulate_gradients(
        self, virtual: torch.Tensor | None, rows: Sequence[PromptRow]
    ) -> float:
        """Add the gradient of the mean loss of a group, in passes of ``tune.batch_size`` rows.

        Each pass counts by its share of the group, so accumulation equals one large batch, also
        for a last group that is not full. Returns the sum of the rows' losses.
        """
        total = 0.0
        for start in range(0, len(rows), self.config.batch_size):
            batch = rows[start : start + self.config.batch_size]
            losses = query_losses(self.language_model, virtual, batch)
            summed = losses.sum()
            total += self._finite(float(summed.detach()), "training")
            (summed / len(rows)).backward()  # type: ignore[no-untyped-call]
        return total

    def identity(self, weights: str) -> str:
        """Hash of all that the result depends on, to know a checkpoint by."""
        causes = {
            "weights": weights,
            "dtype": str(self.language_model.dtype),
            "config": result_settings(self.config),
            "prompt": self.template.prompt.model_dump(mode="json"),
            "style": self.template.style,
            "document_budget": self.template.document_budget,
            "seed": self.seed,
            "pairs": [
                [
                    pair.query.query_id,
                    pair.query.text,
                    pair.document.doc_id,
                    pair.document.full_text,
                ]
                for pair in [*self.train, *self.evaluation]
            ],
            "train": len(self.train),
        }
        return hashlib.sha256(to_json(causes).encode()).hexdigest()

    def run(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        virtual: torch.nn.Parameter | None,
        weights: str,
        progress: Progress,
        checkpoint_folder: Path | None,
    ) -> TuningState:
        """Tune until the epochs are used up or S_eval has not improved for more than patience.

        Afterwards ``parameters`` hold the best values. With a checkpoint folder the state is saved
        after every epoch, and a new call goes on from there to the same result bit for bit.
        """
        with FrozenProducts(self.language_model.model).in_use():
            return self._run(parameters, virtual, weights, progress, checkpoint_folder)

    def _run(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        virtual: torch.nn.Parameter | None,
        weights: str,
        progress: Progress,
        checkpoint_folder: Path | None,
    ) -> TuningState:
        config = self.config
        optimizer = torch.optim.AdamW(
            list(parameters.values()), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        rows = self.evaluation_rows()
        identity = self.identity(weights)
        state = None
        if checkpoint_folder is not None:
            state = read_state(checkpoint_folder, identity, parameters, optimizer)
        # Pairs that are trained on or evaluated; stopping early leaves some out.
        each = len(self.train) + len(rows)
        progress.start("Tuning", len(rows) + config.epochs * each, "pairs")
        if state is None:
            loss = self.evaluation_loss(virtual, rows)
            state = TuningState(_copy(parameters), initial_evaluation_loss=loss, best_loss=loss)
        progress.advance(len(rows) + state.epoch * each)
        while state.epoch < config.epochs and (state.epoch - state.tuned_epoch <= config.patience):
            self._epoch(state, parameters, virtual, optimizer, rows, progress)
            if checkpoint_folder is not None:
                write_state(checkpoint_folder, identity, state, parameters, optimizer)
        progress.message(
            f"S_eval's loss: {state.initial_evaluation_loss:.4f} at the start, "
            f"{state.best_loss:.4f} after epoch {state.best_epoch} of {state.epoch}."
        )
        progress.finish()
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state.best[name])
        return state

    def _epoch(
        self,
        state: TuningState,
        parameters: Mapping[str, torch.nn.Parameter],
        virtual: torch.nn.Parameter | None,
        optimizer: torch.optim.Optimizer,
        evaluation_rows: Sequence[PromptRow],
        progress: Progress,
    ) -> None:
        started = time.perf_counter()
        epoch = state.epoch + 1
        order = self.order(epoch)
        total, rate = 0.0, 0.0
        for number in range(self.steps_per_epoch):
            group = order[number * self.group_size : (number + 1) * self.group_size]
            rate = self.learning_rate(state.epoch * self.steps_per_epoch + number)
            for settings in optimizer.param_groups:
                settings["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            rows = [self.training_row(epoch, index) for index in group]
            total += self._guarded_gradients(virtual, rows)
            optimizer.step()
            progress.advance(len(group))
        optimizer.zero_grad(set_to_none=True)
        loss = self.evaluation_loss(virtual, evaluation_rows)
        progress.advance(len(evaluation_rows))
        if loss < state.tuned_loss:
            state.tuned_loss, state.tuned_epoch = loss, epoch
        if loss < state.best_loss:
            state.best_loss, state.best_epoch, state.best = loss, epoch, _copy(parameters)
        seconds = time.perf_counter() - started
        state.history.append(EpochRecord(epoch, total / len(self.train), loss, rate, seconds))

    def _guarded_gradients(self, virtual: torch.Tensor | None, rows: Sequence[PromptRow]) -> float:
        try:
            with recomputed_layers(self.language_model.model, self.config.gradient_checkpointing):
                return self.accumulate_gradients(virtual, rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                f"Memory ran out while tuning with `tune.batch_size: {self.config.batch_size}`.",
                hint="Set it to 1 and raise `tune.gradient_accumulation` instead, set "
                "`tune.gradient_checkpointing: true`, or lower `prompt.max_document_tokens`.",
            ) from None


def _copy(parameters: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}
