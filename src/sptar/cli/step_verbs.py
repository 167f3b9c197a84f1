"""Each step as its own verb: makes that step, for every method of the config, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer

from sptar.cli.options import WORK, Assignments, Config, EqualPairs, Json, Work, load

__all__ = ["STEP_VERBS", "StepVerb", "register"]


@dataclass(frozen=True)
class StepVerb:
    """A verb and the steps that it makes."""

    verb: str
    steps: tuple[str, ...]
    help: str


STEP_VERBS = (
    StepVerb("split", ("split",), "Read the collection and deal the labels out to their roles."),
    StepVerb("tune", ("tune",), "Learn the soft prompt from the labelled queries."),
    StepVerb("select", ("select",), "Choose the example pairs that stand in the prompt."),
    StepVerb("augment", ("augment", "import_weak"), "Write weak queries for the documents."),
    StepVerb("filter", ("filter",), "Rank the source documents and decide which pairs to keep."),
    StepVerb("train", ("train", "choose"), "Train the dense retrievers."),
    StepVerb("encode", ("encode",), "Encode the corpus with every retriever."),
    StepVerb("evaluate", ("evaluate",), "Search the test queries and score the runs."),
    StepVerb("compare", ("compare",), "Test the methods against one another."),
)


def _command(verb: StepVerb) -> Callable[..., None]:
    def command(
        config: Config,
        assignments: Assignments = None,
        equal_pairs: EqualPairs = False,
        work: Work = WORK,
        as_json: Json = False,
    ) -> None:
        from sptar.cli.output import TerminalProgress, print_json, print_table

        settings = load(config, assignments, equal_pairs=equal_pairs)
        from sptar.pipeline import run
        from sptar.steps.base import Context
        from sptar.workspace import Workspace

        workspace = Workspace(work)
        graph, record = run(settings, Context(workspace, TerminalProgress()), until=verb.steps)
        made: list[dict[str, Any]] = []
        for step in record.steps:
            if step.name not in verb.steps:
                continue
            artefact = workspace.find(step.name, step.fingerprint)
            assert artefact is not None
            methods = [
                name
                for name, steps in record.methods.items()
                if steps.get(step.name) == step.fingerprint
            ]
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
        del graph
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

    command.__doc__ = verb.help
    return command


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
