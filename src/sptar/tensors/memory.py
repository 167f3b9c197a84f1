"""Memory: whether it ran out, on whatever device, and the most that was in use."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["free_cached_memory", "is_out_of_memory", "peak_memory"]

_SAID = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "alloc_failed",
    "unable to allocate",
    "failed to allocate",
    "could not allocate",
)
"""How allocators of processors, of Apple's and of CUDA's libraries put it, in small letters."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, so that a smaller batch may do.

    Only CUDA has a class of its own for that (:class:`torch.OutOfMemoryError`); on a processor
    torch raises a plain ``RuntimeError``, NumPy a ``MemoryError``.
    """
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _SAID)


def free_cached_memory() -> None:
    """Give back what torch keeps of a GPU's memory for later, before a smaller batch is tried."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory(device: torch.device) -> int | None:
    """Bytes that were in use at most: of a CUDA device, else of this process; ``None`` if unknown.

    On a processor this is the largest resident size of the process since it began.
    """
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        # Linux counts the process that started this one into ru_maxrss, not into VmHWM.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
