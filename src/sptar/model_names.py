"""What a model is called elsewhere: no paths of this machine leave it."""

from __future__ import annotations

import re
from pathlib import Path

from sptar.errors import DataError
from sptar.io import lines, read_json
from sptar.packaged import folder_of, name_of

__all__ = ["licence_of", "public_name"]

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
_LICENCE = re.compile(r"license:\s*[\"']?([\w.+-]+)")


def public_name(model: str) -> str:
    """The name under which others may know a model.

    A hub name stays as it is. A folder has the hub name of the cache that it lies in, or the one
    that its ``config.json`` tells, else its own name without the path; a model of this package has
    its name here.

    >>> public_name("Qwen/Qwen2.5-0.5B"), public_name("/data/models/my-model/")
    ('Qwen/Qwen2.5-0.5B', 'my-model')
    >>> public_name("~/.cache/hub/models--org--tiny.en/snapshots/0123abc")
    'org/tiny.en'
    >>> public_name("starter:encoder")
    'starter-encoder'
    """
    if not model:
        return ""
    known = name_of(folder_of(model))
    if known.startswith("starter:"):
        return known.replace(":", "-")
    path = Path(model)
    for part in path.parts:
        cached = _CACHED.fullmatch(part)
        if cached is not None:
            return f"{cached[1]}/{cached[2]}"
    if not path.is_dir():
        return model if _HUB_NAME.fullmatch(model) else path.name
    try:
        told = read_json(path / "config.json").get("_name_or_path")
    except (OSError, DataError, AttributeError):
        told = None
    if isinstance(told, str) and _HUB_NAME.fullmatch(told) and not Path(told).exists():
        return told
    return path.resolve().name


def licence_of(model: str) -> str | None:
    """The licence that the card of a model states, if the card lies on this machine."""
    card: Path | None = Path(folder_of(model)) / "README.md"
    if not Path(folder_of(model)).is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(model, "README.md")
        except HFValidationError:
            return None
        card = Path(found) if isinstance(found, str) else None
    if card is None or not card.is_file():
        return None
    try:
        for number, text in lines(card):
            stated = _LICENCE.match(text)
            if stated is not None:
                return stated[1].lower()
            if number > 1 and text.strip() == "---":
                return None
    except DataError:
        return None
    return None
