"""Who may write an artefact: one process, and the workers that it has started.

The right is a lock of the operating system on a file in ``locks``, gone when its holder is, however
that ends. Workers share a second lock: while one of them lives, nobody else begins to write, also
when the process that started it was killed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sptar.errors import WorkspaceError

__all__ = ["hold", "is_held", "refuse_link", "work_along"]

_PATIENCE = 10.0
"""Seconds that workers of a dead process get to notice it."""
_GLANCE = 0.5
"""Seconds for which somebody who only looks may hold a lock (:func:`is_held`)."""
_POLL = 0.05
_WATCH = 0.5
"""Seconds between two looks of a worker at the one it works for."""

_held: list[IO[str]] = []
"""Locks that this process holds until it ends."""


def refuse_link(path: Path) -> None:
    """Make sure that nothing is written, emptied or removed behind a symbolic link.

    Raises:
        WorkspaceError: ``path`` is one.
    """
    if path.is_symlink():
        raise WorkspaceError(
            f"{path} is a symbolic link, and inside a work folder none is followed.",
            hint="Put the file or folder itself there. The whole work folder may be a link.",
        )


def _open(folder: Path, kind: str) -> IO[str]:
    """The lock file of an artefact's folder."""
    path = folder.parents[1] / "locks" / f"{folder.name}.{kind}"
    refuse_link(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_link(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "a+")


@contextmanager
def hold(folder: Path, what: str) -> Iterator[None]:
    """Hold the right to write the artefact in ``folder``.

    Raises:
        WorkspaceError: another process holds it, or workers of one that died live on; ``what`` says
            what they make.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on Windows: the last writer's rename wins
        yield
        return
    with _open(folder, "lock") as own, _open(folder, "workers.lock") as workers:
        if not _comes_free(own, _GLANCE):
            own.seek(0)
            owner = own.read().strip() or "unknown"
            raise WorkspaceError(
                f"Another process ({owner}) is making {what}.",
                hint="Wait for it, or give this run its own --work folder.",
            )
        own.truncate(0)
        own.write(str(os.getpid()))
        own.flush()
        if not _comes_free(workers, _PATIENCE):
            raise WorkspaceError(
                f"Workers of an earlier run are still making {what}.",
                hint="Wait until they have ended, or end them.",
            )
        fcntl.flock(workers, fcntl.LOCK_UN)
        try:
            yield
        finally:
            # Said aloud: a child that was forked meanwhile may have a copy of the open file.
            fcntl.flock(own, fcntl.LOCK_UN)


def _comes_free(stream: IO[str], seconds: float) -> bool:
    """Take a lock alone as soon as nobody holds it, in so many seconds at most."""
    import fcntl

    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
        time.sleep(_POLL)


def is_held(folder: Path) -> bool:
    """Whether a process holds the right to write what is in ``folder``; changes nothing."""
    try:
        import fcntl
    except ImportError:
        return False
    path = folder.parents[1] / "locks" / f"{folder.name}.lock"
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def work_along(folder: Path) -> None:
    """Say that this process writes into ``folder`` for the one that holds it, until it ends.

    It ends with that one, if it does not before.

    Raises:
        WorkspaceError: a new run has begun there meanwhile.
    """
    try:
        import fcntl
    except ImportError:
        return
    stream = _open(folder, "workers.lock")
    try:
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise WorkspaceError(
            f"A new run has begun to make {folder}.", hint="This one ends; let that one go on."
        ) from None
    _held.append(stream)
    if is_held(folder):
        threading.Thread(target=_end_when_free, args=(folder,), daemon=True).start()


def _end_when_free(folder: Path) -> None:
    """End this process when nobody holds the folder any more: the last way to hear of it, and the
    only one for workers on another machine."""
    while is_held(folder):
        time.sleep(_WATCH)
    os._exit(1)
