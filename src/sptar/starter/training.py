"""The training loop of both toy models."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

__all__ = ["train"]

_log = logging.getLogger(__name__)


def train(
    name: str,
    model: Any,
    steps: int,
    learning_rate: float,
    loss_of_step: Callable[[float], Any],
) -> None:
    """AdamW with a short warm-up and linear decay; the loss is logged ten times.

    ``loss_of_step`` is told which share of the steps is done (0 at the first).
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / steps)
    )
    model.train()
    for step in range(1, steps + 1):
        loss = loss_of_step((step - 1) / steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 10) == 0:
            _log.info("%s: step %d of %d, loss %.3f", name, step, steps, loss.item())
    model.eval()
