"""Which device and number format a config means, and whether this machine has them."""

from __future__ import annotations

import torch

from sptar.devices import usable_device
from sptar.errors import ModelError

__all__ = ["choose_device", "choose_dtype"]

_DTYPES = {
    "auto": torch.float32,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_device(name: str) -> torch.device:
    """The device that a config means; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        ModelError: the device does not exist here, or the name is no device.
    """
    return torch.device(usable_device(name, "llm.device"))


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of this name.

    ``auto`` is settled for a work folder (:mod:`sptar.steps.formats`); where there is none it means
    float32.

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
