"""Options that many verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sptar.config import RunConfig

__all__ = ["Assignments", "Config", "EqualPairs", "Json", "Work", "load"]

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
EqualPairs = Annotated[
    bool,
    typer.Option(
        "--equal-pairs",
        help="Give every augmenting method the same number of weak pairs (equal_pairs: true).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]

WORK = Path("sptar-work")


def load(config: Path, assignments: list[str] | None, *, equal_pairs: bool = False) -> RunConfig:
    """The config file with its assignments."""
    from sptar.config import load_config

    extra = ["equal_pairs=true"] if equal_pairs else []
    return load_config(config, [*(assignments or []), *extra])
