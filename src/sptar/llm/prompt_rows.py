"""Rows of prompts behind one prefix, for any causal language model.

Two facts about transformers shape this file (both are held by tests against the slow reference).
Token *ids* after a prefilled cache are exact; *embeddings* after one are not, so the soft prompt
goes in as embeddings on an empty cache and everything behind it as ids. And padding is harmless
only if a mask hides it and position ids count past it, so both are passed explicitly.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache, DynamicLayer

from sptar.llm.loading import LanguageModel

__all__ = [
    "CopyingRows",
    "PromptRows",
    "SeparateRows",
    "forward",
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
        if self._language_model.accepts_position_ids:
            positions = self._positions[:, None] + offsets
            values["position_ids"] = within_context(self._language_model, positions)
        self._positions = self._positions + lengths
        logits, _ = forward(self._language_model.model, values, self._cache, keep)
        return logits

    def select(self, rows: torch.Tensor) -> None:
        for layer in self._cache.layers:
            layer.keep(rows)
        self._mask = self._mask[rows]
        self._positions = self._positions[rows]


class SeparateRows(_ClosedRows):
    """Rows that run the prefix themselves, in whatever kind of cache the model makes.

    All rows must have the same length. Without a cache from the model, everything is run again
    for each extension.
    """

    def __init__(self, language_model: LanguageModel, prefix: torch.Tensor, rows: int) -> None:
        self._language_model = language_model
        self._embeddings = prefix.expand(rows, -1, -1)
        self._cache: Any = None
        self._length = prefix.shape[1]

    def extend(self, ids: torch.Tensor, lengths: torch.Tensor, keep: int) -> torch.Tensor:
        model = self._language_model.model
        self._length += ids.shape[1]
        values = {
            "attention_mask": torch.ones(
                (ids.shape[0], self._length), dtype=torch.long, device=ids.device
            )
        }
        if self._cache is not None:
            values["input_ids"] = ids
        else:
            new = self._language_model.embed(ids)
            self._embeddings = torch.cat([self._embeddings, new], dim=1)
            values["inputs_embeds"] = self._embeddings
        if self._language_model.accepts_position_ids:
            columns = self._length if self._cache is None else ids.shape[1]
            positions = torch.arange(self._length - columns, self._length, device=ids.device)
            positions = positions.expand(ids.shape[0], -1)
            values["position_ids"] = within_context(self._language_model, positions)
        logits, self._cache = forward(model, values, self._cache, keep)
        return logits

    def select(self, rows: torch.Tensor) -> None:
        self._embeddings = self._embeddings[rows]
        if self._cache is not None:
            self._cache.reorder_cache(rows)


def within_context(language_model: LanguageModel, positions: torch.Tensor) -> torch.Tensor:
    # Padding, and rows that have ended, may count past the last position that there is.
    if language_model.context_tokens is None:
        return positions
    return positions.clamp(max=language_model.context_tokens - 1)


def forward(model: Any, values: dict[str, Any], cache: Any, keep: int) -> tuple[torch.Tensor, Any]:
    """Logits of the last ``keep`` columns, and the cache if it is one that can be continued."""
    extra: dict[str, Any] = {"logits_to_keep": keep} if _takes_logits_to_keep(model) else {}
    if cache is not None:
        extra["past_key_values"] = cache
    outputs = model(**values, **extra, use_cache=True)
    made = getattr(outputs, "past_key_values", None)
    return outputs.logits[:, -keep:], made if isinstance(made, Cache) else None


def _takes_logits_to_keep(model: Any) -> bool:
    # An adapter around the model passes arguments through without naming them.
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
