"""The errors that a user can meet: each says what is wrong, where, and what to do next.

The command line prints any :class:`SptarError` as one sentence and leaves with exit code 2;
everything else that escapes is a bug in this package.
"""

from __future__ import annotations

import copyreg
from pathlib import Path
from typing import Any

__all__ = [
    "ConfigError",
    "DataError",
    "MissingExtraError",
    "ModelError",
    "SptarError",
    "WorkspaceError",
]


class SptarError(Exception):
    """Root of the tree; ``hint`` is the next thing to do."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message} {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors come back from other processes. A subclass makes its message out of parts, which
        # is done already and cannot be done again from the message.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConfigError(SptarError):
    """A setting is unknown, contradicts another one, or cannot be read."""


class DataError(SptarError):
    """Input data are broken; ``path`` and ``line`` (counted from 1) say where."""

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        line: int | None = None,
        hint: str | None = None,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.line = line
        where = ""
        if path is not None:
            where = f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + message, hint=hint)


class ModelError(SptarError):
    """A model cannot be loaded, or cannot do what is asked of it."""


class MissingExtraError(SptarError):
    """An optional dependency is needed and is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed.",
            hint=f'Type: pip install "sptar[{extra}]"',
        )


class WorkspaceError(SptarError):
    """An artefact is missing, damaged, or being written by another process."""
