"""The state of a tuning after an epoch, in one safetensors file that appears whole or not at all.

Numbers are kept bit for bit, so a tuning that was killed ends with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from sptar.errors import DataError, WorkspaceError
from sptar.tensors.checkpoints import read_checkpoint, write_checkpoint

__all__ = ["EpochRecord", "TuningState", "read_state", "write_state"]

_FILE = "tuning.safetensors"
_OPTIMIZER_KEYS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One pass over the training pairs. Losses are natural-log means over pairs of the mean over
    each pair's query tokens; ``learning_rate`` is that of the epoch's last step."""

    epoch: int
    training_loss: float
    evaluation_loss: float
    learning_rate: float
    seconds: float


@dataclass
class TuningState:
    """Everything that the next epoch depends on.

    ``best`` holds the parameters of ``best_epoch`` (0 is the start value); ``tuned_loss`` and
    ``tuned_epoch`` follow the epochs alone, for early stopping.
    """

    best: dict[str, torch.Tensor]
    initial_evaluation_loss: float
    best_loss: float
    best_epoch: int = 0
    tuned_loss: float = float("inf")
    tuned_epoch: int = 0
    history: list[EpochRecord] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)


def write_state(
    folder: Path,
    identity: str,
    state: TuningState,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Save state, parameters and the optimizer's moments."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"now/{name}"] = parameter.detach().cpu()
        tensors[f"best/{name}"] = state.best[name].cpu()
        for key in _OPTIMIZER_KEYS:
            tensors[f"{key}/{name}"] = optimizer.state[parameter][key].detach().cpu()
    record = {
        "identity": identity,
        "initial_evaluation_loss": state.initial_evaluation_loss,
        "best_loss": state.best_loss,
        "best_epoch": state.best_epoch,
        "tuned_loss": state.tuned_loss,
        "tuned_epoch": state.tuned_epoch,
        "history": [asdict(entry) for entry in state.history],
    }
    copies = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    write_checkpoint(folder / _FILE, copies, record)


def read_state(
    folder: Path,
    identity: str,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> TuningState | None:
    """Put parameters and optimizer back; ``None`` when there is no checkpoint yet.

    Raises:
        WorkspaceError: the checkpoint is damaged, or belongs to a tuning with other settings,
            data or model.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    try:
        tensors, record = read_checkpoint(path)
    except DataError:
        raise WorkspaceError(
            f"The checkpoint {path} is damaged.", hint="Delete it to start again."
        ) from None
    if record.get("identity") != identity:
        raise WorkspaceError(
            f"The checkpoint {path} belongs to a tuning with other settings, data or model.",
            hint="Delete it, or choose another folder.",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"now/{name}"])
    settings = optimizer.state_dict()
    settings["state"] = {
        number: {key: tensors[f"{key}/{name}"] for key in _OPTIMIZER_KEYS}
        for number, name in enumerate(parameters)
    }
    optimizer.load_state_dict(settings)
    return TuningState(
        best={name: tensors[f"best/{name}"] for name in parameters},
        initial_evaluation_loss=record["initial_evaluation_loss"],
        best_loss=record["best_loss"],
        best_epoch=record["best_epoch"],
        tuned_loss=record["tuned_loss"],
        tuned_epoch=record["tuned_epoch"],
        history=[EpochRecord(**entry) for entry in record["history"]],
    )
