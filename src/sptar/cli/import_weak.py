"""``sptar import-weak``: weak queries that were written elsewhere enter at the filter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sptar.cli.options import WORK, Assignments, Config, Json, Work, load
from sptar.methods import TARGET

__all__ = ["import_weak"]


def import_weak(
    file: Annotated[Path, typer.Argument(help='JSONL rows: {"doc_id": "...", "text": "..."}.')],
    config: Config,
    method: Annotated[
        str, typer.Option("--method", help="Method whose weak queries these are.")
    ] = TARGET.name,
    assignments: Assignments = None,
    work: Work = WORK,
    as_json: Json = False,
) -> None:
    """Validate, rank and filter a file of weak queries, and say what is kept.

    To train on them, name the file in the config: `weak_queries: {METHOD: FILE}`.
    """
    from sptar.cli.output import TerminalProgress, print_json, print_table

    settings = load(
        config,
        [*(assignments or []), f"weak_queries={json.dumps({method: str(file.resolve())})}"],
    )
    if method not in settings.methods:
        settings = settings.model_copy(update={"methods": [*settings.methods, method]})
    from sptar.graph.methods import build_graph
    from sptar.steps.base import Context, make
    from sptar.workspace import Workspace

    workspace = Workspace(work)
    context = Context(workspace, TerminalProgress())
    # Retrievers share their method's filter; each cut-off has one of its own.
    filters = {
        graph.filter.fingerprint: graph.filter
        for graph in build_graph(settings, workspace).methods
        if graph.method == method and graph.filter is not None
    }
    found = []
    for last in filters.values():
        for step in last.upstream():
            made = make(step, context)
            if step is last or step.name == "import_weak":
                found.append(made.artefact)
    if as_json:
        print_json(
            [
                {"folder": str(artefact.folder), "summary": artefact.manifest.summary}
                for artefact in found
            ]
        )
        return
    for artefact in found:
        summary = dict(artefact.manifest.summary)
        rows = list(summary.pop("funnel", {}).items())
        print_table(artefact.manifest.step, ["", "value"], [*summary.items(), *rows])
    print(f"To train on them: sptar run {config} --set weak_queries.{method}={file}")
