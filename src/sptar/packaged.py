"""Names for what lies inside the package: ``starter:transport``, ``starter:encoder`` and others.

They stand wherever a config or the command line takes a collection, a language model or a start
encoder. From there on they are ordinary folders, told apart by their content like any other; where
a config is written down again, the name stands there and not a path of this machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer

from sptar.errors import ConfigError, ModelError

__all__ = ["PLACES", "Place", "folder_of", "name_of", "refuse_missing"]

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


def _checked(value: str) -> str:
    try:
        return folder_of(value)
    except ConfigError as error:
        # The reader of a config gathers such sentences and puts file and key in front of them.
        sentence = error.message.removesuffix(".")
        raise ValueError(sentence[:1].lower() + sentence[1:]) from None


Place = Annotated[
    str, AfterValidator(_checked), PlainSerializer(name_of, return_type=str, when_used="json")
]
"""A setting that may hold such a name: the folder in the program, the name in what is written."""
