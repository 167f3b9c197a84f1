"""``sptar search``: ask a trained retriever."""

from __future__ import annotations

from typing import Annotated

import typer

from sptar.cli.options import WORK, Json, Work

__all__ = ["search"]


def search(
    text: Annotated[str, typer.Argument(help="The question; `-` reads it from standard input.")],
    run: Annotated[
        str | None,
        typer.Option("--run", help="Name of the run; by default the newest finished one."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="Method of the run, such as sptar or sptar/colbert; by default sptar if there is.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Documents to show.")] = 5,
    work: Work = WORK,
    as_json: Json = False,
) -> None:
    """Find the best documents for a question with a retriever of a finished run."""
    from sptar.cli.output import print_json, print_table, read_text
    from sptar.serve.answer import answer
    from sptar.workspace import Workspace

    if text == "-":
        text = read_text()
    answered = answer(Workspace(work), text, run=run, method=method, top=top)
    if as_json:
        print_json(answered.to_json())
        return
    rows = [
        [hit.rank, f"{hit.score:.4f}", hit.doc_id, hit.title, hit.excerpt] for hit in answered.hits
    ]
    print_table(
        f"{answered.method} of run '{answered.run}'",
        ["rank", "score", "document", "title", "text"],
        rows,
    )
