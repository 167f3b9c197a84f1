"""A causal language model is tried before it is trusted.

Whatever the engine does for speed (a cache, several rows in a batch, a shared prefix, embeddings in
place of ids) is done here once on a few tokens, and compared with one plain pass over each text. A
way that gives something else is not taken; where no way is left, a sentence says so. No list of
model names can be complete, and none could know what the next release renames.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from sptar.errors import ModelError
from sptar.llm.verdict import Verdict, forward
from sptar.tensors.memory import is_out_of_memory

__all__ = ["TRIAL_TOKENS", "differs", "try_model"]

_ALLOWED = {torch.float32: 1e-3, torch.float64: 1e-3}
_ALLOWED_HALF = 0.05
"""How far logits may be from those of the plain pass, as a share of their spread over the
vocabulary. float32 rounds at 6e-8, and a deep model makes some 1e-5 of it; formats of two bytes
round at 4e-3 (bfloat16)."""

_USUAL_CACHES = ("cache", "past_key_values", "cache_params")
"""Names that releases of transformers gave to the argument, tried after the annotated ones."""

_PREFIX, _MORE, _FEWER = 4, 6, 3
_LONG = 130
"""More than the chunks of 64 and of 128 tokens in which some attentions work."""

TRIAL_TOKENS = 2 * _PREFIX + 2 * _MORE + _FEWER
"""How many token ids a trial wants."""


def differs(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether logits [tokens, vocabulary] are others, beyond the rounding of a number format."""
    found, expected = (
        logits.float() - logits.float().mean(dim=-1, keepdim=True) for logits in (found, expected)
    )
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-12)
    # Where experts are chosen, two-byte rounding can turn a single choice around.
    most = error.max() if dtype in _ALLOWED else error.median()
    return not bool(most <= _ALLOWED.get(dtype, _ALLOWED_HALF))


@dataclass(frozen=True)
class _Text:
    """A prompt, and what one plain pass over it gives [tokens, vocabulary]."""

    ids: torch.Tensor
    logits: torch.Tensor


@torch.inference_mode()
def try_model(model: Any, name: str, ids: Sequence[int], context: int | None = None) -> Verdict:
    """Try a model in evaluation mode.

    Args:
        model: any causal language model of transformers.
        name: for messages.
        ids: at least :data:`TRIAL_TOKENS` ids of ordinary text.
        context: how many tokens it says that it can see, where it says so.

    Raises:
        ModelError: its forward pass fails on plain text, its tokens see those behind them, or what
            it says of a text depends on the texts beside it.
    """
    with warnings.catch_warnings():
        # What is tried in vain may be out of date; the engine uses what held.
        warnings.simplefilter("ignore")
        return _Trial(model, name, ids, context).verdict()


