"""What people see: bars and messages on standard error, results on standard output."""

from __future__ import annotations

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

__all__ = ["TerminalProgress", "print_json", "print_table"]


class _RateColumn(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit") or "items"
        return Text("" if speed is None else f"{speed:,.1f} {unit}/s", style="progress.data.speed")


class TerminalProgress:
    """A bar with rate and time left on a terminal; plain lines where there is none."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
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

    print(to_json(value, indent=2))


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
    Console(width=width, highlight=False).print(table)
