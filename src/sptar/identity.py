"""What a thing *is*, told by its content: hashes of files, folders and models.

Fingerprints of artefacts are built from these, so a renamed folder is the same model and a changed
file under an old name is another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sptar.errors import DataError, ModelError
from sptar.hub_commits import NoCommitError, hub_commit
from sptar.io import read_sealed, write_sealed
from sptar.packaged import refuse_missing

__all__ = [
    "HashCache",
    "Stamp",
    "changed_meanwhile",
    "hash_json",
    "model_content",
    "model_identity",
    "stamp_of",
]

_CHUNK = 1 << 22


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys.

    >>> hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


Stamp = tuple[int, int, int, int]
"""Size, times of the last change of content and of the file's entry in nanoseconds, its number."""

_SMALL = 1 << 20
"""Files up to this size are read each time: a stamp is coarser than a quick edit."""
_SETTLED = 2_000_000_000
"""Nanoseconds after its last change from which on a file's stamp is trusted: within one tick of the
clock (2 s on some file systems) a further change would leave the same stamp."""
_TRIES = 5


def stamp_of(path: Path) -> Stamp:
    """What changes whenever a file does. Nobody can set the time of the entry by hand."""
    status = path.stat()
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class HashCache:
    """Hashes of files and folders.

    A large file is read once: while its stamp stays, its hash is remembered, also in the file
    ``path`` for later processes. Where that cannot be written or read, nothing is lost but time.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._path = path
        self._seen: dict[str, tuple[str, bool]] = {}
        self._known: dict[str, tuple[Stamp, str]] = {} if path is None else _read_cache(path)

    def file(self, path: str | Path) -> str:
        """SHA-256 of a file's bytes.

        Raises:
            DataError: the file keeps changing while it is read.
        """
        path = Path(path).resolve()
        for _ in range(_TRIES):
            stamp = stamp_of(path)
            known = self._known.get(str(path))
            if known is not None and known[0] == stamp:
                return known[1]
            digest = _hash_file(path)
            if stamp_of(path) == stamp:
                break
        else:
            raise DataError(
                "the file changes while it is read.",
                path=path,
                hint="Wait until nothing writes it any more, then run again.",
            )
        if stamp[0] > _SMALL and time.time_ns() - max(stamp[1], stamp[2]) > _SETTLED:
            self._known[str(path)] = (stamp, digest)
            self._save()
        return digest

    def _save(self) -> None:
        if self._path is None:
            return
        # A folder that is only read serves as well as before.
        with contextlib.suppress(OSError):
            write_sealed(self._path, {"files": self._known})

    def folder(self, path: str | Path, *, model: bool = False) -> str:
        """SHA-256 over names and bytes of all files below a folder, hidden ones left out; of a
        ``model`` also those that nothing here reads.
        """
        path = Path(path)
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            relative = file.relative_to(path)
            if not file.is_file() or any(part.startswith(".") for part in relative.parts):
                continue
            if model and _is_beside_the_model(relative):
                continue
            digest.update(f"{relative.as_posix()}\0{self.file(file)}\n".encode())
        return digest.hexdigest()

    def content(self, path: str | Path, *, model: bool = False) -> str:
        """SHA-256 of a file or a folder; of a ``model`` see :meth:`folder`.

        Raises:
            DataError: there is nothing at ``path``.
        """
        path = Path(path)
        if path.is_dir():
            found = self.folder(path, model=model)
        elif path.is_file():
            found = self.file(path)
        else:
            raise DataError(
                "there is no such file or folder.",
                path=path,
                hint="Check the path in the config.",
            )
        self._seen.setdefault(str(path.resolve()), (found, model))
        return found

    def refuse_changes(self, paths: Iterable[str | Path]) -> None:
        """Make sure that what was hashed of these still holds what it held then.

        A name that stands for no file or folder here (a model of the hub) is passed over.

        Raises:
            DataError: one of them has changed or is gone.
        """
        for path in (Path(name).expanduser() for name in paths):
            before = self._seen.get(str(path.resolve()))
            if before is None:
                continue
            digest, model = before
            if not path.exists() or self.content(path, model=model) != digest:
                raise changed_meanwhile(path)


def changed_meanwhile(path: str | Path) -> DataError:
    """The error for an input that is not what it was when a run began."""
    return DataError(
        "this has changed since the run began; what was being made from it is not kept.",
        path=path,
        hint="Run again when nothing writes it any more.",
    )


def _read_cache(path: Path) -> dict[str, tuple[Stamp, str]]:
    try:
        files = read_sealed(path)["files"]
        return {
            str(name): ((int(size), int(content), int(entry), int(number)), str(digest))
            for name, ((size, content, entry, number), digest) in files.items()
        }
    except (OSError, DataError, AttributeError, KeyError, TypeError, ValueError):
        return {}  # it is only slower


_WORDS = frozenset(
    {".md", ".rst", ".pdf", ".html", ".csv", ".log", ".ipynb", ".bib"}
    | {".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp"}
)
_OTHER_WEIGHTS = frozenset({".onnx", ".onnx_data", ".h5", ".msgpack", ".ot", ".tflite", ".gguf"})
_OF_TRAINING = re.compile(
    r"(training_args\.bin|trainer_state\.json|(optimizer|scheduler|scaler|rng_state[\w-]*)\.pt[h]?"
    r"|all_results\.json|(train|eval)_results\.json)"
)
_LEGAL = re.compile(r"(readme|licen[sc]e|notice|copying|use_policy|authors)", re.IGNORECASE)


def _is_beside_the_model(file: Path) -> bool:
    """Whether a file of a model's folder is for people, other libraries or a training to go on:
    nothing here reads it, so it changes no result.

    >>> [_is_beside_the_model(Path(name)) for name in ("README.md", "vocab.txt", "model.py")]
    [True, False, False]
    """
    return (
        file.suffix.lower() in _WORDS | _OTHER_WEIGHTS
        or _OF_TRAINING.fullmatch(file.name) is not None
        or (file.suffix.lower() in ("", ".txt") and _LEGAL.match(file.name) is not None)
    )


def model_content(path: str | Path, cache: HashCache) -> str:
    """SHA-256 of what a model's or adapter's folder (or file) holds and somebody here reads.

    Raises:
        DataError: there is nothing at ``path``.
    """
    return cache.content(path, model=True)


def model_identity(name: str, revision: str | None, cache: HashCache) -> str:
    """The identity of a model: the content of a folder, or the commit of a hub repository.

    Raises:
        ModelError: neither a folder nor a repository that can be reached or is cached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return "folder:" + model_content(path, cache)
    refuse_missing(name)
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1 or not name:
        raise ModelError(
            f"There is no model folder {name!r}.",
            hint="Give an existing folder, or a hub name such as 'Qwen/Qwen2.5-0.5B'.",
        )
    return f"hub:{name}@{_hub_commit(name, revision)}"


def _hub_commit(name: str, revision: str | None) -> str:
    try:
        return hub_commit(name, revision, "model")
    except NoCommitError as error:
        if not error.valid:
            raise ModelError(f"{name!r} is neither a folder nor a valid hub name.") from None
        raise ModelError(
            f"The model {name!r} is no folder here and the Hugging Face hub gave no answer "
            f"({error.reason}).",
            hint="Check the name and the network, or download the model and give its folder.",
        ) from None
