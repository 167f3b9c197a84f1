"""Each step as its own verb: makes that step, for every method of the config, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sptar.cli.options import (
    WORK,
    Assignments,
    Config,
    EqualPairs,
    ExecutorName,
    Json,
    RayAddress,
    Retrievers,
    Work,
    Workers,
    executor_of,
    load,
)

if TYPE_CHECKING:
    from sptar.executors.local import Executor

__all__ = ["STEP_VERBS", "StepVerb", "make_steps", "register"]


@dataclass(frozen=True)
class StepVerb:
    """A verb and the steps that it makes."""

    verb: str
    steps: tuple[str, ...]
    help: str
    of_retrievers: bool = False
    """Whether each retriever has such steps of its own."""


STEP_VERBS = (
    StepVerb("split", ("split",), "Read the collection and deal the labels out to their roles."),
    StepVerb("tune", ("tune",), "Learn the soft prompt from the labelled queries."),
    StepVerb("select", ("select",), "Choose the example pairs that stand in the prompt."),
    StepVerb("augment", ("augment", "import_weak"), "Write weak queries for the documents."),
    StepVerb("filter", ("filter",), "Rank the source documents and decide which pairs to keep."),
    StepVerb("mine", ("mine",), "Find hard negatives for the retrievers that need them.", True),
    StepVerb("train", ("train", "choose"), "Train the retrievers.", True),
    StepVerb("encode", ("encode",), "Encode the corpus with every retriever.", True),
    StepVerb(
        "evaluate",
        ("evaluate",),
        "Search the test queries (or rerank, or fuse) and score the runs.",
        True,
    ),
)


def _command(verb: StepVerb) -> Callable[..., None]:
    def command(
        config: Config,
        assignments: Assignments = None,
        equal_pairs: EqualPairs = False,
        work: Work = WORK,
        executor: ExecutorName = None,
        workers: Workers = None,
        ray_address: RayAddress = None,
        as_json: Json = False,
    ) -> None:
        shared = executor_of(executor, workers, ray_address)
        make_steps(verb, config, assignments, equal_pairs, work, as_json, executor=shared)

    def of_retrievers(
        config: Config,
        retrievers: Retrievers = None,
        assignments: Assignments = None,
        equal_pairs: EqualPairs = False,
        work: Work = WORK,
        executor: ExecutorName = None,
        workers: Workers = None,
        ray_address: RayAddress = None,
        as_json: Json = False,
    ) -> None:
        shared = executor_of(executor, workers, ray_address)
        make_steps(
            verb, config, assignments, equal_pairs, work, as_json, retrievers, executor=shared
        )

    chosen = of_retrievers if verb.of_retrievers else command
    chosen.__doc__ = verb.help
    return chosen


def make_steps(
    verb: StepVerb,
    config: Path,
    assignments: list[str] | None,
    equal_pairs: bool,
    work: Path,
    as_json: bool,
    retrievers: list[str] | None = None,
    *,
    executor: Executor | None = None,
) -> None:
    """Make the steps of a verb and what they need, and print what was made."""
    from sptar.cli.output import TerminalProgress, print_json, print_table

    settings = load(config, assignments, equal_pairs=equal_pairs, retrievers=retrievers)
    from sptar.pipeline import run
    from sptar.steps.base import Context
    from sptar.workspace import Workspace

    workspace = Workspace(work)
    context = Context(workspace, TerminalProgress())
    if executor is not None:
        context.executor = executor
    graph, record = run(settings, context, until=verb.steps)
    # A teacher's training belongs to the methods whose students it teaches.
    users = {
        graphed.name: {(step.name, step.fingerprint) for step in graphed.steps(verb.steps)}
        for graphed in graph.methods
    }
    made: list[dict[str, Any]] = []
    for step in record.steps:
        if step.name not in verb.steps:
            continue
        artefact = workspace.find(step.name, step.fingerprint)
        assert artefact is not None
        methods = [name for name, used in users.items() if (step.name, step.fingerprint) in used]
        made.append(
            {
                "step": step.name,
                "methods": methods,
                "folder": str(artefact.folder),
                "reused": step.reused,
                "seconds": step.seconds,
                "summary": artefact.manifest.summary,
            }
        )
    if as_json:
        print_json(made)
        return
    for item in made:
        rows: list[tuple[str, Any]] = [
            ("methods", ", ".join(item["methods"])),
            ("folder", item["folder"]),
            ("seconds", f"{item['seconds']:.1f}" + (" (reused)" if item["reused"] else "")),
        ]
        rows += [(key, _plain(value)) for key, value in item["summary"].items()]
        print_table(item["step"], ["", "value"], rows)
    if not made:
        print(f"No method of this config has the step '{verb.verb}'.")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(inside)}" for key, inside in value.items())
    return str(value)


def register(application: typer.Typer) -> None:
    """Add all step verbs to the application."""
    for verb in STEP_VERBS:
        application.command(verb.verb, help=verb.help)(_command(verb))
