"""Finished runs, read from their work folders to be compared with one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sptar.config import RunConfig, parse_config
from sptar.errors import ConfigError, WorkspaceError
from sptar.evaluation.across import SeededRun
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.systems import parse_system
from sptar.packaged import folder_of
from sptar.pipeline import RunRecord, load_record
from sptar.steps.recipes import recipe_of, retrievers_of
from sptar.workspace import Workspace

__all__ = ["RunPlace", "parse_places", "read_run"]

_APART = (
    *("name", "note", "seed", "methods", "retrievers", "weak_queries", "data", "evaluate"),
    *("train", "recipes"),
)
"""Settings that are compared elsewhere, or may differ between runs that are joined."""


@dataclass(frozen=True, slots=True)
class RunPlace:
    """A run's name and the work folder in which it lies; ``label`` is how it was asked for."""

    work: Path
    name: str
    label: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.label or f"{self.work}:{self.name}"


def parse_places(texts: list[str], work: Path) -> list[RunPlace]:
    """Runs from ``NAME``, ``FOLDER:NAME`` and lists of them with commas, each once.

    Args:
        work: folder of names that come without one.

    >>> [str(place) for place in parse_places(["a,b", "other:c"], Path("work"))]
    ['a', 'b', 'other:c']
    """
    places = []
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        folder, colon, name = text.rpartition(":")
        if name:
            places.append(RunPlace(Path(folder) if colon else work, name, text))
    return list(dict.fromkeys(places))


def read_run(place: RunPlace) -> SeededRun:
    """The scores of a finished run, each system with its retriever in its name.

    Raises:
        WorkspaceError: there is no such run, or it is not finished.
    """
    workspace = Workspace(place.work)
    record = load_record(workspace, place.name)
    if not record.finished:
        raise WorkspaceError(
            f"The run '{place.name}' in {place.work} is not finished.",
            hint="Finish it first: sptar run CONFIG",
        )
    systems = {}
    for method in record.methods:
        scores = Scores.load(record.artefact(workspace, method, "evaluate").path("scores.json"))
        systems[_with_retriever(method, record)] = scores
    first = next(iter(record.methods))
    data = record.config["data"]
    return SeededRun(
        name=str(place),
        collection=record.methods[first]["collection"],
        title=_title(data),
        source=_source(data),
        judgements=_judgements(record.config["split"]),
        seed=int(record.config["seed"]),
        systems=systems,
        settings=_settings(record),
    )


def _with_retriever(method: str, record: RunRecord) -> str:
    """A run with one retriever leaves its name out; beside other runs it is needed."""
    system = parse_system(method)
    if system.retriever is not None:
        return method
    return str(replace(system, retriever=record.retriever(method)))


def _source(data: Mapping[str, Any]) -> str:
    """Where a collection came from; one of this package by its folder, as older records say it."""
    return folder_of(str(data.get("source") or data.get("corpus")))


def _title(data: Mapping[str, Any]) -> str:
    source = _source(data)
    if data.get("source") is None:
        return Path(source).parent.name or source
    return source if source.startswith(("hf:", "ir:")) else Path(source).name


def _judgements(split: Mapping[str, Any]) -> str:
    carved = split.get("carve_from")
    if carved is not None:
        size = split.get("carve_test_queries")  # records from before this setting have none
        what = f"a test set of {size:,} queries" if size else "a test set"
        return f"{what} drawn from the split '{carved}'"
    return f"the split '{split['test_from']}'"


def _settings(record: RunRecord) -> dict[str, str]:
    """Settings that change results, by dotted name; the seeds are what is averaged over.

    Those of a retriever are its whole recipe, so that a default and the same value written out
    are equal.
    """
    try:
        config = parse_config(record.config)
        parts = [part for name in retrievers_of(config) for part in name.split("+")]
        recipes = {part: recipe_of(config, part) for part in parts if part != "bm25"}
    except ConfigError:  # a run of another version: what its settings mean is not known
        return {}
    sections = {
        name: getattr(config, name) for name in RunConfig.model_fields if name not in _APART
    }
    found: dict[str, str] = {"evaluate.top_k": repr(config.evaluate.top_k)}
    for name, value in (sections | recipes).items():
        if isinstance(value, BaseModel):
            found |= {f"{name}.{key}": repr(inside) for key, inside in _values(value).items()}
        else:
            found[name] = repr(value)
    return found


def _values(section: BaseModel) -> dict[str, Any]:
    """The settings of a section but for its seed and those that never change a result."""
    kept = {}
    for name, declared in type(section).model_fields.items():
        extra = declared.json_schema_extra
        if isinstance(extra, dict) and extra.get("changes_results") is False:
            continue
        if name != "seed":
            kept[name] = getattr(section, name)
    return kept
