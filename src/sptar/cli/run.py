"""``sptar run``: the whole experiment."""

from __future__ import annotations

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

__all__ = ["run"]


def run(
    config: Config,
    assignments: Assignments = None,
    equal_pairs: EqualPairs = False,
    work: Work = WORK,
    executor: ExecutorName = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Make everything that a config asks for, reuse what is there, and write the report."""
    from sptar.cli.output import TerminalProgress, print_json, print_table

    progress = TerminalProgress()
    settings = load(config, assignments, equal_pairs=equal_pairs)
    progress.message(f"Run '{settings.name}' in {work}")
    from sptar.pipeline import run as run_pipeline
    from sptar.report.collect import write_report
    from sptar.steps.base import Context
    from sptar.workspace import Workspace

    workspace = Workspace(work)
    shared = executor_of(executor, workers, ray_address)
    _, record = run_pipeline(settings, Context(workspace, progress, shared))
    written = write_report(workspace, record)
    if as_json:
        print_json(written.to_json())
        return
    print_table(f"Run '{record.name}'", written.table.columns, written.table.rows)
    if len(written.table.rows) > 1:
        print("+ significantly better than the verdict's method, - significantly worse")
    for sentence in written.verdict:
        print(sentence)
    print(f"Report: {written.page}")
    if any(record.retriever(name) is not None for name in record.methods):
        from sptar.serve.answer import choose_method

        print(
            f'Next: sptar search "your question" --run {record.name} '
            f"--method {choose_method(record)} --work {work}"
        )
