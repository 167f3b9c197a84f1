"""``sptar doctor``: checks that something outside does what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sptar.cli.options import WORK, Assignments, Config, Json, Work, load

__all__ = ["application"]

application = typer.Typer(
    no_args_is_help=True, help="Check models, and engines against the built-in one."
)

_SHOWN = 5


@application.callback()
def _group() -> None:
    """Kinds of checks."""


@application.command("generation")
def generation(
    config: Config,
    documents: Annotated[int, typer.Option("--documents", min=1, help="Documents to try.")] = 16,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            help="Check this exported checkpoint with plain transformers instead of a server.",
        ),
    ] = None,
    assignments: Assignments = None,
    work: Work = WORK,
    as_json: Json = False,
) -> None:
    """Compare another engine's greedy text with the built-in engine's; exit code 1 if it differs.

    In float32 all texts should agree. In bfloat16 some differ: rounding turns near ties around.
    """
    from sptar.cli.output import TerminalProgress, print_json, print_table
    from sptar.serve.engine_check import check_engine
    from sptar.steps.base import Context
    from sptar.workspace import Workspace

    checked = check_engine(
        load(config, assignments), Context(Workspace(work), TerminalProgress()), documents, export
    )
    if as_json:
        print_json(checked.to_json())
    else:
        title = f"{checked.engine}: {checked.equal} of {checked.documents} texts agree"
        rows = [[item.doc_id, item.built_in, item.other] for item in checked.differences[:_SHOWN]]
        print_table(title, ["document", "built-in engine", "other engine"], rows)
    if checked.equal < checked.documents:
        raise typer.Exit(1)


@application.command("model")
def model(
    name: Annotated[
        str, typer.Argument(help="Folder, hub name, or a name like starter:language-model.")
    ],
    retriever: Annotated[
        str | None,
        typer.Option(
            "--retriever",
            metavar="NAME",
            help="Try it as the start of this retriever (by default: a language model as one, "
            "any other model for dpr).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Try a language model or an encoder: how it will be run, or why not (exit code 2)."""
    from sptar.cli.output import print_json, print_table
    from sptar.serve.model_check import check_model

    checked = check_model(name, retriever=retriever)
    if as_json:
        print_json(checked.to_json())
    else:
        print_table(f"{checked.name}: {checked.kind}", ["what", "finding"], checked.lines)
