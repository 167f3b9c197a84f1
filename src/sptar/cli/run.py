"""``sptar run``: the whole experiment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sptar.cli.options import (
    WORK,
    Assignments,
    Config,
    EqualPairs,
    ExecutorName,
    Json,
    RayAddress,
    Work,
    Workers,
    executor_of,
    load,
)

if TYPE_CHECKING:
    from sptar.pipeline import RunRecord
    from sptar.report.collect import WrittenReport
    from sptar.report.records import MethodExamples

__all__ = ["run"]


def run(
    config: Config,
    assignments: Assignments = None,
    equal_pairs: EqualPairs = False,
    work: Work = WORK,
    executor: ExecutorName = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Let this run take the place of a finished one of the same name with other "
            "settings, once it has finished itself.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make everything that a config asks for, reuse what is there, and write the report."""
    from sptar.cli.output import TerminalProgress, print_json, print_table

    progress = TerminalProgress()
    settings = load(config, assignments, equal_pairs=equal_pairs)
    progress.message(f"Run '{settings.name}' in {work}")
    from sptar.pipeline import run as run_pipeline
    from sptar.report.collect import write_report
    from sptar.report.printed import MARKS_NOTE
    from sptar.steps.base import Context
    from sptar.workspace import Workspace

    workspace = Workspace(work)
    shared = executor_of(executor, workers, ray_address)
    pages: list[WrittenReport] = []
    _, record = run_pipeline(
        settings,
        Context(workspace, progress, shared),
        replace=replace,
        page=lambda made, folder: pages.append(write_report(workspace, made, folder)),
    )
    page = workspace.run_folder(record.name) / pages[0].page.name
    written = dataclasses.replace(pages[0], page=page)
    if as_json:
        print_json(written.to_json())
        return
    print_table(f"Run '{record.name}'", written.table.columns, written.table.rows)
    if len(written.table.rows) > 1:
        print(MARKS_NOTE)
    for sentence in written.verdict:
        print(sentence)
    if written.examples is not None:
        _show_examples(written.examples)
    print(f"Report: {written.page}")
    _show_next(record, work)


def _show_examples(examples: MethodExamples) -> None:
    from sptar.cli.output import print_table
    from sptar.evaluation.systems import method_title
    from sptar.report.printed import print_examples

    title = method_title(examples.method)
    table = print_examples(examples)
    if table.rows:
        heading = f"Weak queries of {title} that were kept"
        print_table(heading, table.columns, table.rows, lines=True)
    else:
        print(f"No weak query of {title} was kept.")


def _show_next(record: RunRecord, work: Path) -> None:
    """What to type next: a question, and after a run on the package's own data one's own."""
    from sptar.packaged import PLACES

    if any(record.retriever(name) is not None for name in record.methods):
        from sptar.serve.answer import choose_method

        print(
            f'Next: sptar search "your question" --run {record.name} '
            f"--method {choose_method(record)} --work {work}"
        )
    if record.config["data"]["source"] in PLACES:
        print("Your own documents, in a folder as docs/your_own_data.md describes it:")
        print("  sptar data check my-collection")
        print(
            "  sptar run configs/your_own_data.yaml --set data.source=my-collection "
            "--set llm.name=starter:language-model --set train.start=starter:encoder "
            "--work my-work"
        )
