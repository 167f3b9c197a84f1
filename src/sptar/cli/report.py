"""``sptar report``: write the page of a run again from its artefacts."""

from __future__ import annotations

from typing import Annotated

import typer

from sptar.cli.options import WORK, Json, Work

__all__ = ["report"]


def report(
    run: Annotated[str, typer.Argument(help="Name of the run; see `sptar status`.")],
    work: Work = WORK,
    as_json: Json = False,
) -> None:
    """Write the HTML page and the tables of a finished run again. Computes nothing."""
    from sptar.cli.output import print_json
    from sptar.pipeline import load_record
    from sptar.report.collect import write_report
    from sptar.workspace import Workspace

    workspace = Workspace(work)
    written = write_report(workspace, load_record(workspace, run))
    if as_json:
        print_json(written.to_json())
    else:
        print(f"Report: {written.page}")
