"""Recognising that memory ran out, on whatever device: torch says it in several ways."""

from __future__ import annotations

__all__ = ["free_cached_memory", "is_out_of_memory"]

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
