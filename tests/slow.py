"""Slow, obvious references that the tests compare the real code with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from sptar.llm.loading import LanguageModel
    from sptar.llm.tuning.query_loss import PromptRow

__all__ = ["slow_query_loss"]


def slow_query_loss(model: LanguageModel, virtual: torch.Tensor | None, row: PromptRow) -> float:
    """One unpadded row, all logits, token by token: the obvious way to do it."""
    import torch

    table = model.model.get_input_embeddings().weight
    parts = [table[torch.tensor(row.ids)]]
    if virtual is not None:
        parts.insert(0, virtual)
    with torch.no_grad():
        logits = model.model(inputs_embeds=torch.cat(parts).unsqueeze(0)).logits[0]
    before = 0 if virtual is None else len(virtual)
    losses = []
    for place in range(len(row.ids) - row.targets, len(row.ids)):
        probabilities = torch.softmax(logits[before + place - 1].double(), dim=0)
        losses.append(-math.log(probabilities[row.ids[place]].item()))
    return sum(losses) / len(losses)
