"""Rows of prompts behind one prefix, for any causal language model.

Two facts about transformers shape this file (both are held by tests against the slow reference).
Token *ids* after a prefilled cache are exact; *embeddings* after one are not, so the soft prompt
goes in as embeddings on an empty cache and everything behind it as ids. And padding is harmless
only if a mask hides it and position ids count past it, so both are passed explicitly; where a
model counts positions in a way of its own, rows of equal length do without.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache, DynamicLayer

from sptar.llm.loading import LanguageModel
from sptar.llm.verdict import forward

__all__ = [
    "CopyingRows",
    "PromptRows",
    "SeparateRows",
    "first_values",
    "move_to_front",
    "within_context",
]

_SPARE_SLOTS = 64
"""Cache slots that are added when a cache is full: one copy in 64 steps instead of in each."""


class PromptRows(Protocol):
    """Several prompts that begin with the same prefix and grow together, one row each."""

    def extend(self, ids: torch.Tensor, lengths: torch.Tensor, keep: int) -> torch.Tensor:
        """Append tokens to every row and run the model on them.

        Args:
            ids: token ids [rows, new], right-padded with any valid id.
            lengths: number of real tokens in each row [rows].
            keep: how many of the ``new`` columns, counted from the right, need logits.

        Returns:
            Logits [rows, keep, vocabulary]; those at padding mean nothing.
        """
        ...

    def select(self, rows: torch.Tensor) -> None:
        """Keep only these rows, in this order (positions [kept])."""
        ...

    def join(self, other: Any) -> None:
        """Take over the rows of another of the same kind, which is not used afterwards.

        Both hold a token in each row. Only where :attr:`Prefix.rows_can_join` says so.
        """
        ...


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with spare slots: new keys and values are written, the old ones not copied.

    transformers' own layer copies everything it holds for each new token.
    """

    def __init__(self, filled: DynamicLayer, rows: int) -> None:
        super().__init__()
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None
        if filled.get_seq_length():
            # Expanded tensors are views; the first update writes them into a buffer.
            self.dtype, self.device = filled.keys.dtype, filled.keys.device
            self.keys = filled.keys.expand(rows, -1, -1, -1)
            self.values = filled.values.expand(rows, -1, -1, -1)
            self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [rows, heads, new, width]; returns all of them so far."""
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        if self._room is None or self._room[0].shape[-2] < new:
            held = (self.keys, self.values) if old else (None, None)
            self._room = (
                _buffer(held[0], key_states, new + _SPARE_SLOTS),
                _buffer(held[1], value_states, new + _SPARE_SLOTS),
            )
        keys, values = self._room
        keys[:, :, old:new] = key_states
        values[:, :, old:new] = value_states
        self.keys, self.values = keys[:, :, :new], values[:, :, :new]
        return self.keys, self.values

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only these rows [kept]."""
        if self._room is None:
            if self.is_initialized:
                self.keys, self.values = self.keys[rows], self.values[rows]
            return
        used = self.get_seq_length()
        self._room = (move_to_front(self._room[0], rows), move_to_front(self._room[1], rows))
        self.keys, self.values = (part[:, :, :used] for part in self._room)


def move_to_front(held: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A view of these rows [kept, ...], after those that were elsewhere have been copied."""
    places = torch.arange(len(rows), device=rows.device)
    moved = rows != places
    held[places[moved]] = held[rows[moved]]
    return held[: len(rows)]


def _buffer(held: torch.Tensor | None, like: torch.Tensor, slots: int) -> torch.Tensor:
    """Room for ``slots`` tokens, beginning with what is held."""
    buffer = like.new_empty((*like.shape[:2], slots, like.shape[-1]))
    if held is not None:
        buffer[:, :, : held.shape[-2]] = held
    return buffer


class _ClosedRows:
    """Rows that begin together."""

    def join(self, other: Any) -> None:
        """Never called."""
        raise NotImplementedError


class CopyingRows(_ClosedRows):
    """Rows whose cache begins with a copy of the prefix's keys and values."""

    def __init__(
        self, language_model: LanguageModel, prefix: Cache, length: int, rows: int
    ) -> None:
        self._language_model = language_model
        self._cache = Cache(layers=[_RoomyLayer(layer, rows) for layer in prefix.layers])
        device = language_model.device
        self._mask = torch.ones((rows, length), dtype=torch.long, device=device)
        self._positions = torch.full((rows,), length, dtype=torch.long, device=device)

    def extend(self, ids: torch.Tensor, lengths: torch.Tensor, keep: int) -> torch.Tensor:
        offsets = torch.arange(ids.shape[1], device=ids.device)[None]
        real = (offsets < lengths[:, None]).to(self._mask.dtype)
        self._mask = torch.cat([self._mask, real], dim=1)
        values = {"input_ids": ids, "attention_mask": self._mask}
        if self._language_model.verdict.takes_positions:
            positions = self._positions[:, None] + offsets
            values["position_ids"] = within_context(self._language_model, positions)
        self._positions = self._positions + lengths
        model, verdict = self._language_model.model, self._language_model.verdict
        logits, _ = forward(model, verdict, values, self._cache, keep)
        return logits

    def select(self, rows: torch.Tensor) -> None:
        for layer in self._cache.layers:
            layer.keep(rows)
        self._mask = self._mask[rows]
        self._positions = self._positions[rows]


class SeparateRows(_ClosedRows):
    """Rows that run the prefix themselves, in whatever kind of cache the model makes.

    All rows must have the same length, so there is no padding to mask. Where the model's cache
    cannot be continued, everything is run again for each extension.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        virtual: torch.Tensor | None,
        prefix: torch.Tensor,
        rows: int,
    ) -> None:
        self._language_model = language_model
        self._virtual = virtual
        self._before = 0 if virtual is None else len(virtual)
        self._ids = prefix.expand(rows, -1)
        self._cache: Any = None

    def extend(self, ids: torch.Tensor, lengths: torch.Tensor, keep: int) -> torch.Tensor:
        language_model = self._language_model
        self._ids = torch.cat([self._ids, ids], dim=1)
        length = self._before + self._ids.shape[1]
        if self._cache is not None:
            values, first = {"input_ids": ids}, length - ids.shape[1]
        else:
            values, first = first_values(language_model, self._virtual, self._ids), 0
        if language_model.verdict.takes_positions:
            positions = torch.arange(first, length, device=ids.device).expand(len(ids), -1)
            values["position_ids"] = within_context(language_model, positions)
        logits, cache = forward(
            language_model.model, language_model.verdict, values, self._cache, keep
        )
        self._cache = cache if language_model.verdict.continues else None
        return logits

    def select(self, rows: torch.Tensor) -> None:
        self._ids = self._ids[rows]
        if self._cache is not None:
            self._cache.reorder_cache(rows)


def first_values(
    language_model: LanguageModel, virtual: torch.Tensor | None, ids: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What the forward pass reads of prompts [rows, tokens] from their beginnings.

    Ids as they are; behind virtual tokens [virtual tokens, width], as embeddings.
    """
    if virtual is None:
        return {"input_ids": ids}
    embedded = language_model.embed(ids)
    front = virtual.to(embedded.dtype).expand(len(ids), -1, -1)
    return {"inputs_embeds": torch.cat([front, embedded], dim=1)}


def within_context(language_model: LanguageModel, positions: torch.Tensor) -> torch.Tensor:
    # Padding, and rows that have ended, may count past the last position that there is.
    if language_model.context_tokens is None:
        return positions
    return positions.clamp(max=language_model.context_tokens - 1)
