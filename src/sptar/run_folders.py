"""The folder of a named run, and how a new run takes the place of a finished one.

A run writes into a draft beside the folder that bears its name. Only when all of it is there,
record, tables and page, do two renames put it in place: the old folder steps aside, the draft takes
its name. A reader finds a whole run at every moment: where a kill struck between the renames, the
one that stepped aside. ``@`` stands in no name of a run, so the folders cannot be confused.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sptar.errors import DataError
from sptar.io import read_json
from sptar.locks import refuse_link

__all__ = ["RECORD", "RunFolder", "recorded_runs"]

RECORD = "run.json"
_DRAFT = "@unfinished"
_ASIDE = "@replaced"
_EVER_WRITTEN = frozenset(
    f"config.yaml {RECORD} report.html scores.csv scores.tex comparison.csv retrievers".split()
)
"""What runs put into their folder before their records listed it."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run of one name lies; ``runs`` is the folder of all runs."""

    runs: Path
    name: str

    @property
    def place(self) -> Path:
        """The folder that bears the name, or the one that stepped aside for a kill's sake."""
        own, aside = self.runs / self.name, self._aside
        return aside if aside.is_dir() and not own.exists() else own

    @property
    def draft(self) -> Path:
        """The folder of a run that is under way, or was stopped."""
        return self.runs / f"{self.name}{_DRAFT}"

    @property
    def _aside(self) -> Path:
        return self.runs / f"{self.name}{_ASIDE}"

    def begin(self) -> Path:
        """An empty draft. What an earlier one said is made again from its artefacts."""
        self._settle()
        if self.draft.exists():
            shutil.rmtree(self.draft)
        self.draft.mkdir(parents=True)
        return self.draft

    def publish(self) -> Path:
        """Let the draft, complete now, take the name; returns its folder.

        What a person has put beside the page of the run that goes stays there.
        """
        self._settle()
        own = self.runs / self.name
        if own.exists():
            own.rename(self._aside)
        self.draft.rename(own)
        _sync(self.runs)
        self._settle()
        return own

    def _settle(self) -> None:
        """Finish a replacement, or take one back, that a kill has cut in two."""
        own, aside = self.runs / self.name, self._aside
        for folder in (self.runs, own, aside, self.draft):
            refuse_link(folder)
        if not aside.is_dir():
            return
        if not own.exists():
            aside.rename(own)
            return
        ours = _written(aside)
        for path in aside.iterdir():
            if path.name not in ours and not (own / path.name).exists():
                path.rename(own / path.name)
        shutil.rmtree(aside)


def _written(folder: Path) -> frozenset[str]:
    """Names in a run's folder that the run wrote itself."""
    try:
        return frozenset(read_json(folder / RECORD)["files"]) | {RECORD}
    except (OSError, DataError, KeyError, TypeError):
        return _EVER_WRITTEN


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def recorded_runs(runs: Path) -> list[str]:
    """Names of all runs with a record, finished or not, oldest first."""
    times: dict[str, float] = {}
    for record in runs.glob(f"*/{RECORD}"):
        name, _, what = record.parent.name.partition("@")
        # A draft does not make a finished run of its name younger.
        if not what or name not in times or not (runs / name / RECORD).exists():
            times[name] = record.stat().st_mtime
    return sorted(times, key=lambda name: (times[name], name))
