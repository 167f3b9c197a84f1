"""Starts processes that belong together with torchrun, and hears of them: progress and errors.

Everything passes through files of one folder, so it does not matter what libraries print. Torchrun
and its processes read from a pipe that this one holds open: when it dies, however it dies, they end
too, and nobody goes on writing where the next run will write.

Run as a module this is torchrun itself, with such a lifeline.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import sptar.errors
from sptar.errors import SptarError, WorkspaceError
from sptar.executors.lifeline import end_with_standard_input
from sptar.io import atomic_write_text, read_json, to_json
from sptar.progress import silent
from sptar.types import Progress

__all__ = ["launch", "launched_from_outside", "leave", "reporting"]

_FOLDER = "SPTAR_LAUNCH_FOLDER"
"""Environment variable that tells a process that it was started here, and where to report."""
_LAUNCHER = "SPTAR_LAUNCHER"
"""Environment variable with the number of the process that starts torchrun."""
_PROGRESS = "progress.jsonl"
_LOG = "output.log"
_POLL = 0.1
_END = 15.0
"""Seconds that the launcher gets to end its processes."""


def launched_from_outside() -> bool:
    """Whether a person started this process with torchrun, accelerate or the like."""
    place = os.environ
    met = "RANK" in place and "MASTER_ADDR" in place and place.get("WORLD_SIZE", "1") != "1"
    return met and _FOLDER not in place


def launch(
    module: str, arguments: Sequence[str], count: int, folder: Path, progress: Progress = silent
) -> None:
    """Run ``python -m module arguments`` in so many processes of this machine, and wait for them.

    Args:
        module: its main function works under :func:`reporting`.
        arguments: the same for all processes.
        count: of processes.
        folder: for what they report; removed files of an earlier call make room.
        progress: is told what the first process tells its own.

    Raises:
        SptarError: what one of them raised.
        WorkspaceError: one of them died without a word.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("error-*.json"), folder / _PROGRESS):
        old.unlink(missing_ok=True)
    environment = {**os.environ, _FOLDER: str(folder.resolve()), _LAUNCHER: str(os.getpid())}
    # Torchrun would give each process a single thread.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    command = [
        *(sys.executable, "-m", __name__, "--standalone", "--log-dir", str(folder / "logs")),
        # The name of a machine on no network may not be found.
        *("--local-addr", "127.0.0.1", "--nproc-per-node", str(count), "-m", module, *arguments),
    ]
    with (folder / _LOG).open("wb") as log:
        started = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            _follow(started, folder / _PROGRESS, progress)
        finally:
            assert started.stdin is not None
            started.stdin.close()
            _end(started)
    if started.returncode:
        raise _what_happened(folder, started.returncode)


def _follow(started: subprocess.Popen[bytes], file: Path, progress: Progress) -> None:
    """Pass progress on until the processes have ended."""
    position = 0
    while True:
        ended = started.poll() is not None
        if file.exists():
            with file.open("rb") as stream:
                stream.seek(position)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    position += len(line)
                    what, *values = json.loads(line)
                    getattr(progress, what)(*values)
        if ended:
            return
        time.sleep(_POLL)


def _end(started: subprocess.Popen[bytes]) -> None:
    """Make sure that nobody is left, also after an interrupt."""
    if started.poll() is None:
        started.terminate()
    try:
        started.wait(_END)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()


def _what_happened(folder: Path, code: int) -> SptarError:
    errors = sorted(folder.glob("error-*.json"))
    if errors:
        return _read_error(read_json(errors[0]))
    text = (folder / _LOG).read_text(encoding="utf-8", errors="replace")
    said = next((line.strip() for line in text.splitlines() if "Error: " in line), "")
    return WorkspaceError(
        f"One of the processes died (exit code {code}). {said}".strip(),
        hint=f"What they printed is in {folder / _LOG}. Is memory short?",
    )


def _read_error(told: Mapping[str, Any]) -> SptarError:
    kind = getattr(sptar.errors, told["type"], SptarError)
    error: SptarError = kind.__new__(kind)
    # Subclasses make their message out of parts, which is done already.
    SptarError.__init__(error, told["message"], hint=told["hint"])
    for name in ("path", "line"):
        if isinstance(error, sptar.errors.DataError):
            setattr(error, name, None)
    return error


class _FileProgress:
    """Tells the process that launched this one."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def _tell(self, *values: Any) -> None:
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(to_json(values) + "\n")

    def start(self, description: str, total: int | None, unit: str = "") -> None:
        """Tell of the beginning of some work."""
        self._tell("start", description, total, unit)

    def advance(self, amount: int = 1) -> None:
        """Tell of finished work."""
        self._tell("advance", amount)

    def finish(self) -> None:
        """Tell of the end of some work."""
        self._tell("finish")

    def message(self, text: str) -> None:
        """Pass on a sentence."""
        self._tell("message", text)


@contextmanager
def reporting() -> Iterator[Progress]:
    """Work that :func:`launch` started: gives the progress that its caller sees.

    An error for people is passed on. Any error ends this process, and so all of them. Work that is
    done ends it too, without Python's goodbye: threads of the libraries may outlive the interpreter
    there and abort a process that has finished, for which torchrun would end the others.
    """
    folder = Path(os.environ[_FOLDER])
    rank = int(os.environ["RANK"])
    end_with_standard_input()
    try:
        yield _FileProgress(folder / _PROGRESS) if rank == 0 else silent
    except SptarError as error:
        told = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
        atomic_write_text(folder / f"error-{rank:05d}.json", to_json(told))
        leave(2)
    except Exception:
        traceback.print_exc()
        leave(1)
    leave(0)


def leave(code: int) -> NoReturn:
    """End at once: after an error a goodbye would wait for the others, and they wait for this."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _torchrun() -> None:
    from torch.distributed.run import main

    end_with_standard_input(int(os.environ[_LAUNCHER]))
    main(sys.argv[1:])


if __name__ == "__main__":
    _torchrun()
