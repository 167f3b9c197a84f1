"""What a killed training run needs to go on: weights, optimiser moments and history.

The state is one safetensors file, so it is whole or absent. The weights of the best epoch lie in
a file of their own, written before the state that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sptar.errors import DataError
from sptar.tensors.checkpoints import read_checkpoint, write_checkpoint

__all__ = ["EpochRecord", "SavedProgress", "TrainingState"]

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of each parameter."""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch: counted from 1, mean loss of a pair, dev score, seconds with evaluation.

    ``singletons`` counts the pairs that stood alone in their batch and so taught nothing.
    """

    epoch: int
    loss: float
    dev_score: float | None
    seconds: float
    steps: int
    singletons: int


@dataclass(frozen=True, slots=True)
class SavedProgress:
    """How far a run has come; ``best_epoch`` 0 is the untrained start."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    start_dev_score: float | None


class TrainingState:
    """The checkpoint folder of one training run.

    Args:
        folder: holds the files; the caller removes it when the retriever is in its place.
        key: identity of the run (data, recipe, seed, start weights); a state with another key is
            never used.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key

    @property
    def _state_file(self) -> Path:
        return self._folder / "training_state.safetensors"

    def _weights_file(self, epoch: int) -> Path:
        return self._folder / f"weights-epoch-{epoch:04d}.safetensors"

    @staticmethod
    def _parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        """Those that are trained: frozen ones come from the start, which the key names."""
        return {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    def save_weights(self, model: torch.nn.Module, epoch: int) -> None:
        """Keep the weights of an epoch that may become the result."""
        tensors = {
            name: parameter.detach().cpu().contiguous()
            for name, parameter in self._parameters(model).items()
        }
        write_checkpoint(self._weights_file(epoch), tensors, {})

    def load_weights(self, model: torch.nn.Module, epoch: int) -> None:
        """Put the kept weights of an epoch into the model."""
        self._copy(read_checkpoint(self._weights_file(epoch))[0], model)

    def _copy(self, tensors: Mapping[str, torch.Tensor], model: torch.nn.Module) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters(model).items():
                parameter.copy_(tensors[name])

    def save(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: SavedProgress
    ) -> None:
        """Write the state after an epoch and drop weights that are no longer the best."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self._parameters(model).items():
            tensors[f"weights.{name}"] = parameter.detach().cpu().contiguous()
            remembered = optimizer.state.get(parameter, {})
            for moment in _MOMENTS:
                if moment in remembered:
                    tensors[f"{moment}.{name}"] = remembered[moment].detach().cpu().contiguous()
        record = {"key": self._key, "progress": asdict(progress)}
        write_checkpoint(self._state_file, tensors, record)
        for file in self._folder.glob("weights-epoch-*.safetensors"):
            if file != self._weights_file(progress.best_epoch):
                file.unlink()

    def load(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> SavedProgress | None:
        """Restore model and optimiser; ``None`` (and nothing touched) without a usable state."""
        try:
            tensors, record = read_checkpoint(self._state_file)
            if record.get("key") != self._key:
                return None
            saved = record["progress"]
            read_checkpoint(self._weights_file(saved["best_epoch"]))  # whole too
        except DataError:
            return None
        progress = SavedProgress(
            history=tuple(EpochRecord(**record) for record in saved["history"]),
            best_epoch=saved["best_epoch"],
            start_dev_score=saved["start_dev_score"],
        )
        weights = {
            name.removeprefix("weights."): tensor
            for name, tensor in tensors.items()
            if name.startswith("weights.")
        }
        self._copy(weights, model)
        for name, parameter in self._parameters(model).items():
            if f"exp_avg.{name}" in tensors:
                # AdamW keeps its step counter on the processor, its moments beside the weights.
                optimizer.state[parameter] = {
                    moment: tensors[f"{moment}.{name}"]
                    if moment == "step"
                    else tensors[f"{moment}.{name}"].to(parameter.device)
                    for moment in _MOMENTS
                }
        return progress
