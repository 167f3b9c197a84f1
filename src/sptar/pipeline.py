"""The walk through a run's graph, and the record of what was made."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sptar.config import RunConfig, differences, dump_config, parse_config, shown
from sptar.data.unlabelled import refuse_none
from sptar.errors import ConfigError, WorkspaceError
from sptar.foreseen import refuse_settings, try_starts
from sptar.graph.methods import build_graph
from sptar.graph.order import title_of, users_of
from sptar.graph.runs import RunGraph
from sptar.io import atomic_write_text, read_json, write_json
from sptar.run_folders import RECORD, RunFolder
from sptar.steps.base import Context, Made, Step, make
from sptar.steps.languages import language_hint
from sptar.steps.resources import open_collection
from sptar.workspace import Artefact, Workspace

__all__ = ["RunRecord", "StepRecord", "load_record", "refusal", "run", "unfinished_record"]

_WRITING = ("augment", "import_weak")
"""Steps that need documents to augment."""


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
    config: RunConfig,
    context: Context,
    *,
    until: Iterable[str] | None = None,
    replace: bool = False,
    page: Callable[[RunRecord, Path], object] | None = None,
) -> tuple[RunGraph, RunRecord]:
    """Make every artefact of a config (or only those up to the steps ``until``) and record it.

    The record, and what ``page`` writes, come into being beside a finished run of the same name and
    take its place when all is made; a single step of one takes nobody's place.

    Args:
        replace: whether a finished run of this name whose scores would go may be replaced.
        page: writes the pages of the finished run into a folder. Reports are not made here: they
            only read what lies in the workspace.

    Raises:
        WorkspaceError: a finished run of this name has other settings and may not be replaced, or
            another process is making a run of this name.
    """
    workspace = context.workspace
    graph = build_graph(config, workspace)
    steps = graph.steps(until)
    missing = [step for step in steps if workspace.find(step.name, step.fingerprint) is None]
    refuse_settings(config, missing)
    record = _record(config, graph, steps)
    if workspace.is_read_only():
        context.progress.message(
            f"{workspace.root} cannot be written: what is there is shown, and nothing is recorded."
        )
        _make(graph, steps, record, context, None)
        record = dataclasses.replace(record, finished=until is None)
        if page is not None:
            with tempfile.TemporaryDirectory() as aside:
                page(record, Path(aside))
        return graph, record
    folder = workspace.run(config.name)
    finished = _finished(folder)
    if until is not None:
        if finished is not None and finished.config != record.config:
            context.progress.message(
                f"The run '{config.name}' is finished with other settings and keeps its record; "
                "`sptar run --replace` with these takes its place."
            )
        news = finished is None or _news(finished, record)
        # A whole run that is under way keeps its draft to itself.
        if news and not workspace.locked("run", config.name):
            with workspace.lock("run", config.name):
                _make(graph, steps, record, context, folder.begin())
        else:
            _make(graph, steps, record, context, None)
        return graph, record
    if finished is not None:
        refusal = _refusal(finished, record, workspace)
        if refusal is not None and not replace:
            raise refusal
        if _loses(finished, record):
            context.progress.message(
                f"The finished run '{config.name}' stays as it is until this one takes its place."
            )
    with workspace.lock("run", config.name):
        _make(graph, steps, record, context, folder.begin())
        record = dataclasses.replace(record, finished=True)
        if page is not None:
            page(record, folder.draft)
        _save_record(folder.draft, record)
        folder.publish()
    return graph, record


def _record(config: RunConfig, graph: RunGraph, steps: list[Step]) -> RunRecord:
    return RunRecord(
        config.name,
        # Number formats that the config left open are recorded as they were settled.
        dump_config(graph.config),
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


def refusal(config: RunConfig, graph: RunGraph, workspace: Workspace) -> WorkspaceError | None:
    """Why a run would not start without being allowed to replace a finished one; else None."""
    finished = _finished(workspace.run(config.name))
    if finished is None:
        return None
    return _refusal(finished, _record(config, graph, graph.steps()), workspace)


def _news(finished: RunRecord, record: RunRecord) -> bool:
    """Whether a record names an artefact that the finished one does not."""
    return any(
        finished.methods.get(method, {}).get(name) != identity
        for method, steps in record.methods.items()
        for name, identity in steps.items()
    )


def _loses(finished: RunRecord, record: RunRecord) -> bool:
    """Whether scores of a finished run are not among those of a new one."""
    return any(
        record.methods.get(method, {}).get("evaluate") != steps.get("evaluate")
        for method, steps in finished.methods.items()
    )


def _refusal(finished: RunRecord, record: RunRecord, workspace: Workspace) -> WorkspaceError | None:
    """Only other settings are refused: of other data or another version the same is asked."""
    try:
        changed = differences(parse_config(finished.config), parse_config(record.config))
    except ConfigError:  # a run of another version: what its settings mean is not known
        return None
    tests = any(name.startswith("evaluate.") for name in changed)
    if not changed or not (tests or _loses(finished, record)):
        return None
    listed = [
        f"{name} was {shown(old)} and is {shown(new)}" for name, (old, new) in changed.items()
    ]
    more = [f"and {len(listed) - _LISTED} more"] if len(listed) > _LISTED else []
    return WorkspaceError(
        f"A run '{record.name}' with other settings is finished in {workspace.root}: "
        f"{'; '.join(listed[:_LISTED] + more)}.",
        hint=f"Give this one another name (--set name={record.name}-2), or add --replace: the "
        "old one stays until the new one has finished.",
    )


_LISTED = 6


def _make(
    graph: RunGraph,
    steps: list[Step],
    record: RunRecord,
    context: Context,
    draft: Path | None,
) -> None:
    """Make steps and note each in the record, in ``draft`` if there is one."""
    if draft is not None:
        text = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True)
        atomic_write_text(draft / "config.yaml", text)
        _save_record(draft, record)
    try_starts(steps, context)
    for name, reason in record.left_out.items():
        context.progress.message(f"{name} is left out: {reason}")
    for step, made in _walk(graph, steps, context):
        seconds = made.artefact.manifest.seconds if made.reused else made.seconds
        record.steps.append(StepRecord(step.name, step.fingerprint, made.reused, round(seconds, 3)))
        if draft is not None:
            _save_record(draft, record)


def _walk(graph: RunGraph, steps: list[Step], context: Context) -> Iterator[tuple[Step, Made]]:
    users = users_of(steps, {method.name: method.evaluate for method in graph.methods})
    for number, step in enumerate(steps, start=1):
        done = context.workspace.find(step.name, step.fingerprint) is not None
        state = "reused" if done else "making"
        whose = users.get((step.name, step.fingerprint), [])
        title = title_of(step, whose, len(graph.methods))
        context.progress.message(f"[{number}/{len(steps)}] {title}: {state}")
        made = make(step, context)
        yield step, made
        # As soon as it can be told, and before anything long runs.
        if step.name == graph.split.name and any(below.name in _WRITING for below in steps):
            refuse_none(made.artefact.manifest.summary["documents_to_augment"], graph.config.split)
            _say_languages(graph, context)


def _say_languages(graph: RunGraph, context: Context) -> None:
    """Before a language model writes for hours in a language that is not the documents'."""
    found = {"collection": graph.collection.artefact(context.workspace)}
    hint = language_hint(open_collection(found, context), dump_config(graph.config))
    if hint is not None:
        context.progress.message(f"Look: {hint}")


