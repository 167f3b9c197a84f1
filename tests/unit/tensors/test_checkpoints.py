"""Checkpoints come back bit for bit, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sptar.errors import DataError
from sptar.tensors.checkpoints import read_checkpoint, write_checkpoint

TENSORS = {
    "step": torch.tensor(3.0),
    "weights": torch.arange(12.0).reshape(3, 4).T.contiguous(),
    "half": torch.tensor([0.1, -2.0], dtype=torch.bfloat16),
    "mask": torch.tensor([True, False]),
    "none": torch.zeros(0, 5),
}


def test_what_comes_back(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.safetensors", TENSORS, {"é": [1, 0.1, float("inf"), None]})
    tensors, record = read_checkpoint(tmp_path / "c.safetensors")
    assert record == {"é": [1, 0.1, float("inf"), None]}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, TENSORS, {"epoch": 1})
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        try:
            tensors, record = read_checkpoint(path)
        except DataError:
            continue
        # White space of the header says nothing: the same came back.
        assert content[place : place + 1] == b" "
        assert record == {"epoch": 1}
        assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    path.write_bytes(content[:-1])
    with pytest.raises(DataError):
        read_checkpoint(path)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        read_checkpoint(path)
