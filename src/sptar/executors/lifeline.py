"""Processes that end when the one that started them does, however that ends.

The system kills them where it can be asked to (Linux), so that also a process deep in a library's
code goes at once; everywhere, a thread waits for the end of a pipe that the parent holds open.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable

__all__ = ["end_with_parent", "end_with_standard_input"]

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
