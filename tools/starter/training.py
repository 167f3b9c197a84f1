"""The training loop of both models: it can be stopped at any time and goes on at a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from checkpoint import Checkpoint, Done, TrainingLog

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class StepResult:
    """Mean loss of a step, and the tokens that were read."""

    loss: float
    tokens: int


@dataclass(frozen=True)
class Loop(Generic[Drawn]):
    """One training.

    Attributes:
        model: trained as it is; it must draw no random numbers (no dropout).
        optimizer: AdamW over all of its parameters.
        steps: how many, from the first to the last.
        draw: the data of each step, from a given step on.
        backward: adds the gradients of a step's data.
        rate: the learning rate of a step, counted from 0.
        measure: what a line of the log says after ``measure_every`` steps and at both ends.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    draw: Callable[[int], Iterator[Drawn]]
    backward: Callable[[Drawn], StepResult]
    rate: Callable[[int], float]
    measure: Callable[[], dict[str, Any]]
    measure_every: int
    checkpoint_every: int
    log_every: int = 10

    def run(self, checkpoint: Checkpoint, log_of: Callable[[int], TrainingLog]) -> Done:
        """Train to the end, from the last checkpoint on.

        ``log_of`` opens the log behind a step.
        """
        done = checkpoint.load(self.model, self.optimizer)
        log = log_of(done.step)
        if done.step == 0:
            log.write({"step": 0, **self.measure()})
        self.model.train()
        begin = time.perf_counter()
        for step, data in enumerate(self.draw(done.step), start=done.step):
            result = self._one_step(step, data)
            done = Done(
                step + 1,
                done.tokens + result.tokens,
                done.seconds + time.perf_counter() - begin,
                [*done.recent, result.loss],
            )
            last = done.step == self.steps
            if done.step % self.log_every == 0 or last:
                done = self._tell(done, log)
            if done.step % self.measure_every == 0 or last:
                log.write({"step": done.step, **self.measure()})
                self.model.train()
            # Last, so that every line up to a checkpoint is in the log.
            if done.step % self.checkpoint_every == 0 or last:
                checkpoint.save(self.model, self.optimizer, done)
            begin = time.perf_counter()
        return done

    def _one_step(self, step: int, data: Drawn) -> StepResult:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        result = self.backward(data)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return result

    def _tell(self, done: Done, log: TrainingLog) -> Done:
        """Write the mean loss since the last such line, and begin a new mean."""
        log.write(
            {
                "step": done.step,
                "loss": round(sum(done.recent) / len(done.recent), 4),
                "tokens": done.tokens,
                "seconds": round(done.seconds, 1),
            }
        )
        return Done(done.step, done.tokens, done.seconds)
