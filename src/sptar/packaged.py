"""Settings that name a file, a folder or a model, and names for what lies inside the package.

``starter:transport``, ``starter:encoder`` and others stand wherever a config or the command line
takes a collection, a language model or a start encoder. From there on they are ordinary folders,
told apart by their content like any other; where a config is written down again, the name stands
there and not a path of this machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer

from sptar.errors import ConfigError, ModelError

__all__ = [
    "PLACES",
    "FilePlace",
    "PathMark",
    "Place",
    "folder_of",
    "is_remote",
    "name_of",
    "refuse_missing",
]

_PREFIX = "starter:"
_STARTER = Path(__file__).parent / "starter"

PLACES: dict[str, Path] = {
    "starter:transport": _STARTER / "transport_collection",
    "starter:toy": _STARTER / "toy_collection",
    "starter:language-model": _STARTER / "models" / "language_model",
    "starter:encoder": _STARTER / "models" / "encoder",
}
"""Name → folder."""


def folder_of(name: str) -> str:
    """The folder that a name of this package stands for; any other text stays as it is.

    The folder need not be there: an installation can lack the models (see :func:`refuse_missing`).

    Raises:
        ConfigError: the package has nothing of this name.
    """
    if not name.startswith(_PREFIX):
        return name
    if name not in PLACES:
        raise ConfigError(f"There is no '{name}' in the package; it has {', '.join(PLACES)}.")
    return str(PLACES[name])


def name_of(folder: str) -> str:
    """The name that stands for a folder of this package; any other text stays as it is."""
    return next((name for name, place in PLACES.items() if str(place) == folder), folder)


def refuse_missing(folder: str) -> None:
    """Say so when ``folder`` belongs to this package and this installation lacks it.

    Raises:
        ModelError: it does.
    """
    name = name_of(folder)
    if name != folder and not Path(folder).is_dir():
        raise ModelError(
            f"'{name}' is not there: this installation of sptar came without its models.",
            hint="Install it from the repository, or name a folder or a hub model instead.",
        )


def is_remote(name: str) -> bool:
    """Whether a name says where it is to be had: ``hf:``, ``ir:`` or in this package."""
    return name.startswith(("hf:", "ir:", _PREFIX))


@dataclass(frozen=True)
class PathMark:
    """Marks the type of a setting that may name something in the file system."""


def _expanded(value: str) -> str:
    """A path with its ``~`` resolved; ``hf:`` may stand before a folder too."""
    if not value.strip():
        raise ValueError("the text is empty: name a file or folder, or leave the setting out")
    kind, name = ("hf:", value[3:]) if value.startswith("hf:") else ("", value)
    if name.startswith("~"):  # nothing else is touched: './x' is a folder, 'x' a hub name
        try:
            name = str(Path(name).expanduser())
        except RuntimeError:
            raise ValueError(f"there is no home folder for '{name}'") from None
    return kind + name


def _checked(value: str) -> str:
    try:
        return folder_of(value)
    except ConfigError as error:
        # The reader of a config gathers such sentences and puts file and key in front of them.
        sentence = error.message.removesuffix(".")
        raise ValueError(sentence[:1].lower() + sentence[1:]) from None


FilePlace = Annotated[str, AfterValidator(_expanded), PathMark()]
"""A setting that names a file or folder of this machine."""

Place = Annotated[
    str,
    AfterValidator(_expanded),
    AfterValidator(_checked),
    PlainSerializer(name_of, return_type=str, when_used="json"),
    PathMark(),
]
"""A setting that names a folder, something on a hub, or something in this package: the folder in
the program, the name in what is written."""
