"""What people see: bars and messages on standard error, results on standard output.

Whatever these are, a file, a pipe that somebody closes, a terminal of another alphabet, or nothing
at all, output is no reason to lose work: what cannot be written is escaped or let go.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

__all__ = [
    "TerminalProgress",
    "finish_streams",
    "let_go",
    "prepare_streams",
    "print_json",
    "print_table",
    "read_text",
    "say",
]


def prepare_streams() -> None:
    """Let no character and no closed stream be an error; before anything is printed."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed by whoever started this process
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def finish_streams(code: int) -> int:
    """Write out what is still held back; returns the exit code, 2 when that cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # the reader had enough
            let_go(stream)
        except OSError as error:
            let_go(stream)
            say(f"Error: what was to be printed is lost: {error}.")
            code = code or 2
    return code


def let_go(stream: Any) -> None:
    """Send a stream nowhere from now on: nobody reads it any more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def say(text: str) -> None:
    """A line on standard error, if somebody reads it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        let_go(sys.stderr)


def read_text() -> str:
    """All of standard input.

    Raises:
        ConfigError: it is no UTF-8 text.
    """
    from sptar.errors import ConfigError

    if sys.stdin is None:
        return ""
    try:
        raw = getattr(sys.stdin, "buffer", None)
        return sys.stdin.read() if raw is None else raw.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"Standard input is no UTF-8 text (byte {error.start + 1}).") from None


class _Errors(Console):
    """Standard error: a run goes on when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        let_go(sys.stderr)


class _Results(Console):
    """Standard output."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _RateColumn(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit") or "items"
        return Text("" if speed is None else f"{speed:,.1f} {unit}/s", style="progress.data.speed")


class TerminalProgress:
    """A bar with rate and time left on a terminal; plain lines where there is none."""

    def __init__(self) -> None:
        self._console = _Errors(stderr=True, highlight=False, soft_wrap=True)
        self._bars: list[tuple[Progress, Any]] = []

    def start(self, description: str, total: int | None, unit: str = "") -> None:
        """Open a bar; a bar inside another one replaces it until it is finished."""
        if self._bars:
            self._bars[-1][0].stop()
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=False,
            disable=not self._console.is_terminal,
        )
        if not self._console.is_terminal:
            size = "" if total is None else f" ({total} {unit})".replace(" )", ")")
            self._console.print(f"{description}{size}", markup=False)
        bar.start()
        self._bars.append((bar, bar.add_task(description, total=total, unit=unit)))

    def advance(self, amount: int = 1) -> None:
        """Move the bar."""
        if self._bars:
            bar, task = self._bars[-1]
            bar.advance(task, amount)

    def finish(self) -> None:
        """Close the bar."""
        if self._bars:
            self._bars.pop()[0].stop()
            if self._bars:
                self._bars[-1][0].start()

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        console = self._bars[-1][0].console if self._bars else self._console
        console.print(text, markup=False)


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    from sptar.io import to_json

    text = to_json(value, indent=2)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:  # JSON has escapes of its own
        text = json.dumps(value, indent=2, allow_nan=False)
    print(text)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, lines: bool = False
) -> None:
    """A table on standard output, with lines between its rows when these are long.

    Text from data is never read as markup.
    """
    width = None if sys.stdout.isatty() else 120
    table = Table(title=title, title_justify="left", show_lines=lines)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="left" if number == 0 else "default")
    for row in rows:
        table.add_row(*[Text(str(value)) for value in row])
    _Results(width=width, highlight=False).print(table)
