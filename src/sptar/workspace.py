"""Where artefacts live: a folder each, named by a fingerprint of everything that caused it.

An artefact is finished when its manifest, written last, is there; anything else in its folder is
the unfinished work of a killed run, which the step may take up again. Nothing outside this module
makes up a path below the work folder.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sptar.errors import DataError, WorkspaceError
from sptar.identity import HashCache, hash_json
from sptar.io import read_json, write_json

__all__ = ["Artefact", "Manifest", "Workspace", "fingerprint"]

MANIFEST = "manifest.json"
PARTIAL = "unfinished"


def fingerprint(
    step: str, version: int, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> str:
    """Identity of an artefact: 16 hexadecimal digits over its causes.

    >>> fingerprint("split", 1, {"seed": 1}, {}) == fingerprint("split", 1, {"seed": 2}, {})
    False
    """
    causes = {
        "step": step,
        "version": version,
        "settings": dict(settings),
        "inputs": dict(inputs),
    }
    return hash_json(causes)[:16]


@dataclass(frozen=True)
class Manifest:
    """What an artefact was made from and what it holds."""

    step: str
    version: int
    fingerprint: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, int]
    summary: dict[str, Any]
    seconds: float
    resumed: bool
    finished_at: str
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artefact:
    """A finished artefact on disk."""

    folder: Path
    manifest: Manifest

    @property
    def fingerprint(self) -> str:
        """Identity of the artefact."""
        return self.manifest.fingerprint

    def path(self, name: str) -> Path:
        """Path of one of its files or folders.

        Raises:
            WorkspaceError: the artefact has no such file.
        """
        path = self.folder / name
        if not path.exists():
            raise WorkspaceError(
                f"The artefact {self.folder} has lost its file '{name}'.",
                hint="Remove that folder and run again; it is made anew.",
            )
        return path


class Workspace:
    """The work folder. Several processes may use it at once; one writes an artefact at a time."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @property
    def hashes(self) -> HashCache:
        """Cache of file hashes that belongs to this workspace."""
        return HashCache(self.root / "cache" / "hashes.json")

    def folder(self, step: str, identity: str) -> Path:
        """Folder of an artefact, finished or not."""
        return self.root / "artefacts" / f"{step}-{identity}"

    def run_folder(self, name: str) -> Path:
        """Folder of a named run: its config, its record and its report."""
        return self.root / "runs" / name

    def run_names(self) -> list[str]:
        """Names of all recorded runs, oldest first."""
        records = sorted(
            (self.root / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime
        )
        return [path.parent.name for path in records]

    def started(self, step: str, identity: str) -> bool:
        """Whether unfinished work of an artefact lies here."""
        folder = self.folder(step, identity)
        return folder.exists() and not (folder / MANIFEST).exists()

    def find(self, step: str, identity: str) -> Artefact | None:
        """The finished artefact, or None.

        Raises:
            WorkspaceError: its manifest is there but a file is missing or has another size.
        """
        folder = self.folder(step, identity)
        if not (folder / MANIFEST).exists():
            return None
        try:
            manifest = Manifest(**read_json(folder / MANIFEST))
        except (DataError, TypeError):
            raise WorkspaceError(
                f"The manifest of {folder} cannot be read.",
                hint="Remove that folder and run again; it is made anew.",
            ) from None
        for name, size in manifest.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise WorkspaceError(
                    f"The artefact {folder} is damaged: '{name}' is missing or has changed.",
                    hint="Remove that folder and run again; it is made anew.",
                )
        return Artefact(folder, manifest)

    @contextmanager
    def lock(self, step: str, identity: str) -> Iterator[None]:
        """Hold the right to write an artefact; freed by the system when the process dies.

        Raises:
            WorkspaceError: another process holds it.
        """
        path = self.root / "locks" / f"{step}-{identity}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as stream:
            try:
                import fcntl
            except ImportError:  # no such locks on Windows: the last writer's rename wins
                yield
                return
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                stream.seek(0)
                owner = stream.read().strip() or "unknown"
                raise WorkspaceError(
                    f"Another process ({owner}) is making '{step}' in {self.root}.",
                    hint="Wait for it, or give this run its own --work folder.",
                ) from None
            stream.truncate(0)
            stream.write(str(os.getpid()))
            stream.flush()
            try:
                yield
            finally:
                fcntl.flock(stream, fcntl.LOCK_UN)

    def finish(
        self,
        step: str,
        version: int,
        identity: str,
        *,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        summary: Mapping[str, Any],
        seconds: float,
        resumed: bool,
        versions: Mapping[str, str],
    ) -> Artefact:
        """Clear unfinished work away, write the manifest last and return the artefact."""
        folder = self.folder(step, identity)
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        files = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        }
        manifest = Manifest(
            step=step,
            version=version,
            fingerprint=identity,
            settings=dict(settings),
            inputs=dict(inputs),
            files=files,
            summary=dict(summary),
            seconds=round(seconds, 3),
            resumed=resumed,
            finished_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            versions=dict(versions),
        )
        write_json(folder / MANIFEST, asdict(manifest))
        return Artefact(folder, manifest)