class _Trial:
    def __init__(self, model: Any, name: str, ids: Sequence[int], context: int | None) -> None:
        self._model = model
        self._name = name
        self._device = model.device
        self._parameters = inspect.signature(model.forward).parameters
        given = torch.tensor(list(ids[:TRIAL_TOKENS]), device=self._device)
        prefix, first, second, third, virtual = torch.split_with_sizes(
            given, [_PREFIX, _MORE, _MORE, _FEWER, _PREFIX]
        )
        self._prefix = prefix
        self._endings = {"first": first, "second": second, "short": third}
        # Not all of a context: what is stated can be a little more than what can be read.
        long = _LONG if context is None else max(TRIAL_TOKENS, min(_LONG, 3 * context // 4))
        self._endings["long"] = given.repeat(_LONG // len(given) + 1)[: long - _PREFIX]
        self._dtype = model.get_input_embeddings().weight.dtype
        # Between two tokens each: like learned vectors, and the embeddings of no token.
        self._virtual = (self._embed(virtual) + self._embed(virtual.flip(0))) / 2
        self._texts: dict[tuple[str, bool], _Text] = {}

    def verdict(self) -> Verdict:
        self._check_runs()
        self._check_causal()
        self._check_length()
        self._check_batch()
        takes_embeddings = self._works(self._embeddings_are_ids)
        softs = (False, True) if takes_embeddings else (False,)
        takes_positions = "position_ids" in self._parameters and self._works(self._positions_agree)
        hides_padding = self._works(lambda: all(self._padding_is_hidden(soft) for soft in softs))
        takes_keep = "logits_to_keep" in self._parameters and self._works(self._keeps_columns)
        best = plain = Verdict(
            takes_embeddings=takes_embeddings,
            takes_positions=takes_positions,
            hides_padding=hides_padding,
            takes_logits_to_keep=takes_keep,
            cache_argument=None,
            continues=False,
            shares=False,
            mixes_lengths=False,
        )
        for argument in self._cache_arguments():
            tried = self._with_cache(replace(plain, cache_argument=argument), softs)
            if (tried.shares, tried.continues) > (best.shares, best.continues):
                best = tried
            if tried.shares and tried.continues:
                break
        return best

    def _with_cache(self, verdict: Verdict, softs: Sequence[bool]) -> Verdict:
        """The verdict completed by what its cache argument is good for."""

        def shares(mixed: bool) -> bool:
            return self._works(lambda: all(self._shares(verdict, soft, mixed) for soft in softs))

        continues = self._heeds_window() and self._works(
            lambda: all(self._continues(verdict, soft) for soft in softs)
        )
        # Only positions can count past the padding of a shorter row.
        mixes_lengths = verdict.takes_positions and shares(True)
        return replace(
            verdict,
            continues=continues,
            shares=mixes_lengths or shares(False),
            mixes_lengths=mixes_lengths,
        )

    def _cache_arguments(self) -> list[str]:
        """Under what names the forward pass may take a cache, the likeliest first."""
        annotated = [
            name for name, parameter in self._parameters.items() if "Cache" in str(parameter)
        ]
        named = [name for name in _USUAL_CACHES if name in self._parameters]
        passes_on = any(
            parameter.kind is inspect.Parameter.VAR_KEYWORD
            for parameter in self._parameters.values()
        )
        hidden = _USUAL_CACHES if passes_on else ()
        return list(dict.fromkeys([*annotated, *named, *hidden]))

    def _works(self, attempt: Callable[[], bool]) -> bool:
        """What an attempt says; one that a foreign architecture breaks off has failed."""
        try:
            return attempt()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self._model.get_input_embeddings()(ids)
        return vectors

    def _values(self, ids: torch.Tensor, soft: bool) -> dict[str, Any]:
        """What the forward pass reads of ids [rows, tokens], behind virtual tokens or not."""
        if not soft:
            return {"input_ids": ids}
        virtual = self._virtual.expand(ids.shape[0], -1, -1)
        return {"inputs_embeds": torch.cat([virtual, self._embed(ids)], dim=1)}

    def _plain(self, values: dict[str, Any]) -> torch.Tensor:
        """Logits [rows, tokens, vocabulary] of a plain pass."""
        logits: torch.Tensor = self._model(**values, use_cache=False).logits
        return logits

    def _text(self, ending: str, soft: bool = False) -> _Text:
        """The prefix with an ending, run plainly once."""
        if (ending, soft) not in self._texts:
            ids = torch.cat([self._prefix, self._endings[ending]])
            logits = self._plain(self._values(ids[None], soft))[0]
            self._texts[ending, soft] = _Text(ids, logits)
        return self._texts[ending, soft]

    def _same(self, found: torch.Tensor, expected: torch.Tensor) -> bool:
        return found.shape == expected.shape and not differs(found, expected, self._dtype)

    def _check_runs(self) -> None:
        try:
            text = self._text("first")
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise ModelError(
                f"{self._name} cannot be run as a language model: "
                f"{reason.rstrip('.') or type(error).__name__}.",
                hint="Give a decoder-only model of text, for example a LLaMA, Qwen or GPT-2.",
            ) from error
        if text.logits.ndim != 2 or len(text.logits) != len(text.ids):
            raise ModelError(
                f"{self._name} cannot be run as a language model: its logits have the shape "
                f"{tuple(text.logits.shape)} for {len(text.ids)} tokens.",
                hint="Give a decoder-only model of text, for example a LLaMA, Qwen or GPT-2.",
            )

    def _check_causal(self) -> None:
        text = self._text("first")
        other = torch.cat([text.ids[:-1], self._endings["second"][:1]])
        found = self._plain({"input_ids": other[None]})[0]
        if not self._same(found[:-1], text.logits[:-1]):
            raise ModelError(
                f"{self._name} is not a causal language model: its tokens see those behind them.",
                hint="A BERT-shaped decoder needs `is_decoder: true` in its config.json.",
            )

    def _check_length(self) -> None:
        """What is said of a token must not depend on how many follow."""
        text = self._text("long")
        shorter = 3 * len(text.ids) // 4
        found = self._plain({"input_ids": text.ids[None, :shorter]})[0]
        if not self._same(found, text.logits[:shorter]):
            raise ModelError(
                f"What {self._name} says of a token depends on how many tokens follow.",
                hint="Choose another model.",
            )

    def _check_batch(self) -> None:
        texts = [self._text("first"), self._text("second")]
        logits = self._plain({"input_ids": torch.stack([text.ids for text in texts])})
        if not all(self._same(row, text.logits) for row, text in zip(logits, texts, strict=True)):
            raise ModelError(
                f"What {self._name} says of a text depends on the other texts of its batch.",
                hint="Choose another model.",
            )

    def _embeddings_are_ids(self) -> bool:
        text = self._text("first")
        found = self._plain({"inputs_embeds": self._embed(text.ids)[None]})[0]
        behind_virtual = self._text("first", soft=True).logits
        return self._same(found, text.logits) and bool(torch.isfinite(behind_virtual).all())

    def _positions_agree(self) -> bool:
        text = self._text("first")
        positions = torch.arange(len(text.ids), device=self._device)[None]
        found = self._plain({"input_ids": text.ids[None], "position_ids": positions})[0]
        return self._same(found, text.logits)

    def _padding_is_hidden(self, soft: bool) -> bool:
        texts = [self._text("first", soft), self._text("short", soft)]
        ids, _ = _padded([text.ids for text in texts])
        real = [len(text.logits) for text in texts]
        mask = torch.zeros((2, real[0]), dtype=torch.long, device=self._device)
        for row, length in zip(mask, real, strict=True):
            row[:length] = 1
        logits = self._plain({**self._values(ids, soft), "attention_mask": mask})
        return all(
            self._same(row[:length], text.logits)
            for row, length, text in zip(logits, real, texts, strict=True)
        )

    def _keeps_columns(self) -> bool:
        text = self._text("first")
        values = {"input_ids": text.ids[None], "use_cache": False}
        last = self._model(**values, logits_to_keep=1).logits[0]
        columns = torch.tensor([1, _PREFIX + 1], device=self._device)
        chosen = self._model(**values, logits_to_keep=columns).logits[0]
        return self._same(last, text.logits[-1:]) and self._same(chosen, text.logits[columns])

    def _continues(self, verdict: Verdict, soft: bool) -> bool:
        """Two rows in the model's own cache, and then one of them without the other."""
        texts = [self._text("first", soft), self._text("second", soft)]
        ids = torch.stack([text.ids for text in texts])
        before = self._virtual.shape[0] if soft else 0
        done = before + _PREFIX + 2
        values = {
            **self._values(ids[:, : _PREFIX + 2], soft),
            **self._positions(verdict, 2, 0, done),
        }
        logits, cache = forward(self._model, verdict, values, None, keep=1)
        good = cache is not None and self._rows_agree(logits, texts, done)
        for column in range(_PREFIX + 2, ids.shape[1]):
            if not good:
                return False
            if column == _PREFIX + 4:
                cache.reorder_cache(torch.tensor([1], device=self._device))
                ids, texts = ids[1:], texts[1:]
            values = {
                "input_ids": ids[:, column : column + 1],
                **self._positions(verdict, len(ids), done, done + 1),
            }
            logits, cache = forward(self._model, verdict, values, cache, keep=1)
            done += 1
            good = cache is not None and self._rows_agree(logits, texts, done)
        return good

    def _heeds_window(self) -> bool:
        """Whether a plain pass looks no further back than the caches of sliding windows keep.

        Texts longer than a window of thousands would take long to try; a smaller window for a
        moment shows it too.
        """
        config = self._model.config.get_text_config(decoder=True)
        try:
            slides = any(
                isinstance(layer, DynamicSlidingWindowLayer)
                for layer in DynamicCache(config=config).layers
            )
            window = config.sliding_window
            if not slides or not isinstance(window, int):
                return True
            config.sliding_window = _FEWER
            try:
                found = self._plain({"input_ids": self._text("first").ids[None]})[0]
            finally:
                config.sliding_window = window
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return True
        return not self._same(found, self._text("first").logits)

    def _positions(self, verdict: Verdict, rows: int, first: int, end: int) -> dict[str, Any]:
        if not verdict.takes_positions:
            return {}
        positions = torch.arange(first, end, device=self._device)
        return {"position_ids": positions.expand(rows, -1)}

    def _rows_agree(self, logits: torch.Tensor, texts: Sequence[_Text], end: int) -> bool:
        return all(
            self._same(row, text.logits[end - 1 : end])
            for row, text in zip(logits, texts, strict=True)
        )

    def _shares(self, verdict: Verdict, soft: bool, mixed: bool) -> bool:
        """A prefix that is run once and copied for two rows, of different lengths or not."""
        before = (self._virtual.shape[0] if soft else 0) + _PREFIX
        cache = DynamicCache()
        values = {
            **self._values(self._prefix[None], soft),
            **self._positions(verdict, 1, 0, before),
        }
        forward(self._model, verdict, values, cache, keep=1)
        if not cache.layers or any(layer.get_seq_length() != before for layer in cache.layers):
            return False
        cache.batch_repeat_interleave(2)
        texts = [self._text("first", soft), self._text("short" if mixed else "second", soft)]
        # All but the last token of each, then these.
        ids, lengths = _padded([text.ids[_PREFIX:-1] for text in texts])
        real = torch.arange(ids.shape[1], device=self._device)[None] < lengths[:, None]
        mask = torch.cat([real.new_ones((2, before)), real], dim=1).long()
        values = {"input_ids": ids, "attention_mask": mask}
        if verdict.takes_positions:
            positions = before + torch.arange(ids.shape[1], device=self._device)
            values["position_ids"] = positions.expand(2, -1)
        logits, _ = forward(self._model, verdict, values, cache, keep=ids.shape[1])
        for row, text, length in zip(logits, texts, lengths.tolist(), strict=True):
            if not self._same(row[:length], text.logits[before : before + length]):
                return False
        last = torch.stack([text.ids[-1:] for text in texts])
        values = {"input_ids": last, "attention_mask": torch.cat([mask, mask[:, :1]], dim=1)}
        if verdict.takes_positions:
            values["position_ids"] = before + lengths[:, None]
        logits, _ = forward(self._model, verdict, values, cache, keep=1)
        return all(
            self._same(row, text.logits[-1:]) for row, text in zip(logits, texts, strict=True)
        )


def _padded(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids side by side, id 0 on the right of the shorter ones, and their lengths."""
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=0)
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    return ids, lengths
