"""Where artefacts live: a folder each, named by a fingerprint of everything that caused it.

An artefact is finished when its manifest, written last, is there; anything else in its folder is
the unfinished work of a killed run, which the step may take up again. The manifest holds a SHA-256
of each file, and a seal over itself: what is read is what was written. Nothing outside this module
and ``run_folders`` makes up a path below the work folder.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sptar.errors import DataError, WorkspaceError
from sptar.identity import HashCache, Stamp, hash_json, stamp_of
from sptar.io import read_json, read_sealed, write_sealed
from sptar.locks import hold, is_held, refuse_link
from sptar.run_folders import RunFolder, recorded_runs

__all__ = ["Artefact", "Manifest", "Workspace", "fingerprint"]

MANIFEST = "manifest.json"
PARTIAL = "unfinished"

_READ_EACH_TIME = 64 << 20
"""Bytes of an artefact up to which every process that reads it hashes it once, at more than a
gigabyte a second. Of larger ones a file is hashed again when its stamp has changed."""
_checked: dict[Path, Stamp] = {}
"""Files whose content this process has compared with its hash, and the stamp that they had."""


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
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file; empty in manifests of the time before they were kept."""


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
        """Path of one of its files or folders, to be read: the content is compared with its hash.

        Raises:
            WorkspaceError: the artefact has no such file, or another content than it was made with.
        """
        path = self.folder / name
        if not path.exists():
            raise self._damaged(name, "is missing")
        stamps = {
            file: self._stamp(file)
            for file in self.manifest.hashes
            if file == name or file.startswith(f"{name}/")
        }
        unread = [file for file in stamps if _checked.get(self.folder / file) != stamps[file]]
        if unread:
            small = sum(self.manifest.files.values()) <= _READ_EACH_TIME
            cache = HashCache(None if small else _hash_file(self.folder.parents[1]))
            for file in unread:
                if cache.file(self.folder / file) != self.manifest.hashes[file]:
                    raise self._damaged(file, "has changed since it was written")
                _checked[self.folder / file] = stamps[file]
        return path

    def clear_unfinished(self) -> None:
        """Remove the blocks and checkpoints that it was made from; a killed run may leave them."""
        shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)

    def _stamp(self, file: str) -> Stamp:
        try:
            return stamp_of(self.folder / file)
        except OSError:
            raise self._damaged(file, "is missing") from None

    def _damaged(self, file: str, how: str) -> WorkspaceError:
        return WorkspaceError(
            f"The artefact {self.folder} is damaged: '{file}' {how}.",
            hint="Remove that folder and run again; it is made anew.",
        )

    def faults(self) -> list[str]:
        """What is not as it was written, every file read anew; a few words for each."""
        hashes = self.manifest.hashes
        if not hashes and self.manifest.files:
            return ["cannot be verified: it was made before hashes of files were kept"]
        there = {path.relative_to(self.folder).as_posix(): path for path in _files_of(self.folder)}
        found = []
        for name, digest in hashes.items():
            if name not in there:
                found.append(f"'{name}' is missing")
            else:
                try:
                    if HashCache().file(there[name]) != digest:
                        found.append(f"'{name}' has changed since it was written")
                except OSError as error:
                    found.append(f"'{name}' cannot be read ({error.strerror})")
        strangers = sorted(there.keys() - hashes.keys())
        return [*found, *(f"'{name}' does not belong to it" for name in strangers)]


