"""The walk through a run's graph, and the record of what was made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from sptar.config import RunConfig, dump_config
from sptar.errors import WorkspaceError
from sptar.graph import RunGraph, build_graph
from sptar.io import atomic_write_text, read_json, write_json
from sptar.steps.base import Context, Made, Step, make
from sptar.steps.walk import title_of, users_of
from sptar.workspace import Artefact, Workspace

__all__ = ["RunRecord", "StepRecord", "load_record", "run"]


@dataclass(frozen=True)
class StepRecord:
    """One step of a finished run."""

    name: str
    fingerprint: str
    reused: bool
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """What a run made: enough to find every artefact again."""

    name: str
    config: dict[str, Any]
    steps: list[StepRecord] = field(default_factory=list)
    methods: dict[str, dict[str, str]] = field(default_factory=dict)
    """Method → step → fingerprint, for every step of its own that the method stands on."""
    finished: bool = False
    parts: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """Method → ``method`` and ``retriever``, which its name may join (``sptar/colbert``); empty in
    records of runs that were made before there were several retrievers."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Method → why it was left out."""

    def retriever(self, method: str) -> str | None:
        """The row or fusion that a method uses; ``None`` for BM25 alone."""
        if method in self.parts:
            return self.parts[method]["retriever"]
        # A record of the time when there was one row.
        return None if method == "bm25" else "dpr"

    def artefact(self, workspace: Workspace, method: str, step: str) -> Artefact:
        """The artefact of a method's step.

        Raises:
            WorkspaceError: the run has no such method or step, or it was not made.
        """
        if method not in self.methods:
            raise WorkspaceError(
                f"The run '{self.name}' has no method '{method}'.",
                hint="It has: " + ", ".join(self.methods),
            )
        if step not in self.methods[method]:
            raise WorkspaceError(
                f"The method '{method}' of the run '{self.name}' has no step '{step}'.",
                hint=None if self.finished else "Finish the run first: sptar run CONFIG",
            )
        found = workspace.find(step, self.methods[method][step])
        if found is None:
            raise WorkspaceError(
                f"The step '{step}' of '{method}' in the run '{self.name}' is not finished.",
                hint="Finish the run first: sptar run CONFIG",
            )
        return found


def run(
    config: RunConfig, context: Context, *, until: Iterable[str] | None = None
) -> tuple[RunGraph, RunRecord]:
    """Make every artefact of a config (or only those up to the steps ``until``) and record it.

    The report is not made here: it only reads what lies in the workspace afterwards. The record of
    a finished run is replaced by a whole run alone, not by a single step of one.
    """
    workspace = context.workspace
    graph = build_graph(config, workspace)
    folder = workspace.run_folder(config.name)
    settings = dump_config(config)
    recorded = until is None or not _is_finished(folder)
    if recorded:
        atomic_write_text(
            folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        )
    elif read_json(folder / "run.json")["config"] != settings:
        context.progress.message(
            f"The run '{config.name}' is finished with other settings and keeps its record; "
            "`sptar run` with these replaces it."
        )
    steps = graph.steps(until)
    record = RunRecord(
        config.name,
        settings,
        methods={
            graphed.name: {name: step.fingerprint for name, step in graphed.among(steps).items()}
            for graphed in graph.methods
        },
        parts={
            graphed.name: {"method": graphed.method, "retriever": graphed.retriever}
            for graphed in graph.methods
        },
        left_out=dict(graph.left_out),
    )
    for name, reason in graph.left_out.items():
        context.progress.message(f"{name} is left out: {reason}")
    for step, made in _walk(graph, steps, context):
        seconds = made.artefact.manifest.seconds if made.reused else made.seconds
        record.steps.append(StepRecord(step.name, step.fingerprint, made.reused, round(seconds, 3)))
        if recorded:
            _save_record(folder, record)
    record = replace(record, finished=until is None)
    if recorded:
        _save_record(folder, record)
    if until is None:
        _link_models(graph, workspace, folder)
    return graph, record


def _walk(graph: RunGraph, steps: list[Step], context: Context) -> Iterator[tuple[Step, Made]]:
    users = users_of(steps, {method.name: method.evaluate for method in graph.methods})
    for number, step in enumerate(steps, start=1):
        done = context.workspace.find(step.name, step.fingerprint) is not None
        state = "reused" if done else "making"
        whose = users.get((step.name, step.fingerprint), [])
        title = title_of(step, whose, len(graph.methods))
        context.progress.message(f"[{number}/{len(steps)}] {title}: {state}")
        yield step, make(step, context)


def _is_finished(folder: Path) -> bool:
    path = folder / "run.json"
    return path.exists() and bool(read_json(path)["finished"])


def _save_record(folder: Path, record: RunRecord) -> None:
    write_json(
        folder / "run.json",
        {
            "name": record.name,
            "finished": record.finished,
            "config": record.config,
            "methods": record.methods,
            "parts": record.parts,
            "left_out": record.left_out,
            "steps": [vars(step) for step in record.steps],
        },
    )


def load_record(workspace: Workspace, name: str) -> RunRecord:
    """Read the record of a run.

    Raises:
        WorkspaceError: there is no run of this name.
    """
    path = workspace.run_folder(name) / "run.json"
    if not path.exists():
        known = ", ".join(workspace.run_names()) or "none"
        raise WorkspaceError(f"There is no run '{name}' in {workspace.root} (there: {known}).")
    value = read_json(path)
    steps = [StepRecord(**step) for step in value["steps"]]
    return RunRecord(
        value["name"],
        value["config"],
        steps,
        value["methods"],
        value["finished"],
        value.get("parts", {}),
        value.get("left_out", {}),
    )


def _link_models(graph: RunGraph, workspace: Workspace, folder: Path) -> None:
    """Put a link to each trained retriever beside the report, for people."""
    links = folder / "retrievers"
    # `sptar` may have been a link before and be a folder with one for each retriever now.
    shutil.rmtree(links, ignore_errors=True)
    for method in graph.methods:
        trained = method.train
        if trained is None:
            continue
        found = workspace.find(trained.name, trained.fingerprint)
        if found is None:
            continue
        link = links / method.name
        link.parent.mkdir(parents=True, exist_ok=True)
        target = Path(os.path.relpath(found.path("model"), link.parent))
        try:
            link.symlink_to(target, target_is_directory=True)
        except OSError:  # a file system without links: the run's record names the folder
            return
