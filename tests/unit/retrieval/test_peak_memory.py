"""A training's peak memory is its own, not that of the process that started it."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEASURE = """
import torch
from sptar.tensors.memory import peak_memory
print(peak_memory(torch.device("cpu")))
"""
STARTED_BY_A_LARGE_PROCESS = """
import subprocess, sys
ballast = b"x" * 1_500_000_000
sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode)
"""


def peak(*command: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", *command], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands a peak on to a new process")
def test_a_large_parent_is_not_counted() -> None:
    alone = peak(MEASURE)
    assert 30_000_000 < alone < 1_200_000_000
    assert peak(STARTED_BY_A_LARGE_PROCESS, MEASURE) < 1.2 * alone
