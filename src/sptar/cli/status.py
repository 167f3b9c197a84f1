"""``sptar status``: what lies in a work folder."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sptar.cli.options import WORK, Json, Work

__all__ = ["status"]


def status(
    run: Annotated[
        str | None, typer.Argument(help="Name of a run; without it, all runs are listed.")
    ] = None,
    work: Work = WORK,
    as_json: Json = False,
) -> None:
    """Show the runs of a work folder, or the steps of one run."""
    from sptar.cli.output import print_json, print_table
    from sptar.errors import WorkspaceError
    from sptar.io import read_json
    from sptar.workspace import Workspace

    workspace = Workspace(work)
    names = workspace.run_names()
    if run is not None and run not in names:
        known = ", ".join(names) or "none"
        raise WorkspaceError(f"There is no run '{run}' in {work} (there: {known}).")
    records = {
        name: read_json(workspace.run_folder(name) / "run.json")
        for name in (names if run is None else [run])
    }
    if as_json:
        print_json(records if run is None else records[run])
        return
    if run is None:
        rows = [
            [
                name,
                "finished" if record["finished"] else "not finished",
                len(record["steps"]),
                *_methods(record),
            ]
            for name, record in records.items()
        ]
        columns = ["run", "state", "steps made", "methods", "retrievers"]
        print_table(f"Runs in {work}", columns, rows)
        return
    rows = [
        [
            step["name"],
            step["fingerprint"],
            "reused" if step["reused"] else "made",
            f"{step['seconds']:.1f}",
        ]
        for step in records[run]["steps"]
    ]
    print_table(f"Run '{run}'", ["step", "fingerprint", "state", "seconds"], rows)


def _methods(record: dict[str, Any]) -> tuple[str, str]:
    """Methods and retrievers of a run, each once."""
    parts = record.get("parts")
    if not parts:  # a record of the time when there was one retriever
        return ", ".join(record["methods"]), "dpr"
    methods = dict.fromkeys(name.partition("/")[0] for name in parts)
    retrievers = dict.fromkeys(part["retriever"] for part in parts.values() if part["retriever"])
    return ", ".join(methods), ", ".join(retrievers)
