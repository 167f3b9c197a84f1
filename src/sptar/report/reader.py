"""The artefacts of a run, by system and step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from sptar.config import TrainConfig, parse_config
from sptar.errors import ConfigError, WorkspaceError
from sptar.evaluation.systems import parse_system
from sptar.pipeline import RunRecord
from sptar.steps.recipes import recipe_of
from sptar.workspace import Artefact, Workspace

__all__ = ["RunReader", "trained_retriever"]


def trained_retriever(training: Artefact) -> str | None:
    """The row of the table of retrievers that a training made, if its manifest says so."""
    recipe = training.manifest.settings.get("train")
    return recipe.get("retriever") if isinstance(recipe, dict) else None


class RunReader:
    """Reads the artefacts of one run; a system is what the run's record calls a method."""

    def __init__(self, workspace: Workspace, record: RunRecord) -> None:
        self._workspace = workspace
        self._record = replace(
            record,
            methods={
                name: {**self._below(steps, record), **steps} if "fuse" in steps else steps
                for name, steps in record.methods.items()
            },
        )

    def _below(self, steps: Mapping[str, str], record: RunRecord) -> dict[str, str]:
        """The steps of which one alone lies below a fusion: its record names those of its parts
        only as far as they share them."""
        named = {step.fingerprint: step.name for step in record.steps}
        found: dict[str, set[str]] = {}
        waiting = [("evaluate", steps["evaluate"])]
        while waiting:
            step, identity = waiting.pop()
            if identity in found.setdefault(step, set()):
                continue
            found[step].add(identity)
            inputs = self._input(step, identity).manifest.inputs.values()
            waiting += [(named[below], below) for below in inputs if below in named]
        return {step: next(iter(those)) for step, those in found.items() if len(those) == 1}

    @property
    def systems(self) -> list[str]:
        """All systems in the order of the tables."""
        return list(self._record.methods)

    @property
    def several_retrievers(self) -> bool:
        """Whether systems are named with their retriever."""
        return any(parse_system(name).retriever is not None for name in self.systems)

    def has(self, system: str, step: str) -> bool:
        """Whether the system stands on such a step."""
        return step in self._record.methods[system]

    def get(self, system: str, step: str) -> Artefact:
        """The artefact; of a method whose k was chosen on dev, that of the chosen k."""
        if step in ("train", "pairs", "filter") and self.has(system, "choose"):
            chosen = self.get(system, "choose").manifest
            found = self._input("train", chosen.inputs[f"train_{chosen.summary['k']}"])
            for below in ("pairs", "filter"):
                if step == found.manifest.step:
                    break
                found = self._input(below, found.manifest.inputs[below])
            return found
        return self._record.artefact(self._workspace, system, step)

    def _input(self, step: str, identity: str) -> Artefact:
        found = self._workspace.find(step, identity)
        if found is None:
            raise WorkspaceError(f"The artefact {step}-{identity} is gone.", hint="Run again.")
        return found

    def shown(self, step: str) -> dict[str, str]:
        """System → name on the page, for each different artefact of a step and its first system.

        Retrievers share what was made before any retriever was trained. Then it is shown once,
        under the method's name; where it differs between retrievers the name tells of which one.
        """
        first: dict[str, dict[str, str]] = {}
        for name in self.systems:
            if self.has(name, step):
                row = first.setdefault(parse_system(name).row, {})
                row.setdefault(self.get(name, step).fingerprint, name)
        labels = {
            name: row if len(unique) == 1 else name
            for row, unique in first.items()
            for name in unique.values()
        }
        return {name: labels[name] for name in self.systems if name in labels}

    def compare(self) -> Artefact | None:
        """The comparison, if the run made one."""
        for step in self._record.steps:
            if step.name == "compare":
                return self._workspace.find("compare", step.fingerprint)
        return None

    def recipe(self, retriever: str) -> TrainConfig | None:
        """The settings with which the run trained a retriever; ``None`` when its config tells of
        no such retriever, or was written by a version that this one cannot read."""
        try:
            return recipe_of(parse_config(self._record.config), retriever)
        except ConfigError:
            return None

    def trainings(self) -> Iterator[tuple[str, Artefact]]:
        """Each training of a retriever once: the first system that uses it, and its artefact.

        With several retrievers the system is named after the retriever that was trained, also
        where it is used in a fusion or to rerank.
        """
        seen: set[str] = set()
        for name in self.systems:
            if not (self.has(name, "train") or self.has(name, "choose")):
                continue
            found = self.get(name, "train")
            if found.fingerprint not in seen:
                seen.add(found.fingerprint)
                system = parse_system(name)
                own = trained_retriever(found) or system.retriever
                yield (str(replace(system, retriever=own)) if system.retriever else name), found

    def others_like(self, known: set[str]) -> Iterator[Artefact]:
        """Trainings of retrievers that no system uses as its own: teachers, rejected candidates.

        They are told by what their manifests say, whatever the step is called.
        """
        for step in self._record.steps:
            if step.fingerprint in known or step.name == "choose":
                continue
            found = self._workspace.find(step.name, step.fingerprint)
            if found is None:
                continue
            if {"parameters", "steps", "best_dev_score"} <= found.manifest.summary.keys():
                yield found
