"""The training objective: loss of a query's tokens behind a prompt, for right-padded batches.

Padding stands on the right only, never between soft prompt and text, so a row's loss does not
depend on its neighbours. Logits are computed only where they predict a query token: with a large
vocabulary they would otherwise cost more memory than all layers together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from sptar.errors import ModelError
from sptar.llm.engine.batching import pad_right
from sptar.llm.engine.prompt_rows import first_values
from sptar.llm.loading import LanguageModel
from sptar.llm.template import PromptTemplate
from sptar.types import Pair

__all__ = ["PromptRow", "prompt_row", "query_losses", "recomputed_layers"]


@dataclass(frozen=True, slots=True)
class PromptRow:
    """Ids of a whole prompt and its query; the last ``targets`` of them are to be predicted."""

    ids: list[int]
    targets: int


def prompt_row(template: PromptTemplate, examples: Sequence[Pair], pair: Pair) -> PromptRow:
    """Prefix with these examples, the pair's document, then its query as target."""
    query = template.target_ids(pair.query.text)
    document = template.document_ids(pair.document)
    return PromptRow([*template.prefix_ids(examples), *document.ids, *query], len(query))


def query_losses(
    language_model: LanguageModel, virtual: torch.Tensor | None, rows: Sequence[PromptRow]
) -> torch.Tensor:
    """Mean negative log-likelihood (natural log) of each row's targets: float32 ``[rows]``.

    Args:
        virtual: embeddings ``[virtual tokens, width]`` in front of every row, or ``None``.
        rows: prompts with at least one position in front of the first target.

    The graph reaches ``virtual`` and whatever parameters of the model ask for a gradient.
    """
    if not language_model.verdict.hides_padding and len({len(row.ids) for row in rows}) > 1:
        # A row's loss must not depend on its neighbours: each goes alone.
        return torch.cat([query_losses(language_model, virtual, [row]) for row in rows])
    # The last token predicts nothing that is asked for.
    ids, lengths = pad_right([row.ids[:-1] for row in rows], language_model.device)
    before = 0 if virtual is None else virtual.shape[0]
    values = first_values(language_model, virtual, ids)
    columns = torch.arange(before + ids.shape[1], device=language_model.device)
    values["attention_mask"] = (columns < (lengths + before).unsqueeze(1)).long()

    row_of: list[int] = []
    place_of: list[int] = []
    target_of: list[int] = []
    for number, row in enumerate(rows):
        first = before + len(row.ids) - row.targets - 1
        row_of += [number] * row.targets
        place_of += range(first, first + row.targets)
        target_of += row.ids[len(row.ids) - row.targets :]
    places = sorted(set(place_of))
    if places[0] < 0:
        raise ValueError("a row needs a token or a virtual token in front of its targets")
    logits = _logits_at(language_model, values, places)
    column = {place: number for number, place in enumerate(places)}
    picked = logits[row_of, [column[place] for place in place_of]].float()
    targets = torch.tensor(target_of, device=picked.device)
    each = torch.nn.functional.cross_entropy(picked, targets, reduction="none")
    parts = torch.split_with_sizes(each, [row.targets for row in rows])
    return torch.stack([part.mean() for part in parts])


def _logits_at(
    language_model: LanguageModel, values: dict[str, torch.Tensor], places: Sequence[int]
) -> torch.Tensor:
    """Logits ``[rows, places, vocabulary]``; the head runs at these places only where it can."""
    model = language_model.model
    index = torch.tensor(places, device=language_model.device)
    logits: torch.Tensor
    if language_model.verdict.takes_logits_to_keep:
        logits = model(**values, use_cache=False, logits_to_keep=index).logits
    else:
        logits = model(**values, use_cache=False).logits[:, index]
    return logits


@contextmanager
def recomputed_layers(model: torch.nn.Module, wanted: bool = True) -> Iterator[None]:
    """Gradient checkpointing: each layer's inner values are computed again in the backward pass.

    The switch in transformers works only in training mode, which would turn dropout on in the
    frozen model; wrapping the layers here leaves it in evaluation mode, and the gradients equal.

    Raises:
        ModelError: the model's layers cannot be found.
    """
    if not wanted:
        yield
        return
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            "This model does not say which of its layers can be recomputed.",
            hint="Set `tune.gradient_checkpointing: false`.",
        )
    for layer in layers:
        layer.__dict__["forward"] = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]
