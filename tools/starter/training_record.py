"""What a card tells of a training, read from its files: text, pairs, log, weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text_rows import Row

from sptar.errors import DataError
from sptar.io import read_json, read_jsonl


@dataclass(frozen=True)
class Source:
    """Text of one origin: how many rows and words (of passages and answers, or of questions)."""

    name: str
    licence: str
    rows: int
    words: int


def sources(rows: Iterable[Row]) -> list[Source]:
    """Each origin and licence of the rows, the largest first."""
    counts: Counter[tuple[str, str]] = Counter()
    words: Counter[tuple[str, str]] = Counter()
    for row in rows:
        key = (str(row["source"]), str(row["licence"]))
        counts[key] += 1
        words[key] += len(str(row.get("text") or row.get("question")).split())
    order = sorted(counts, key=lambda key: (-counts[key], key))
    return [
        Source(name, licence, counts[name, licence], words[name, licence])
        for name, licence in order
    ]


@dataclass(frozen=True)
class StyleCount:
    """Pairs of one style: trained, and kept aside."""

    style: str
    trained: int
    held_out: int


def style_counts(pairs: Path) -> list[StyleCount]:
    """The pairs of a file by style."""
    counts: Counter[tuple[str, bool]] = Counter(
        (row["style"], row["held_out"]) for _, row in read_jsonl(pairs)
    )
    styles = sorted({style for style, _ in counts})
    return [StyleCount(style, counts[style, False], counts[style, True]) for style in styles]


@dataclass(frozen=True)
class StepLoss:
    """Mean training loss of the steps before ``step``."""

    step: int
    loss: float


@dataclass(frozen=True)
class TrainingRecord:
    """A finished training, as its log tells it.

    ``exact`` is false when the log does not count tokens: they are then computed from the settings
    and the seconds from the speed. ``first`` and ``last`` are what was measured at both ends;
    ``first`` is ``None`` when nothing was before the first step.
    """

    steps: int
    tokens: int
    seconds: float
    exact: bool
    losses: list[StepLoss]
    first: Mapping[str, Any] | None
    last: Mapping[str, Any]


def read_log(path: Path, *, step_tokens: int) -> TrainingRecord:
    """Read a training's log; ``step_tokens`` is about what one step reads.

    Raises:
        DataError: the log is damaged, or lacks losses or measurements.
    """
    rows = [row for _, row in read_jsonl(path)]
    told = [row for row in rows if "loss" in row]
    measured = [row for row in rows if "perplexity" in row or "held_out_perplexity" in row]
    if not told or not measured:
        raise DataError("the log has no losses or nothing that was measured.", path=path)
    end = told[-1]
    steps = int(end["step"])
    tokens = int(end.get("tokens", steps * step_tokens))
    seconds = end.get("seconds")
    if seconds is None:
        seconds = tokens / end["tokens_per_second"]
    return TrainingRecord(
        steps=steps,
        tokens=tokens,
        seconds=float(seconds),
        exact="tokens" in end,
        losses=[StepLoss(int(row["step"]), float(row["loss"])) for row in told],
        first=measured[0] if measured[0]["step"] == 0 else None,
        last=measured[-1],
    )


@dataclass(frozen=True)
class Weights:
    """How large a saved model is: different numbers, bytes on disk, and its configuration."""

    parameters: int
    size: int
    config: Mapping[str, Any]


def weights_of(folder: Path) -> Weights:
    """Count what a folder's safetensors files hold, from their headers."""
    parameters = size = 0
    for path in sorted(folder.glob("*.safetensors")):
        size += path.stat().st_size
        with path.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            count = 1
            for length in tensor["shape"]:
                count *= length
            parameters += count
    return Weights(parameters, size, read_json(folder / "config.json"))
