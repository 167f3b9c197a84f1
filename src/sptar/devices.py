"""Which device a setting means, and whether torch can compute on it here."""

from __future__ import annotations

from sptar.errors import ModelError

__all__ = ["usable_device"]


def usable_device(name: str, setting: str) -> str:
    """The device that a config means; ``auto`` takes CUDA, then MPS, then the CPU.

    Args:
        setting: name of the setting for messages, such as ``train.device``.

    Raises:
        ModelError: the name is no device, or nothing can be computed there: it does not exist here,
            or (as ``meta``) holds no numbers.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    hint = f"Set `{setting}` to auto, cpu, cuda, cuda:1 or mps."
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"`{setting}: {name}` names no device.", hint=hint) from None
    try:
        (torch.ones(1, device=device) + 1).item()
    except Exception as error:  # every kind of device has errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(
            f"`{setting}: {name}` is asked for, but torch cannot compute there ({reason}).",
            hint=hint,
        ) from None
    return str(device)
