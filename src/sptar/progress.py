"""Progress for code that has no terminal: silence, and a list for tests.

The bars that people see are drawn in ``cli``; everything below only reports to the
:class:`~sptar.types.Progress` that it is given.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["RecordedProgress", "SilentProgress", "silent"]


class SilentProgress:
    """Does nothing."""

    def start(self, description: str, total: int | None, unit: str = "") -> None:
        """Ignore the beginning of some work."""

    def advance(self, amount: int = 1) -> None:
        """Ignore finished work."""

    def finish(self) -> None:
        """Ignore the end of some work."""

    def message(self, text: str) -> None:
        """Ignore a sentence."""


@dataclass
class RecordedProgress:
    """Remembers what it is told."""

    started: list[tuple[str, int | None, str]] = field(default_factory=list)
    advanced: int = 0
    finished: int = 0
    messages: list[str] = field(default_factory=list)

    def start(self, description: str, total: int | None, unit: str = "") -> None:
        """Remember the beginning of some work."""
        self.started.append((description, total, unit))

    def advance(self, amount: int = 1) -> None:
        """Count finished work."""
        self.advanced += amount

    def finish(self) -> None:
        """Count the end of some work."""
        self.finished += 1

    def message(self, text: str) -> None:
        """Remember a sentence."""
        self.messages.append(text)


silent = SilentProgress()
"""The progress of code that is called without one."""
