"""What a thing *is*, told by its content: hashes of files, folders and models.

Fingerprints of artefacts are built from these, so a renamed folder is the same model and a changed
file under an old name is another one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sptar.errors import DataError, ModelError
from sptar.io import read_json, write_json
from sptar.packaged import refuse_missing

__all__ = ["HashCache", "hash_json", "model_identity"]

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


class HashCache:
    """Hashes files once: a file with the same path, size and time stamp is not read again."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        if path is not None and path.exists():
            try:
                self._known = read_json(path)
            except DataError:
                self._known = {}

    def file(self, path: str | Path) -> str:
        """SHA-256 of a file's bytes."""
        path = Path(path).resolve()
        stamp = path.stat()
        known = self._known.get(str(path))
        if known is not None and known[:2] == [stamp.st_size, stamp.st_mtime_ns]:
            return str(known[2])
        digest = _hash_file(path)
        self._known[str(path)] = [stamp.st_size, stamp.st_mtime_ns, digest]
        if self._path is not None:
            write_json(self._path, self._known)
        return digest

    def folder(self, path: str | Path) -> str:
        """SHA-256 over names and bytes of all files below a folder, hidden ones left out."""
        path = Path(path)
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            relative = file.relative_to(path)
            if not file.is_file() or any(part.startswith(".") for part in relative.parts):
                continue
            digest.update(f"{relative.as_posix()}\0{self.file(file)}\n".encode())
        return digest.hexdigest()

    def content(self, path: str | Path) -> str:
        """SHA-256 of a file or a folder.

        Raises:
            DataError: there is nothing at ``path``.
        """
        path = Path(path)
        if path.is_dir():
            return self.folder(path)
        if path.is_file():
            return self.file(path)
        raise DataError(
            "there is no such file or folder.", path=path, hint="Check the path in the config."
        )


def model_identity(name: str, revision: str | None, cache: HashCache) -> str:
    """The identity of a model: the content of a folder, or the commit of a hub repository.

    Raises:
        ModelError: neither a folder nor a repository that can be reached or is cached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return "folder:" + cache.folder(path)
    refuse_missing(name)
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1 or not name:
        raise ModelError(
            f"There is no model folder {name!r}.",
            hint="Give an existing folder, or a hub name such as 'Qwen/Qwen2.5-0.5B'.",
        )
    return f"hub:{name}@{_hub_commit(name, revision)}"


def _hub_commit(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        commit = HfApi().model_info(name, revision=revision, timeout=20).sha
    except HFValidationError:
        raise ModelError(f"{name!r} is neither a folder nor a valid hub name.") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"The model {name!r} is no folder here and the Hugging Face hub gave no answer "
            f"({reason}).",
            hint="Check the name and the network, or download the model and give its folder.",
        ) from None
    except Exception as error:  # the HTTP library underneath differs between versions
        raise ModelError(
            f"The model {name!r} is no folder here and the Hugging Face hub cannot be reached "
            f"({type(error).__name__}).",
            hint="Download the model elsewhere and give its folder.",
        ) from None
    return str(commit)
