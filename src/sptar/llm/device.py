"""Which device and number format a config means, and whether this machine has them."""

from __future__ import annotations

import torch

from sptar.errors import ModelError

__all__ = ["choose_device", "choose_dtype"]

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_device(name: str) -> torch.device:
    """The device that a config means; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        ModelError: the device does not exist here, or the name is no device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(
            f"'{name}' is no device.", hint="Set `device` to auto, cpu, cuda, cuda:1 or mps."
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"`device: {name}` is asked for, but this machine has no CUDA device that torch can "
            "use.",
            hint="Set `device: auto`, or install a CUDA build of torch.",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"`device: {name}` is asked for, but there are {torch.cuda.device_count()} CUDA "
            "devices, numbered from 0."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("`device: mps` is asked for, but this machine has none.")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of this name.

    Raises:
        ModelError: it is unknown, or the device cannot calculate with it.
    """
    if name not in _DTYPES:
        raise ModelError(f"`dtype: {name}` is unknown; known are: {', '.join(_DTYPES)}.")
    dtype = _DTYPES[name]
    try:
        square = torch.ones(2, 2, dtype=dtype, device=device)
        torch.nn.functional.layer_norm(square @ square, (2,)).sum().item()
    except (RuntimeError, TypeError):
        raise ModelError(
            f"`dtype: {name}` is not supported on {device}.", hint="Set `dtype: float32`."
        ) from None
    return dtype
