"""Processes that end when the one that started them does, however that ends.

The system kills them where it can be asked to (Linux), so that also a process deep in a library's
code goes at once; everywhere, a thread waits for the end of a pipe that the parent holds open.

Run as a module this is a watcher: it reads standard input to its end and then ends every process
that bears its mark.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["end_offspring_with_me", "end_with_parent", "end_with_standard_input"]

_MARK = "SPTAR_OFFSPRING_OF"
"""Environment variable that everything inherits which this process starts, at any remove."""
_QUIET = 1.0
"""Seconds without a marked process after which a watcher has done its work."""
_watchers: list[subprocess.Popen[bytes]] = []

_SET_PARENT_DEATH_SIGNAL = 1
"""``PR_SET_PDEATHSIG`` of prctl(2). It looks at the thread that started this process."""


def end_with_parent() -> None:
    """Of a process that :mod:`multiprocessing` started: it ends with its parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    _kill_with(parent.pid)
    sentinel = parent.sentinel
    _watch(lambda: multiprocessing.connection.wait([sentinel]))


def end_with_standard_input(parent: int | None = None) -> None:
    """Of a process whose standard input is a pipe that nobody writes to: it ends with the pipe.

    Args:
        parent: number of the process that started this one, where it is known; this process ends
            with it too.
    """
    _kill_with(os.getppid() if parent is None else parent)

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass

    _watch(wait)


def end_offspring_with_me() -> None:
    """Whatever is started from now on and does not end by itself is ended when this process is.

    For services of other packages, which cannot be asked to watch. Linux only.
    """
    if not sys.platform.startswith("linux"):
        return
    mark = secrets.token_hex(8)
    unmarked = {name: value for name, value in os.environ.items() if name != _MARK}
    watcher = subprocess.Popen(
        [sys.executable, "-m", __name__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=unmarked,
        start_new_session=True,
    )
    _watchers.append(watcher)  # holds the pipe open
    os.environ[_MARK] = mark


def _marked(mark: str) -> list[int]:
    wanted = f"{_MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _watch_over(mark: str) -> None:
    sys.stdin.buffer.read()
    last = time.monotonic()
    while time.monotonic() < last + _QUIET:
        for pid in _marked(mark):
            last = time.monotonic()
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _kill_with(parent: int | None) -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library may lack it
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    if parent is not None and os.getppid() != parent:  # it died before it was asked for
        os._exit(1)


def _watch(wait: Callable[[], object]) -> None:
    def watch() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


if __name__ == "__main__":
    _watch_over(sys.argv[1])
