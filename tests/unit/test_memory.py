"""Memory that ran out is recognised, whoever says so; other errors are not taken for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sptar.tensors.memory import free_cached_memory, is_out_of_memory


def raised(call) -> BaseException:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        call()
    return caught.value


def test_what_allocators_really_raise() -> None:
    on_cpu = raised(lambda: torch.empty(2**52))
    # torch has a class of its own for GPUs only, which is why the words are read.
    assert type(on_cpu) is RuntimeError
    assert is_out_of_memory(on_cpu)
    assert is_out_of_memory(raised(lambda: np.empty(2**50)))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
        RuntimeError("not enough memory: you tried to allocate 8589934592 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_how_other_devices_say_it(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        IndexError("index out of range in self"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_other_errors_are_none(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_freeing_needs_no_gpu() -> None:
    free_cached_memory()
