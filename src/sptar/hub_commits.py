"""Which commit a name on the Hugging Face hub means now: names move on, commits do not."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Literal

from sptar.errors import DataError
from sptar.io import read_json, write_json

__all__ = ["NoCommitError", "hub_commit", "remembered_commit"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


class NoCommitError(Exception):
    """The hub gave no answer and nothing is cached; ``valid`` is whether the name can be one."""

    def __init__(self, reason: str, *, valid: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.valid = valid


def hub_commit(name: str, revision: str | None, kind: Literal["model", "dataset"]) -> str:
    """The commit that a hub name has now; where the hub is out of reach, the cached one.

    The libraries load by the same rule: what the hub has now, else what lies in the cache.

    Args:
        name: such as ``Qwen/Qwen2.5-0.5B``.
        revision: branch, tag or commit; by default the main branch.
        kind: of repository.

    Raises:
        NoCommitError: neither the hub nor the cache knows it.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        found = HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=20).sha
        if found:
            return str(found)
        reason = "it names no commit"
    except HFValidationError as error:
        raise NoCommitError(str(error), valid=False) from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    except Exception as error:  # the HTTP library underneath differs between versions
        reason = type(error).__name__
    cached = _cached_commit(name, revision, kind)
    if cached is None:
        raise NoCommitError(reason)
    return cached


def _cached_commit(name: str, revision: str | None, kind: str) -> str | None:
    """What the hub's own cache on this machine holds under the name."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}" / "refs"
    try:
        commit = (folder / (revision or "main")).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def remembered_commit(name: str, revision: str | None, file: Path | None) -> str | None:
    """The commit of a data set as :func:`hub_commit` says, kept in ``file`` for days without hub.

    Data sets are streamed and leave nothing in the hub's cache. ``None`` where neither knows it.
    """
    key = f"{name}@{revision or 'main'}"
    known: dict[str, str] = {}
    if file is not None and file.exists():
        try:
            held = read_json(file)
        except (DataError, OSError, UnicodeDecodeError):
            held = {}
        if isinstance(held, dict):
            known = {str(k): v for k, v in held.items() if _COMMIT.fullmatch(str(v))}
    try:
        commit = hub_commit(name, revision, "dataset")
    except NoCommitError:
        return known.get(key)
    if file is not None and known.get(key) != commit:
        with contextlib.suppress(OSError):  # a work folder that is only read serves as well
            write_json(file, {**known, key: commit})
    return commit
