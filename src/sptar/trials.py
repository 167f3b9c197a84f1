"""What was tried out once and holds from then on, for a work folder or for this process.

How fast this machine is at something is measured, and two measurements differ. Results must not,
so the answer of the first trial is kept in the work folder, and everybody who works there takes it:
this process, those that it starts, a run that goes on elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sptar.io import read_json, to_json

__all__ = ["keep_in", "kept"]

_FOLDER = "SPTAR_TRIALS"
"""Environment variable that tells processes started from here where answers are kept."""

_known: dict[tuple[str | None, str], dict[str, Any]] = {}


def keep_in(folder: Path) -> None:
    """Keep answers in this folder, in this process and those that it starts from now on."""
    os.environ[_FOLDER] = str(folder.absolute())


def kept(name: str, trial: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer of the first trial of this name; where there is none yet, that of ``trial``.

    Of several processes that try at once, the first to be done decides for all. Without a folder,
    or in one that cannot be written to, the answer holds as long as the process.

    Args:
        name: a word that can be a file's name.
        trial: gives the answer as JSON values.

    Raises:
        DataError: the file of an answer is damaged.
    """
    folder = os.environ.get(_FOLDER)
    key = (folder, name)
    if key not in _known:
        _known[key] = trial() if folder is None else _on_disk(Path(folder, f"{name}.json"), trial)
    return _known[key]


def _on_disk(path: Path, trial: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        answer = trial()
        try:
            _write_first(path, answer)
        except OSError:
            return answer
    found: dict[str, Any] = read_json(path)
    return found


def _write_first(path: Path, answer: dict[str, Any]) -> None:
    """Write a file unless another process has; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.unfinished.{path.name}")
    try:
        temporary.write_text(to_json(answer, indent=2) + "\n", encoding="utf-8")
        try:
            # Unlike a renaming, a link does not take the place of a file that is there.
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink(missing_ok=True)
