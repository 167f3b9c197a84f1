"""Rows behind a shared prefix that come and go: only their own keys and values are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from sptar.llm.engine.attention import PrefixLayer, attention_configs, two_parts
from sptar.llm.engine.prompt_rows import move_to_front, within_context
from sptar.llm.loading import LanguageModel
from sptar.llm.verdict import forward

__all__ = ["PooledRows", "SharedPrefix"]

_SLOTS_AT_A_TIME = 32
"""A pool grows by so many slots: one copy in 32 steps. CUDA's kernels want a multiple of 16 bytes.
"""


@dataclass(frozen=True)
class SharedPrefix:
    """A prefix's keys and values, for models that can attend in two parts.

    Attributes:
        layers: keys and values of each layer.
        configs: where the attention function of the model is named.
        length: tokens of the prefix.
    """

    layers: tuple[PrefixLayer, ...]
    configs: tuple[Any, ...]
    length: int

    @classmethod
    def of(cls, language_model: LanguageModel, cache: Cache) -> SharedPrefix:
        """From a cache that holds the prefix and nothing else."""
        heads = int(language_model.model.config.get_text_config().num_attention_heads)
        layers = tuple(
            PrefixLayer(
                layer.keys.repeat_interleave(heads // layer.keys.shape[1], dim=1),
                layer.values.repeat_interleave(heads // layer.values.shape[1], dim=1),
            )
            for layer in cache.layers
        )
        configs = tuple(attention_configs(language_model.model))
        return cls(layers, configs, int(cache.get_seq_length()))


class _Slots:
    """The slots [rows, new] that a forward pass writes its tokens to, told to all layers."""

    now: torch.Tensor


class _PooledLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [rows or more, heads, slots, width]; slot i is for a row's token i.

    The first tokens of new rows are kept as they come. Room for more is made when more come.
    """

    is_initialized: bool

    def __init__(self, slots: _Slots) -> None:
        super().__init__()
        self._slots = slots

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values [rows, heads, new, width]; returns all slots, empty ones too."""
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values = key_states, value_states
            self.is_initialized = True
            return key_states, value_states
        slots = self._slots.now
        rows = torch.arange(len(slots), device=slots.device)[:, None]
        self.keys[rows, :, slots] = key_states.transpose(1, 2)
        self.values[rows, :, slots] = value_states.transpose(1, 2)
        # A slice of the slots would be copied by matrix products that want whole tensors.
        return self.keys[: len(slots)], self.values[: len(slots)]

    def make_room(self, rows: int, slots: int) -> None:
        """See to it that there are so many rows and slots."""
        held_rows, _, held_slots, _ = self.keys.shape
        if rows > held_rows or slots > held_slots:
            rows = max(rows, 2 * held_rows) if rows > held_rows else held_rows
            if slots > held_slots or held_slots % _SLOTS_AT_A_TIME:
                slots = (max(slots, held_slots) // _SLOTS_AT_A_TIME + 1) * _SLOTS_AT_A_TIME
            else:
                slots = held_slots
            self.keys = _enlarged(self.keys, rows, slots)
            self.values = _enlarged(self.values, rows, slots)

    def append(self, other: _PooledLayer, held: int, new: int) -> None:
        """Put the ``new`` rows of another layer behind the ``held`` rows of this one."""
        width = other.keys.shape[2]
        self.make_room(held + new, width)
        self.keys[held : held + new, :, :width] = other.keys[:new]
        self.values[held : held + new, :, :width] = other.values[:new]

    def select(self, rows: torch.Tensor) -> None:
        """Move these rows [kept] to the front."""
        move_to_front(self.keys, rows)
        move_to_front(self.values, rows)


def _enlarged(held: torch.Tensor, rows: int, slots: int) -> torch.Tensor:
    # A slot without a token is hidden by its weight 0, which a stray infinity would turn into NaN.
    larger = held.new_zeros((rows, held.shape[1], slots, held.shape[3]))
    larger[: held.shape[0], :, : held.shape[2]] = held
    return larger


class PooledRows:
    """Prompts behind one shared prefix; others may join them at any time.

    A row's tokens stand in its first slots, without gaps, so a row needs no mask but its length.
    """

    def __init__(self, language_model: LanguageModel, prefix: SharedPrefix, rows: int) -> None:
        self._language_model = language_model
        self._prefix = prefix
        self._lengths = torch.zeros(rows, dtype=torch.long, device=language_model.device)
        self._slots = _Slots()
        self._cache = Cache(layers=[_PooledLayer(self._slots) for _ in prefix.layers])

    def extend(self, ids: torch.Tensor, lengths: torch.Tensor, keep: int) -> torch.Tensor:
        layers = self._cache.layers
        slots = self._lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)
        self._slots.now = slots
        mask = None
        # New rows are padded on the right: their tokens see no padding, and need no mask.
        if layers[0].is_initialized:
            used = int(slots.max()) + 1
            for layer in layers:
                layer.make_room(len(slots), used)
            mask = _mask(slots, layers[0].keys)
        positions = within_context(self._language_model, self._prefix.length + slots)
        with two_parts(self._prefix.configs, self._prefix.layers, mask):
            logits, _ = forward(
                self._language_model.model,
                self._language_model.verdict,
                {"input_ids": ids, "position_ids": positions},
                self._cache,
                keep,
            )
        # What padding wrote lies behind the row's end, where the next tokens go.
        self._lengths = self._lengths + lengths
        return logits

    def select(self, rows: torch.Tensor) -> None:
        self._lengths = self._lengths[rows]
        for layer in self._cache.layers:
            if layer.is_initialized:
                layer.select(rows)

    def join(self, other: PooledRows) -> None:
        held, new = len(self._lengths), len(other._lengths)
        for layer, more in zip(self._cache.layers, other._cache.layers, strict=True):
            layer.append(more, held, new)
        self._lengths = torch.cat([self._lengths, other._lengths])


def _mask(slots: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """What is added to the scores [rows, 1, new, all slots]: a token sees its slot and before."""
    hidden = torch.arange(keys.shape[2], device=slots.device) > slots[:, None, :, None]
    mask = torch.zeros(hidden.shape, dtype=keys.dtype, device=slots.device)
    return mask.masked_fill_(hidden, float("-inf"))