def _save_record(folder: Path, record: RunRecord) -> None:
    write_json(
        folder / RECORD,
        {
            "name": record.name,
            "finished": record.finished,
            "config": record.config,
            "methods": record.methods,
            "parts": record.parts,
            "left_out": record.left_out,
            "steps": [vars(step) for step in record.steps],
            "files": sorted(path.name for path in folder.iterdir()),
        },
    )


def _read_record(path: Path) -> RunRecord | None:
    try:
        value = read_json(path)
    except FileNotFoundError:
        return None
    try:
        return RunRecord(
            value["name"],
            value["config"],
            [StepRecord(**step) for step in value["steps"]],
            value["methods"],
            value["finished"],
            value.get("parts", {}),
            value.get("left_out", {}),
        )
    except (KeyError, TypeError, AttributeError):
        raise WorkspaceError(
            f"{path} is no record of a run.",
            hint="Remove its folder and run again: what was made is reused.",
        ) from None


def _finished(folder: RunFolder) -> RunRecord | None:
    found = _read_record(folder.place / RECORD)
    return found if found is not None and found.finished else None


def unfinished_record(workspace: Workspace, name: str) -> RunRecord | None:
    """The record of a run of this name that is under way or was stopped."""
    folder = workspace.run(name)
    found = _read_record(folder.draft / RECORD)
    if found is None and _finished(folder) is None:
        # Before there were drafts it lay where a finished one lies.
        return _read_record(folder.place / RECORD)
    return found


def load_record(workspace: Workspace, name: str) -> RunRecord:
    """Read the record of a run: of the finished one, else of the one that is under way.

    Raises:
        WorkspaceError: there is no run of this name.
    """
    found = _finished(workspace.run(name)) or unfinished_record(workspace, name)
    if found is None:
        known = ", ".join(workspace.run_names()) or "none"
        raise WorkspaceError(f"There is no run '{name}' in {workspace.root} (there: {known}).")
    return found
