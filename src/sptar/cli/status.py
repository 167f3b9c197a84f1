"""``sptar status``: what lies in a work folder."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sptar.cli.options import WORK, Json, Work

if TYPE_CHECKING:
    from sptar.pipeline import RunRecord
    from sptar.workspace import Workspace

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
    from sptar.workspace import Workspace

    workspace = Workspace(work)
    names = workspace.run_names()
    if run is not None and run not in names:
        known = ", ".join(names) or "none"
        raise WorkspaceError(f"There is no run '{run}' in {work} (there: {known}).")
    records = {name: _records(workspace, name) for name in (names if run is None else [run])}
    if as_json:
        plain = {name: _as_one(found) for name, found in records.items()}
        print_json(plain if run is None else plain[run])
        return
    if run is None:
        rows = [
            [name, state, len(record.steps), *_methods(record)]
            for name, found in records.items()
            for state, record in found.items()
        ]
        columns = ["run", "state", "steps made", "methods", "retrievers"]
        print_table(f"Runs in {work}", columns, rows)
        return
    for state, record in records[run].items():
        rows = [
            [
                step.name,
                step.fingerprint,
                "reused" if step.reused else "made",
                f"{step.seconds:.1f}",
            ]
            for step in record.steps
        ]
        print_table(f"Run '{run}', {state}", ["step", "fingerprint", "state", "seconds"], rows)


def _records(workspace: Workspace, name: str) -> dict[str, RunRecord]:
    """State → record: of the finished run, of the one that is under way or was stopped, or both."""
    from sptar.pipeline import load_record, unfinished_record

    found = {}
    first = load_record(workspace, name)
    if first.finished:
        found["finished"] = first
    other = unfinished_record(workspace, name)
    if other is not None:
        found["under way" if workspace.locked("run", name) else "not finished"] = other
    return found


def _as_one(found: dict[str, RunRecord]) -> dict[str, Any]:
    """The first record; a second one stands in it under ``unfinished``."""
    plain = [{**dataclasses.asdict(record), "state": state} for state, record in found.items()]
    return plain[0] if len(plain) == 1 else {**plain[0], "unfinished": plain[1]}


def _methods(record: RunRecord) -> tuple[str, str]:
    """Methods and retrievers of a run, each once."""
    if not record.parts:  # a record of the time when there was one retriever
        return ", ".join(record.methods), "dpr"
    methods = dict.fromkeys(name.partition("/")[0] for name in record.parts)
    retrievers = dict.fromkeys(
        part["retriever"] for part in record.parts.values() if part["retriever"]
    )
    return ", ".join(methods), ", ".join(retrievers)
