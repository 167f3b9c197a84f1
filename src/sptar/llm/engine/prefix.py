"""The part of a prompt that all documents share: run once, its keys and values reused."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from sptar.errors import ModelError
from sptar.llm.engine.pooled_rows import PooledRows, SharedPrefix
from sptar.llm.engine.prompt_rows import CopyingRows, PromptRows, SeparateRows, first_values
from sptar.llm.loading import LanguageModel
from sptar.llm.soft_prompt import SoftPrompt
from sptar.llm.trial import differs
from sptar.llm.verdict import forward
from sptar.tensors.memory import is_out_of_memory

__all__ = ["Prefix"]

_two_part_models: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()
"""Which models have passed the trial of attention in two parts."""


class Prefix:
    """Soft prompt (may be none) and prefix tokens, run through the model once.

    ``length`` counts both. The keys and values are never changed afterwards: every batch gets
    them as the beginning of a cache of its own.

    Not every model allows that. ``can_share`` says whether this one does for prompts of a given
    length; where it does not (a sliding window shorter than the prompt, recurrent layers, no
    cache at all), ``open`` gives rows that run the whole prompt themselves: slower, equally right.
    Where it does, the model is tried out once: if it can attend to the prefix and to a row's own
    tokens apart, the prefix is not copied for each row.
    """

    def __init__(
        self, language_model: LanguageModel, soft_prompt: SoftPrompt | None, ids: Sequence[int]
    ) -> None:
        self._language_model = language_model
        virtual_tokens = 0 if soft_prompt is None else soft_prompt.virtual_tokens
        self._soft = None if soft_prompt is None else soft_prompt.embeddings(language_model)
        self._ids = torch.tensor([list(ids)], dtype=torch.long, device=language_model.device)
        self.length = virtual_tokens + len(ids)
        context = language_model.context_tokens
        if context is not None and self.length >= context:
            raise ModelError(
                f"Soft prompt and examples take {self.length} tokens, the model's context has "
                f"{context}.",
                hint="Lower `prompt.examples` or `prompt.max_document_tokens`.",
            )
        self._cache, self._window = self._run()
        self._shared = self._attended_apart()

    def needs_equal_lengths(self, shortest: int) -> bool:
        """Whether rows of different lengths (``shortest`` the least) must not share a batch."""
        # GPT-Neo's local attention counts cache slots, padding included.
        layers = getattr(self._language_model.model.config, "attention_layers", None) or ()
        # Behind an empty prefix, padding in the first column would have nothing to look at.
        empty_row = self.length == 0 and shortest <= 1
        return "local" in layers or not self._language_model.verdict.mixes_lengths or empty_row

    def can_share(self, new_tokens: int) -> bool:
        """Whether rows with up to ``new_tokens`` tokens behind the prefix can reuse its cache."""
        if self._cache is None:
            return False
        return self._window is None or self.length + new_tokens < self._window

    @property
    def rows_can_join(self) -> bool:
        """Whether rows that share the cache can take over rows that were opened later."""
        return self._shared is not None

    def open(self, rows: int, *, shared: bool) -> PromptRows:
        """Fresh rows that hold nothing but the prefix; ``shared`` as ``can_share`` answered."""
        if shared and self._shared is not None:
            return PooledRows(self._language_model, self._shared, rows)
        if shared and self._cache is not None:
            return CopyingRows(self._language_model, self._cache, self.length, rows)
        return SeparateRows(self._language_model, self._soft, self._ids, rows)

    @torch.inference_mode()
    def _run(self) -> tuple[Cache | None, int | None]:
        """The filled cache, and the smallest attention window in it; no cache if unsuitable."""
        model, verdict = self._language_model.model, self._language_model.verdict
        if not verdict.shares:
            return None, None
        kinds = DynamicCache(config=model.config).layers
        if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in kinds):
            return None, None
        windows = [
            int(layer.sliding_window)
            for layer in kinds
            if isinstance(layer, DynamicSlidingWindowLayer)
        ]
        window = min(windows, default=None)
        if window is not None and self.length >= window:
            return None, None
        # Inside its window a sliding layer is an ordinary one, so all layers are kept as such.
        cache = DynamicCache()
        # A prefix without any token leaves the cache empty; one token then tells whether the
        # model fills the cache that it is given at all.
        probe = self._ids.new_zeros((1, 1)) if self.length == 0 else self._ids
        values = first_values(self._language_model, self._soft, probe)
        length = max(self.length, 1)
        if verdict.takes_positions:
            values["position_ids"] = torch.arange(length, device=self._ids.device)[None]
        forward(model, verdict, values, cache, keep=1)
        filled = all(
            type(layer) is DynamicLayer and layer.get_seq_length() == length
            for layer in cache.layers
        )
        if not filled or len(cache.layers) == 0:
            return None, None
        if self.length == 0:
            return Cache(layers=[DynamicLayer() for _ in cache.layers]), window
        return cache, window

    def _attended_apart(self) -> SharedPrefix | None:
        """The prefix for attention in two parts, if the model passes the trial of it."""
        usable = self.length > 0 and self.can_share(len(_TRIAL[0]) + 1)
        if self._cache is None or not usable or self.needs_equal_lengths(2):
            return None
        model = self._language_model.model
        if model not in _two_part_models:
            _two_part_models[model] = self._passes_trial(self._cache)
        return (
            SharedPrefix.of(self._language_model, self._cache) if _two_part_models[model] else None
        )

    @torch.inference_mode()
    def _passes_trial(self, cache: Cache) -> bool:
        """Whether attention in two parts gives the logits that the model's own attention gives.

        Some architectures do not use the attention function that their config names, or want
        more of it than a mask and a scale. No list of names can be complete; a comparison is.
        """
        language_model = self._language_model
        expected = _trial_logits(language_model, CopyingRows(language_model, cache, self.length, 2))
        try:
            shared = SharedPrefix.of(language_model, cache)
            found = _trial_logits(language_model, PooledRows(language_model, shared, 2))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Whatever a foreign architecture raises here: it keeps its own attention.
            return False
        return not differs(found[:, 0], expected[:, 0], language_model.dtype)


_TRIAL = [[1, 2, 3, 4], [5, 6, 0, 0]]
"""Token ids of two rows of different lengths (the last two are padding)."""


def _trial_logits(language_model: LanguageModel, rows: PromptRows) -> torch.Tensor:
    """Logits after two rows have got tokens, and one more each."""
    device = language_model.device
    rows.extend(torch.tensor(_TRIAL, device=device), torch.tensor([4, 2], device=device), keep=1)
    last = torch.tensor([[7], [8]], device=device)
    return rows.extend(last, torch.ones(2, dtype=torch.long, device=device), keep=1)