def _files_of(folder: Path) -> Iterator[Path]:
    """The files of a finished artefact, in order: not its manifest, nor what a killed run left."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0] not in (PARTIAL, MANIFEST) and not parts[-1].startswith("."):
            yield path


def _hash_file(root: Path) -> Path:
    return root / "cache" / "hashes.json"


class Workspace:
    """The work folder. Several processes may use it at once; one writes an artefact at a time."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()

    @cached_property
    def hashes(self) -> HashCache:
        """Cache of file hashes that belongs to this workspace."""
        return HashCache(_hash_file(self.root))

    def is_read_only(self) -> bool:
        """Whether the folder is there and this process may not write into it."""
        if not self.root.is_dir():
            return False
        try:
            with tempfile.TemporaryFile(dir=self.root):
                return False
        except OSError as error:
            return error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)

    def folder(self, step: str, identity: str) -> Path:
        """Folder of an artefact, finished or not."""
        return self.root / "artefacts" / f"{step}-{identity}"

    def run(self, name: str) -> RunFolder:
        """Folder of a named run, and its draft."""
        return RunFolder(self.root / "runs", name)

    @property
    def trials(self) -> Path:
        """Folder of what was tried once and holds for this work folder (:mod:`sptar.trials`)."""
        return self.root / "trials"

    def manifests(self, steps: Collection[str]) -> list[Manifest]:
        """Manifests of all finished artefacts of these steps, as far as they can be read."""
        found = []
        for path in sorted((self.root / "artefacts").glob(f"*/{MANIFEST}")):
            try:
                manifest = _read_manifest(path)
            except WorkspaceError:
                continue
            if manifest.step in steps:
                found.append(manifest)
        return found

    def run_folder(self, name: str) -> Path:
        """Folder of a named run that has finished: its config, its record and its report."""
        return self.run(name).place

    def run_names(self) -> list[str]:
        """Names of all recorded runs, oldest first."""
        return recorded_runs(self.root / "runs")

    def started(self, step: str, identity: str) -> bool:
        """Whether unfinished work of an artefact lies here."""
        folder = self.folder(step, identity)
        return folder.exists() and not (folder / MANIFEST).exists()

    def find(self, step: str, identity: str) -> Artefact | None:
        """The finished artefact, or None.

        Raises:
            WorkspaceError: its manifest is there but damaged, or a file is missing or has another
                size.
        """
        folder = self.folder(step, identity)
        if not (folder / MANIFEST).exists():
            return None
        self._refuse_links(folder)
        artefact = self._open(folder)
        if (artefact.manifest.step, artefact.fingerprint) != (step, identity):
            raise artefact._damaged(MANIFEST, "belongs to another artefact")
        for name, size in artefact.manifest.files.items():
            path = folder / name
            if not path.is_file():
                raise artefact._damaged(name, "is missing")
            if path.stat().st_size != size:
                raise artefact._damaged(name, "has changed since it was written")
        return artefact

    @staticmethod
    def _open(folder: Path) -> Artefact:
        return Artefact(folder, _read_manifest(folder / MANIFEST))

    @staticmethod
    def _refuse_links(folder: Path) -> None:
        """An artefact behind a link would be emptied or written somewhere else."""
        for path in (folder.parent, folder, folder / PARTIAL):
            refuse_link(path)

    def begin(self, step: str, identity: str) -> Path:
        """The folder to fill, made if it is not there.

        Raises:
            WorkspaceError: it is a symbolic link, or lies behind one of the work folder's.
        """
        folder = self.folder(step, identity)
        self._refuse_links(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def lock(self, step: str, identity: str) -> Iterator[None]:
        """Hold the right to write an artefact; freed by the system when the process dies.

        Raises:
            WorkspaceError: another process holds it, or workers of one are still writing.
        """
        with hold(self.folder(step, identity), f"'{step}' in {self.root}"):
            yield

    def artefacts(self) -> Iterator[Path]:
        """Folders of all artefacts, finished or not, in the order of their names."""
        refuse_link(self.root / "artefacts")
        for folder in sorted((self.root / "artefacts").glob("*")):
            if folder.is_dir() and not folder.name.startswith("."):
                yield folder

    def is_finished(self, folder: Path) -> bool:
        """Whether one of these folders holds a finished artefact."""
        return (folder / MANIFEST).exists()

    def faults(self, folder: Path) -> list[str]:
        """What of a finished artefact is not as it was written; a few words for each fault."""
        step, _, identity = folder.name.rpartition("-")
        try:
            self._refuse_links(folder)
            artefact = self._open(folder)
        except WorkspaceError as error:
            return [error.message]
        found = artefact.faults()
        if (artefact.manifest.step, artefact.fingerprint) != (step, identity):
            found.append(f"'{MANIFEST}' belongs to another artefact")
        return found

    def locked(self, step: str, identity: str) -> bool:
        """Whether a process holds the right to write an artefact now."""
        return is_held(self.folder(step, identity))

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
        """Write the manifest last, clear unfinished work away and return the artefact.

        In this order: a process that is killed between the two has finished all the same.
        """
        folder = self.folder(step, identity)
        files = {path.relative_to(folder).as_posix(): path for path in _files_of(folder)}
        hashes = {}
        # Who may look into the folder may read its files; safetensors writes for the owner alone.
        readers = folder.stat().st_mode & 0o444
        for name, path in files.items():
            mode = path.stat().st_mode
            if mode | readers != mode:
                path.chmod(mode | readers)
            stamp = stamp_of(path)
            hashes[name] = self.hashes.file(path)
            _checked[path] = stamp
        manifest = Manifest(
            step=step,
            version=version,
            fingerprint=identity,
            settings=dict(settings),
            inputs=dict(inputs),
            files={name: path.stat().st_size for name, path in files.items()},
            summary=dict(summary),
            seconds=round(seconds, 3),
            resumed=resumed,
            finished_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            versions=dict(versions),
            hashes=hashes,
        )
        write_sealed(folder / MANIFEST, asdict(manifest))
        made = Artefact(folder, manifest)
        made.clear_unfinished()
        return made


def _read_manifest(path: Path) -> Manifest:
    """A manifest as it was written; one from before they were sealed as it is."""
    try:
        value = read_json(path)
        if not (isinstance(value, dict) and "hashes" not in value):
            value = read_sealed(path)
        return Manifest(**value)
    except (DataError, TypeError):
        raise WorkspaceError(
            f"The manifest of {path.parent} is damaged.",
            hint="Remove that folder and run again; it is made anew.",
        ) from None
