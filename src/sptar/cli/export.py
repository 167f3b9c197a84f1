"""``sptar export``: a run's results, for use elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sptar.cli.options import WORK, Assignments, Config, Json, Work, load

__all__ = ["application"]

application = typer.Typer(no_args_is_help=True, help="Take a run's results out for use elsewhere.")


@application.callback()
def _group() -> None:
    """Kinds of exports."""


@application.command("soft-prompt")
def soft_prompt(
    config: Config,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Write a folder that PEFT loads.")
    ] = None,
    as_vocabulary: Annotated[
        Path | None,
        typer.Option(
            "--as-vocabulary",
            help="Write a plain checkpoint whose vocabulary holds the soft prompt: any engine "
            "serves it.",
        ),
    ] = None,
    assignments: Assignments = None,
    work: Work = WORK,
    as_json: Json = False,
) -> None:
    """Export the tuned soft prompt of a config."""
    from sptar.cli.output import TerminalProgress, print_json, print_table
    from sptar.errors import ConfigError
    from sptar.serve.soft_prompt_export import export_soft_prompt
    from sptar.steps.base import Context
    from sptar.workspace import Workspace

    target = folder if as_vocabulary is None else as_vocabulary
    if target is None or (folder is not None and as_vocabulary is not None):
        raise ConfigError(
            "Give one folder to write.", hint="Either --out FOLDER or --as-vocabulary FOLDER."
        )
    written = export_soft_prompt(
        load(config, assignments),
        Context(Workspace(work), TerminalProgress()),
        target,
        as_vocabulary=as_vocabulary is not None,
    )
    if as_json:
        print_json(written)
        return
    rows = [[name.replace("_", " "), value] for name, value in written.items()]
    print_table("Exported soft prompt", ["what", "value"], rows)
