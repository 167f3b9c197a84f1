"""Options that many verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sptar.config import RunConfig

__all__ = ["Assignments", "Config", "Json", "Work", "load"]

Config = Annotated[Path, typer.Argument(help="YAML file of the experiment.", show_default=False)]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, e.g. --set tune.epochs=20. May be repeated.",
    ),
]
Work = Annotated[
    Path, typer.Option("--work", help="Folder of artefacts and results, made if missing.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]

WORK = Path("sptar-work")


def load(config: Path, assignments: list[str] | None) -> RunConfig:
    """The config file with its assignments."""
    from sptar.config import load_config

    return load_config(config, assignments or [])
