"""What a step is: a function from settings and input artefacts to one output artefact.

A step knows its identity before anything has run, because that follows from its causes alone: so a
plan can tell what is there already, and two methods that need the same artefact share it.
"""

from __future__ import annotations

import abc
import importlib.metadata
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from sptar import trials
from sptar.errors import DataError, WorkspaceError
from sptar.executors.local import Executor, LocalExecutor
from sptar.identity import HashCache
from sptar.progress import silent
from sptar.types import Progress
from sptar.workspace import PARTIAL, Artefact, Workspace, fingerprint

__all__ = ["Context", "Made", "Output", "Step", "make"]


@dataclass
class Context:
    """What steps share while a run lasts."""

    workspace: Workspace
    progress: Progress = silent
    executor: Executor = field(default_factory=LocalExecutor)
    loaded: dict[Any, Any] = field(default_factory=dict)
    """Models and collections that several steps of this process use."""

    def __post_init__(self) -> None:
        trials.keep_in(self.workspace.trials)


@dataclass(frozen=True)
class Output:
    """The folder that a step fills. What it keeps under ``unfinished`` goes when it is done."""

    folder: Path

    def path(self, name: str) -> Path:
        """Path of a file of the artefact."""
        return self.folder / name

    @property
    def unfinished(self) -> Path:
        """Folder for blocks and checkpoints, removed when the artefact is finished."""
        path = self.folder / PARTIAL
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True, kw_only=True)
class Step(abc.ABC):
    """One node of a method's graph.

    Its fields are its causes: the steps that it stands on, of whatever kind, and its settings.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the same causes give another result than before."""
    kept: ClassVar[tuple[str, ...]] = ()
    """Names of the artefact under which whole blocks are collected: a restart goes on with them."""

    @property
    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything but the inputs that changes the result, as JSON values."""

    @property
    def inputs(self) -> Mapping[str, Step]:
        """Steps whose artefacts this one reads: every field that holds one, by its name.

        A field that holds several, each with a label, gives ``field_label`` for each.
        """
        found: dict[str, Step] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Step):
                found[item.name] = value
            elif isinstance(value, tuple):
                labelled = (entry for entry in value if isinstance(entry, tuple))
                found |= {
                    f"{item.name}_{label}": step
                    for label, step in labelled
                    if isinstance(step, Step)
                }
        return found

    @property
    def outside(self) -> Sequence[str]:
        """Files, folders and models outside the work folder whose content is among the causes."""
        return ()

    def refuse_changes(self, hashes: HashCache) -> None:
        """Make sure that what it reads outside the work folder is still what it was.

        Raises:
            DataError: something has changed since it was hashed.
        """
        hashes.refuse_changes(self.outside)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the artefact, known before it exists."""
        inputs = {name: step.fingerprint for name, step in self.inputs.items()}
        return fingerprint(self.name, self.version, self.settings, inputs)

    @abc.abstractmethod
    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Fill ``output`` and return a summary (JSON values) for the manifest."""

    def artefact(self, workspace: Workspace) -> Artefact:
        """The finished artefact.

        Raises:
            WorkspaceError: it has not been made yet.
        """
        found = workspace.find(self.name, self.fingerprint)
        if found is None:
            raise WorkspaceError(
                f"The step '{self.name}' has not been run in {workspace.root}.",
                hint=f"Type: sptar {self.name.replace('_', '-')} CONFIG --work {workspace.root}",
            )
        return found

    def upstream(self) -> Iterator[Step]:
        """All steps that this one stands on, each once, then itself."""
        seen: set[tuple[str, str]] = set()

        def walk(step: Step) -> Iterator[Step]:
            key = (step.name, step.fingerprint)
            if key in seen:
                return
            seen.add(key)
            for below in step.inputs.values():
                yield from walk(below)
            yield step

        yield from walk(self)


@dataclass(frozen=True)
class Made:
    """An artefact and whether it was there before."""

    artefact: Artefact
    reused: bool
    seconds: float


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("sptar", "torch", "transformers", "sentence-transformers", "bm25s"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _clear_leftovers(folder: Path, kept: Sequence[str]) -> None:
    """Remove what a killed process left, but for the whole blocks and checkpoints."""
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif path.name in (PARTIAL, *kept):
            for half in path.rglob(".*.unfinished.*"):
                half.unlink()
        else:
            shutil.rmtree(path)


def make(step: Step, context: Context) -> Made:
    """Make a step's artefact, its inputs being there, or reuse the one that is finished.

    Raises:
        DataError: what it reads outside the work folder has changed since the run began.
        WorkspaceError: an input is not there or damaged, or another process makes the same.
    """
    workspace = context.workspace
    found = workspace.find(step.name, step.fingerprint)
    if found is not None:
        found.clear_unfinished()
        return Made(found, reused=True, seconds=0.0)
    inputs = {name: below.artefact(workspace) for name, below in step.inputs.items()}
    with workspace.lock(step.name, step.fingerprint):
        found = workspace.find(step.name, step.fingerprint)
        if found is not None:  # another process finished it while this one waited
            return Made(found, reused=True, seconds=0.0)
        resumed = workspace.started(step.name, step.fingerprint)
        folder = workspace.begin(step.name, step.fingerprint)
        _clear_leftovers(folder, step.kept)
        step.refuse_changes(workspace.hashes)
        begin = time.perf_counter()
        summary = step.build(Output(folder), inputs, context)
        seconds = time.perf_counter() - begin
        try:
            step.refuse_changes(workspace.hashes)
        except DataError:
            shutil.rmtree(folder)  # nobody knows which of its blocks saw the change
            raise
        artefact = workspace.finish(
            step.name,
            step.version,
            step.fingerprint,
            settings=step.settings,
            inputs={name: below.fingerprint for name, below in inputs.items()},
            summary=summary,
            seconds=seconds,
            resumed=resumed,
            versions=_versions(),
        )
    return Made(artefact, reused=False, seconds=seconds)
