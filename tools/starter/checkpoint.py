"""The state of a training that was stopped: weights, moments, what is done; and its log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sptar.errors import WorkspaceError
from sptar.io import atomic_path, atomic_write_text, to_json

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Done:
    """What a training has behind it.

    ``tokens`` were read in ``seconds`` of training, stops and measuring not counted; ``recent``
    are the losses of the steps since the last line of the log.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)


class Checkpoint:
    """Weights and moments of AdamW in one safetensors file, written whole or not at all.

    Args:
        folder: where it lies.
        causes: everything that the weights depend on. A checkpoint with other causes is refused.
    """

    def __init__(self, folder: Path, causes: Mapping[str, Any]) -> None:
        self._file = folder / "checkpoint.safetensors"
        self._causes: dict[str, Any] = json.loads(json.dumps(causes))

    def save(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, done: Done) -> None:
        """Write the state after a step."""
        from safetensors.torch import save_file

        tensors: dict[str, torch.Tensor] = {}
        for name, value in model.named_parameters():
            tensors[f"model.{name}"] = value
            tensors |= {f"{key}.{name}": optimizer.state[value][key] for key in _MOMENTS}
        with atomic_path(self._file) as path:
            save_file(
                {name: value.detach().contiguous() for name, value in tensors.items()},
                path,
                metadata={"causes": to_json(self._causes), "done": to_json(asdict(done))},
            )

    def load(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Done:
        """Put back what was saved; nothing is done when there is no checkpoint.

        Raises:
            WorkspaceError: the checkpoint belongs to another training.
        """
        from safetensors import safe_open

        if not self._file.exists():
            return Done()
        with safe_open(self._file, "pt") as stored:
            told = stored.metadata() or {}
            if not {"causes", "done"} <= told.keys():
                self._refuse("an older form of this program")
            causes = json.loads(told["causes"])
            other = [
                name
                for name in sorted(causes.keys() | self._causes.keys())
                if causes.get(name) != self._causes.get(name)
            ]
            if other:
                self._refuse(f"a training with another {', '.join(other)}")
            done = Done(**json.loads(told["done"]))
            for name, value in model.named_parameters():
                with torch.no_grad():
                    value.copy_(stored.get_tensor(f"model.{name}"))
                moments = {
                    key: stored.get_tensor(f"{key}.{name}").to(value.device) for key in _MOMENTS
                }
                optimizer.state[value] = {"step": torch.tensor(float(done.step)), **moments}
        return done

    def _refuse(self, origin: str) -> None:
        raise WorkspaceError(
            f"{self._file} was left by {origin}.",
            hint="Remove it to begin anew, or give another --out.",
        )


class TrainingLog:
    """A JSON line for everything that is worth telling of a step.

    Lines behind the last checkpoint were written by a training that was stopped; that part is
    trained again, so they go.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        old = path.read_text(encoding="utf-8").splitlines() if last_step and path.exists() else []
        kept = [line for line in old if _step_of(line) <= last_step]
        atomic_write_text(path, "".join(line + "\n" for line in kept))

    def write(self, row: Mapping[str, Any]) -> None:
        """One line to the file and to the screen."""
        line = to_json(row)
        print(line, flush=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _step_of(line: str) -> float:
    """The step of a line; a line that was cut short is behind everything."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
