"""Checkpoints: tensors and a record in one safetensors file, with a hash over both.

A file that was changed is not taken up: a training that went on from it would end elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sptar.errors import DataError
from sptar.io import atomic_path

if TYPE_CHECKING:
    import torch

__all__ = ["read_checkpoint", "write_checkpoint"]


def write_checkpoint(
    path: Path, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]
) -> None:
    """Write tensors (on the CPU, contiguous) and JSON values, whole or not at all."""
    from safetensors.torch import save_file

    text = json.dumps(record)  # a loss may be infinite
    metadata = {"record": text, "seal": _seal(tensors, text)}
    with atomic_path(path) as temporary:
        save_file(dict(tensors), temporary, metadata=metadata)


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What :func:`write_checkpoint` wrote.

    Raises:
        DataError: there is no such file, or it is not as it was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise DataError("there is no such file.", path=path) from None
    except SafetensorError as error:
        raise DataError(f"the checkpoint is damaged: {error}.", path=path) from None
    text = metadata.get("record", "")
    if metadata.get("seal") != _seal(tensors, text):
        raise DataError("the checkpoint has changed since it was written.", path=path)
    record: dict[str, Any] = json.loads(text)
    return tensors, record


def _seal(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    import torch

    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
