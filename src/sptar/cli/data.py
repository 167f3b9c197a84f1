"""``sptar data check``: look a collection over before anything is run on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sptar.cli.options import Json

__all__ = ["application", "check"]

application = typer.Typer(
    help="Look at data.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


@application.callback()
def _data() -> None:
    """Look at data."""


@application.command("check")
def check(
    source: Annotated[
        str,
        typer.Argument(
            help="A BEIR folder, hf:NAME, ir:NAME, starter:NAME, or a config's YAML file."
        ),
    ],
    on_error: Annotated[
        str,
        typer.Option(
            "--on-error",
            help="`report` lists every problem; `stop` ends at the first; `skip` counts only.",
        ),
    ] = "report",
    as_json: Json = False,
) -> None:
    """Count, measure and list every problem of a collection, in one table.

    Leaves with 2 when there are broken rows (unless --on-error skip).
    """
    from sptar.cli.output import TerminalProgress, print_json, print_table
    from sptar.config import DataConfig, load_config
    from sptar.data.validate import check as check_collection
    from sptar.errors import ConfigError
    from sptar.packaged import folder_of

    if on_error not in ("report", "stop", "skip"):
        raise ConfigError(f"--on-error {on_error}: choose `report`, `stop` or `skip`.")
    if not source.strip():
        raise ConfigError(
            "The source is empty.", hint="Type: sptar data check FOLDER, or sptar data check CONFIG"
        )
    mode: Literal["stop", "skip"] = "stop" if on_error == "stop" else "skip"
    if Path(source).suffix.lower() in (".yaml", ".yml"):
        data = load_config(source).data.model_copy(update={"on_error": mode})
    else:
        data = DataConfig(source=folder_of(source), on_error=mode)
    progress = TerminalProgress()
    if mode == "stop":
        import tempfile

        from sptar.data.sources import convert

        with tempfile.TemporaryDirectory() as folder:
            report = convert(data, Path(folder) / "collection", progress)
    else:
        report = check_collection(data, progress)
    if as_json:
        print_json(report.to_json())
    elif not report.documents and not report.queries:
        # Nothing could be read: why is all that matters, and a table of zeros would hide it.
        for problem in report.problems:
            for example in problem.examples:
                print(example)
    else:
        print_table(f"Collection {source}", ["", "value"], report.to_rows())
    if on_error == "report" and not report.ok:
        raise typer.Exit(2)
