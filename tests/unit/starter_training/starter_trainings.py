"""Trainings that stop in the middle, and their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """In place of a signal."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End the training when it tells its log of this step, before it does."""
    from checkpoint import TrainingLog

    write = TrainingLog.write

    def dying(self: TrainingLog, row: Any) -> None:
        if row["step"] == step:
            raise Killed
        write(self, row)

    monkeypatch.setattr(TrainingLog, "write", dying)


def weights(folder: Path) -> bytes:
    """The saved weights, byte for byte."""
    return (folder / "model.safetensors").read_bytes()


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of a training's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must not depend on stops."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
