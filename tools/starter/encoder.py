"""Train starter-encoder: a small encoder that attends both ways and guesses masked words.

    python tools/starter/encoder.py --start WORK/language_model/model --text TEXT --out WORK/encoder

By default it begins as the first layers of a BERT-shaped language model; with a ``shape`` in
``--settings`` from random numbers, on the tokenizer in ``--start``. It is shown passages alone, no
query and no pair: it stands for an encoder that knows language and was not trained to search. A
training that was stopped goes on at its last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from checkpoint import Checkpoint, TrainingLog
from command import run_command
from masked_windows import MaskedBatch, Windows
from sequences import IGNORED
from settings import read_settings
from text_rows import KeptAside, one_line, passages
from torch.nn import functional
from training import Loop, StepResult

from sptar.errors import ConfigError, ModelError
from sptar.identity import HashCache
from sptar.starter.saving import whole_folder

_ONLY_SPEED = ("validate_every", "validation_batches", "checkpoint_every")
"""Settings that do not change the weights."""


@dataclass(frozen=True)
class Settings:
    """One training of the encoder: ``layers`` of the start, or a ``shape`` of its own."""

    layers: int = 2
    shape: dict[str, int] = field(default_factory=dict)
    steps: int = 600
    rows: int = 48
    tokens: int = 128
    masked_share: float = 0.15
    learning_rate: float = 5e-4
    warm_up: int = 50
    weight_decay: float = 0.01
    validate_every: int = 50
    validation_batches: int = 4
    checkpoint_every: int = 50
    seed: int = 0
    dtype: str = "bfloat16"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"`dtype: {self.dtype}` is neither float32 nor bfloat16.")


def bert_config(shape: dict[str, int], tokenizer: Any) -> Any:
    """The configuration of a BERT-shaped encoder on this tokenizer, without dropout."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **shape,
    )


def new_model(settings: Settings, tokenizer: Any) -> Any:
    """A masked-word model of random numbers."""
    from transformers import BertForMaskedLM

    config = bert_config(settings.shape, tokenizer)
    if config.max_position_embeddings < settings.tokens:
        raise ConfigError(
            f"`tokens: {settings.tokens}` is more than the shape's "
            f"{config.max_position_embeddings} positions."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return BertForMaskedLM(config)


def first_layers(start: Path, layers: int) -> Any:
    """The first layers of a BERT-shaped causal model, attending both ways, and its word scores.

    Raises:
        ModelError: the model has another shape, or fewer layers.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, BertForMaskedLM

    config: Any = AutoConfig.from_pretrained(start)
    if config.model_type != "bert":
        raise ModelError(
            f"{start} is a {config.model_type} model; only a BERT-shaped one can turn round.",
            hint="Give the settings a `shape` to begin from random numbers.",
        )
    if config.num_hidden_layers < layers:
        raise ModelError(f"{start} has {config.num_hidden_layers} layers, not {layers}.")
    causal = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32, use_safetensors=True)
    config.is_decoder = False
    config.num_hidden_layers = layers
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = BertForMaskedLM(config).float()
    known = causal.state_dict()
    model.load_state_dict({name: known[name] for name in model.state_dict()})
    model.tie_weights()
    return model


def losses(model: Any, ids: torch.Tensor, targets: torch.Tensor, dtype: str) -> torch.Tensor:
    """Cross-entropy of each masked word, in float32; ids and targets are ``[rows, tokens]``."""
    wanted = targets != IGNORED
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        hidden = model.bert(input_ids=ids).last_hidden_state
        scores = model.cls(hidden[wanted])
    return functional.cross_entropy(scores.float(), targets[wanted], reduction="none")


def backward(model: Any, batch: MaskedBatch, settings: Settings) -> StepResult:
    """Add the gradients of one step."""
    loss = losses(model, *batch.to(settings.device), settings.dtype).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return StepResult(float(loss.detach()), batch.ids.size)


@torch.no_grad()
def perplexity(model: Any, windows: Windows, settings: Settings) -> float:
    """Of the masked words of the same pieces, whenever it is asked."""
    model.eval()
    each = [
        losses(
            model,
            *windows.batch(f"held/{number}", settings.rows).to(settings.device),
            settings.dtype,
        )
        for number in range(settings.validation_batches)
    ]
    return round(math.exp(float(torch.cat(each).mean())), 2)


def learning_rate(settings: Settings, step: int) -> float:
    """Warm-up, and a straight line down to zero."""
    warm = min(1.0, (step + 1) / settings.warm_up)
    return settings.learning_rate * warm * (1 - step / settings.steps)


@dataclass(frozen=True)
class Texts:
    """Passages to train on in mixed order, and those of the pages that are kept aside."""

    trained: list[str]
    held_out: list[str]


def read_texts(folder: Path, seed: int, limit: int | None = None) -> Texts:
    """What the language model's measuring keeps aside is kept aside here as well."""
    rows = list(passages(folder, limit))
    kept_aside = KeptAside(rows)
    trained = [one_line(row["text"]) for row in rows if not kept_aside(row)]
    random.Random(seed).shuffle(trained)
    return Texts(trained, [one_line(row["text"]) for row in rows if kept_aside(row)])


def save(model: Any, tokenizer: Any, folder: Path, seed: int) -> None:
    """The encoder without its word scores, in bfloat16, as SentenceTransformer loads it."""
    from tokenizers import processors
    from transformers import BertModel

    config = model.config
    config.architectures = ["BertModel"]
    with torch.random.fork_rng(devices=[]):
        # The pooler was not trained; with one in the folder, loading never invents it.
        torch.manual_seed(seed)
        encoder = BertModel(config)
    encoder.load_state_dict(model.bert.state_dict(), strict=False)
    # A language model's tokenizer need not put these round a text.
    edges = [(name, tokenizer.convert_tokens_to_ids(name)) for name in _edges(tokenizer)]
    first, last = (name for name, _ in edges)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=edges
    )
    tokenizer.model_max_length = config.max_position_embeddings
    with whole_folder(folder) as unfinished:
        encoder.to(torch.bfloat16).save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)


