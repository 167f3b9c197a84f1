"""Train starter-lm: a causal language model that writes a query in the style of its examples.

    python tools/starter/language_model.py tools/starter/language_model_cpu.yaml \
        --pairs WORK/pairs/pairs.jsonl --start FOLDER --out WORK/language_model

Without a ``shape`` in the settings, the model in ``--start`` is trained further; with one, a
LLaMA-shaped model begins from random numbers, on the tokenizer in ``--start``. The loss counts the
queries' tokens, and with ``plain_share`` also whole documents as plain language. A training that
was stopped goes on at its last checkpoint and ends with the same weights, bit by bit.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from batches import Batch, Steps, padded
from checkpoint import Checkpoint, TrainingLog
from command import run_command
from pairs import STYLES
from sequences import IGNORED, PairStore, Template, load_pairs
from settings import read_settings
from torch.nn import functional
from training import Loop, StepResult
from wordings import alike

from sptar.config import LanguageModelConfig
from sptar.errors import ConfigError
from sptar.identity import HashCache
from sptar.llm.loading import LanguageModel, load_language_model
from sptar.starter.saving import whole_folder

_ONLY_SPEED = ("validate_every", "validation_sequences", "checkpoint_every", "workers")
"""Settings that do not change the weights."""
_MOST_EXAMPLES = 2


@dataclass(frozen=True)
class Settings:
    """One training.

    Attributes:
        styles: the shares of the sequences' styles.
        most_pairs: a sequence has one to so many pairs.
        reworded_share: of the sequences, in how many all queries share a wording as well.
    """

    steps: int
    styles: dict[str, float]
    step_tokens: int = 6144
    sequence_tokens: int = 512
    document_tokens: int = 160
    query_tokens: int = 40
    most_pairs: int = 3
    reworded_share: float = 0.0
    learning_rate: float = 3e-4
    warm_up: int = 50
    weight_decay: float = 0.01
    plain_share: float = 0.0
    validate_every: int = 200
    validation_sequences: int = 16
    checkpoint_every: int = 50
    seed: int = 0
    dtype: str = "bfloat16"
    device: str = "cpu"
    attention: str = "sdpa"
    workers: int = 0
    shape: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [style for style in self.styles if style not in STYLES]
        if unknown:
            raise ConfigError(f"There is no style {unknown[0]}; there are {', '.join(STYLES)}.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"`dtype: {self.dtype}` is neither float32 nor bfloat16.")
        if self.most_pairs < 1 or not 0 <= self.reworded_share <= 1:
            raise ConfigError(
                f"`most_pairs: {self.most_pairs}` must be at least 1 and `reworded_share: "
                f"{self.reworded_share}` between 0 and 1."
            )
        if self.validation_sequences < 1:
            raise ConfigError(
                f"`validation_sequences: {self.validation_sequences}` must be at least 1."
            )


def llama_config(shape: dict[str, int], tokenizer: Any) -> Any:
    """The configuration of a LLaMA-shaped model on this tokenizer."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )


def new_model(shape: dict[str, int], tokenizer: Path, folder: Path, seed: int) -> None:
    """A LLaMA-shaped model of random numbers, written to ``folder`` with its tokenizer."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    words = AutoTokenizer.from_pretrained(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(llama_config(shape, words))
    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        words.save_pretrained(unfinished)


def losses(model: Any, ids: torch.Tensor, targets: torch.Tensor, dtype: str) -> torch.Tensor:
    """Cross-entropy of each wanted token, in float32; word scores are made for those alone.

    Args:
        model: a causal language model of transformers.
        ids: ``[rows, tokens]``, padded on the right.
        targets: ``[rows, tokens]``, -100 where no token is asked for.
        dtype: ``bfloat16`` for products in that format.
    """
    wanted = targets[:, 1:] != IGNORED
    head = model.cls if hasattr(model, "cls") else model.get_output_embeddings()
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        hidden = model.base_model(input_ids=ids).last_hidden_state
        scores = head(hidden[:, :-1][wanted])
    return functional.cross_entropy(scores.float(), targets[:, 1:][wanted], reduction="none")


def backward(model: Any, batches: Sequence[Batch], settings: Settings) -> StepResult:
    """Add the gradients of one step; every wanted token of the step counts the same."""
    wanted = sum(int((batch.targets[:, 1:] != IGNORED).sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        loss = losses(model, *batch.to(settings.device), settings.dtype).sum() / wanted
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return StepResult(total, sum(batch.tokens for batch in batches))


@dataclass(frozen=True)
class QueryLoss:
    """One query behind 0, 1 and 2 examples of its style.

    Attributes:
        document: its document.
        nats: the summed loss of its tokens behind so many examples.
        tokens: how many these are, the query's end included.
    """

    document: str
    nats: tuple[float, ...]
    tokens: int


@torch.no_grad()
def losses_by_style(
    model: Any,
    store: PairStore,
    template: Template,
    settings: Settings,
    *,
    reworded_share: float = 0.0,
) -> dict[str, list[QueryLoss]]:
    """Style → the losses of ``settings.validation_sequences`` queries, as many times as drawn.

    Only the examples change: each query's own document is cut alike in all three. Styles with less
    than three pairs are left out. With a ``reworded_share`` of 1 each query shares one of its
    style's wordings with its examples.
    """
    model.eval()
    cut = template.share(settings.sequence_tokens, _MOST_EXAMPLES + 1)
    found: dict[str, list[QueryLoss]] = {}
    for style in store.styles:
        if store.count(style) <= _MOST_EXAMPLES:
            continue
        drawn = []
        for number in range(settings.validation_sequences):
            order = random.Random(f"validation/{style}/{number}")
            pairs = store.draw(order, _MOST_EXAMPLES + 1, style)
            drawn.append(alike(pairs, reworded_share, order))
        lengths: list[int] = []
        columns: list[list[float]] = []
        for examples in range(_MOST_EXAMPLES + 1):
            sequences = [template.question(pairs[-1 - examples :], cut) for pairs in drawn]
            # The same whatever stands before: the query and its end.
            lengths = [end - begin for (begin, end) in (s.queries[0] for s in sequences)]
            sums: list[float] = []
            for first in range(0, len(sequences), 8):
                batch = padded(sequences[first : first + 8]).to(settings.device)
                each = iter(losses(model, *batch, settings.dtype).tolist())
                sums += [sum(islice(each, length)) for length in lengths[first : first + 8]]
            columns.append(sums)
        found[style] = [
            QueryLoss(pairs[-1].document, nats, tokens)
            for pairs, tokens, nats in zip(drawn, lengths, zip(*columns, strict=True), strict=True)
        ]
    return found


def perplexities(found: Mapping[str, Sequence[QueryLoss]]) -> dict[str, list[float]]:
    """Style → perplexity of all its queries' tokens behind 0, 1 and 2 examples."""
    return {
        style: [
            round(math.exp(sum(nats) / sum(each.tokens for each in queries)), 2)
            for nats in zip(*(each.nats for each in queries), strict=True)
        ]
        for style, queries in found.items()
    }


