"""Are processes still there?"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

SECONDS = 60
"""For something that should happen at once, on a machine that may be busy."""


def is_alive(pid: int) -> bool:
    """Whether a process runs; a dead child that nobody has asked for yet still has its number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()


def assert_all_end(pids: Iterable[int]) -> None:
    """Wait until none of them is there."""
    left = list(pids)
    assert left
    deadline = time.monotonic() + SECONDS
    while left := [pid for pid in left if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def numbers_written(folder: Path, count: int, by: subprocess.Popen[bytes]) -> list[int]:
    """Process numbers in files ``pid-*``, when so many are there."""
    while True:
        found = [file.read_text() for file in folder.glob("pid-*")]
        if len(found) == count and all(found):
            return [int(text) for text in found]
        assert by.poll() is None
        time.sleep(0.02)