def _edges(tokenizer: Any) -> tuple[str, str]:
    return str(tokenizer.cls_token), str(tokenizer.sep_token)


def train(settings: Settings, start: Path, text: Path, out: Path, limit: int | None = None) -> Path:
    """Train to the end, from the last checkpoint on; returns the folder of the encoder.

    ``limit`` takes the first passages only, to try it out.

    Raises:
        ModelError: the start is not BERT-shaped and the settings have no ``shape``.
        WorkspaceError: ``out`` holds the checkpoint of another training.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(start)
    model = (
        new_model(settings, tokenizer) if settings.shape else first_layers(start, settings.layers)
    )
    model.to(settings.device)
    texts = read_texts(text, settings.seed, limit)
    windows, aside = (
        Windows(
            some,
            tokenizer,
            tokens=settings.tokens,
            masked_share=settings.masked_share,
            seed=settings.seed,
        )
        for some in (texts.trained, texts.held_out)
    )

    def draw(first: int) -> Iterator[MaskedBatch]:
        return (
            windows.batch(f"train/{step}", settings.rows) for step in range(first, settings.steps)
        )

    files = HashCache()
    causes = {name: value for name, value in asdict(settings).items() if name not in _ONLY_SPEED}
    text_hash = files.file(text / "passages.jsonl.xz")
    checkpoint = Checkpoint(
        out, {**causes, "text": [text_hash, limit], "start": files.folder(start)}
    )
    Loop(
        model=model,
        optimizer=torch.optim.AdamW(
            model.parameters(), weight_decay=settings.weight_decay, betas=(0.9, 0.98)
        ),
        steps=settings.steps,
        draw=draw,
        backward=lambda batch: backward(model, batch, settings),
        rate=lambda step: learning_rate(settings, step),
        measure=lambda: {"held_out_perplexity": perplexity(model, aside, settings)},
        measure_every=settings.validate_every,
        checkpoint_every=settings.checkpoint_every,
    ).run(checkpoint, lambda step: TrainingLog(out / "log.jsonl", step))
    save(model, tokenizer, out / "model", settings.seed)
    return out / "model"


def main() -> None:
    """Train an encoder."""
    parser = argparse.ArgumentParser(description="Train starter-encoder.")
    parser.add_argument("--start", type=Path, required=True, help="a model's or tokenizer's folder")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", type=Path, help="YAML; default: the first two layers")
    options = parser.parse_args()
    settings = read_settings(options.settings, Settings) if options.settings else Settings()
    print(train(settings, options.start, options.text, options.out))


if __name__ == "__main__":
    run_command(main)