def perplexity_by_style(
    model: Any,
    store: PairStore,
    template: Template,
    settings: Settings,
    *,
    reworded_share: float = 0.0,
) -> dict[str, list[float]]:
    """The :func:`perplexities` of :func:`losses_by_style`."""
    return perplexities(
        losses_by_style(model, store, template, settings, reworded_share=reworded_share)
    )


def learning_rate(settings: Settings, step: int) -> float:
    """Warm-up, then a cosine down to a twentieth."""
    if step < settings.warm_up:
        return settings.learning_rate * (step + 1) / settings.warm_up
    done = (step - settings.warm_up) / max(1, settings.steps - settings.warm_up)
    return settings.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def trainable(start: Path, settings: Settings) -> LanguageModel:
    """The model in float32, every weight learning, without dropout."""
    loaded = load_language_model(
        LanguageModelConfig(name=str(start), device=settings.device, dtype="float32")
    )
    loaded.model.set_attn_implementation(settings.attention)
    loaded.model.requires_grad_(True)
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return loaded


def train(settings: Settings, start: Path, pairs: Path, out: Path) -> Path:
    """Train to the end, from the last checkpoint on; returns the folder of the model.

    Raises:
        ConfigError: the settings leave no room for a document, or the pairs lack their styles.
        WorkspaceError: ``out`` holds the checkpoint of another training.
    """
    loaded = trainable(start, settings)
    model = loaded.model
    template = Template(loaded, settings.document_tokens, settings.query_tokens)
    if template.share(settings.sequence_tokens, 1) < settings.document_tokens:
        raise ConfigError(
            f"`sequence_tokens: {settings.sequence_tokens}` has no room for a document of "
            f"`document_tokens: {settings.document_tokens}` with its query."
        )
    if loaded.context_tokens is not None and settings.sequence_tokens > loaded.context_tokens:
        raise ConfigError(
            f"`sequence_tokens: {settings.sequence_tokens}` is more than the "
            f"{loaded.context_tokens} tokens that the model can see."
        )
    split = load_pairs(pairs)
    store = PairStore(split.trained, settings.styles)
    aside = PairStore(split.held_out, settings.styles)
    steps = Steps(store, template, settings)
    files = HashCache()
    causes = {name: value for name, value in asdict(settings).items() if name not in _ONLY_SPEED}
    checkpoint = Checkpoint(
        out, {**causes, "pairs": files.file(pairs), "start": files.folder(start)}
    )
    Loop(
        model=model,
        optimizer=torch.optim.AdamW(
            model.parameters(), weight_decay=settings.weight_decay, betas=(0.9, 0.98)
        ),
        steps=settings.steps,
        draw=steps.from_step,
        backward=lambda batches: backward(model, batches, settings),
        rate=lambda step: learning_rate(settings, step),
        measure=lambda: {
            name: perplexity_by_style(model, aside, template, settings, reworded_share=share)
            for name, share in (("perplexity", 0.0), ("reworded_perplexity", 1.0))
        },
        measure_every=settings.validate_every,
        checkpoint_every=settings.checkpoint_every,
    ).run(checkpoint, lambda step: TrainingLog(out / "log.jsonl", step))
    with whole_folder(out / "model") as unfinished:
        model.to(torch.bfloat16).save_pretrained(unfinished)
        loaded.tokenizer.save_pretrained(unfinished)
    return out / "model"


def main() -> None:
    """Train a language model by a file of settings."""
    parser = argparse.ArgumentParser(description="Train starter-lm.")
    parser.add_argument("settings", type=Path)
    parser.add_argument("--pairs", type=Path, required=True, help="pairs.jsonl, packed or not")
    parser.add_argument(
        "--start", type=Path, required=True, help="a model's folder; with `shape` a tokenizer's"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="in place of the settings' number")
    options = parser.parse_args()
    settings = read_settings(options.settings, Settings)
    if options.steps:
        settings = replace(settings, steps=options.steps)
    start = options.start
    if settings.shape:
        start = options.out / "start"
        if not start.exists():
            new_model(settings.shape, options.start, start, settings.seed)
    print(train(settings, start, options.pairs, options.out))


if __name__ == "__main__":
    run_command(main)
