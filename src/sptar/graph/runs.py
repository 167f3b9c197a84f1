"""The graph of a run as records: its methods, and every step that they stand on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sptar.config import RunConfig
from sptar.errors import ConfigError
from sptar.graph.order import STEP_ORDER, everything_below, in_order, nearest
from sptar.steps.augment import AugmentStep
from sptar.steps.base import Step
from sptar.steps.bm25 import Bm25IndexStep
from sptar.steps.collection import CollectionStep
from sptar.steps.evaluate import CompareStep, EvaluateStep
from sptar.steps.filter import FilterStep
from sptar.steps.fuse import FuseStep
from sptar.steps.import_weak import ImportWeakStep
from sptar.steps.split import SplitStep
from sptar.steps.train import ChooseStep, TrainStep

__all__ = ["MethodGraph", "RunGraph"]


@dataclass(frozen=True)
class MethodGraph:
    """The steps of one method with one retriever, from its weak queries to its scores.

    ``name`` is ``sptar``, ``sptar@k=30`` with one of several cut-offs, and ``sptar/colbert`` in a
    run with several retrievers. ``retriever`` is a row or a fusion, ``None`` for BM25 alone.
    """

    name: str
    method: str
    retriever: str | None
    evaluate: EvaluateStep
    weak: AugmentStep | ImportWeakStep | None = None
    filter: FilterStep | None = None

    def own_steps(self) -> dict[str, Step]:
        """Step by name: those on the way to the scores, not those of a teacher.

        Where several steps of a name lie on the way, the one nearest to the scores is meant (of
        the cut-offs that dev chooses among, any). Steps in which the parts of a fusion differ are
        left out.
        """
        run = self.evaluate.run
        own: dict[str, Step] = {self.evaluate.name: self.evaluate}
        if not isinstance(run, FuseStep):
            return own | nearest(run)
        first, second = nearest(run.first), nearest(run.second)
        differ = {name for name in first if second.get(name, first[name]) is not first[name]}
        both = {**first, **second, run.name: run, **own}
        return {name: step for name, step in both.items() if name not in differ}

    def among(self, steps: Iterable[Step]) -> dict[str, Step]:
        """Those of :meth:`own_steps` that are among ``steps``."""
        wanted = {(step.name, step.fingerprint) for step in steps}
        names = {name for name, _ in wanted}
        return {
            name: step
            for name, step in self.own_steps().items()
            if name in names and (name, step.fingerprint) in wanted
        }

    def steps(self, names: Iterable[str]) -> list[Step]:
        """All steps of these names that the method stands on, those of teachers included."""
        wanted = set(names)
        return [step for step in everything_below([self.evaluate]) if step.name in wanted]

    @property
    def tune(self) -> Step | None:
        """The tuning that this method's weak queries come from, if there is one."""
        return self.weak.tune if isinstance(self.weak, AugmentStep) else None

    @property
    def select(self) -> Step | None:
        """The choice of the examples in the prompt, if the method has a prompt."""
        return self.weak.select if isinstance(self.weak, AugmentStep) else None

    @property
    def train(self) -> TrainStep | ChooseStep | None:
        """The retriever that this method trains, if it is one."""
        own = self.own_steps()
        step = own.get("choose", own.get("train"))
        return step if isinstance(step, TrainStep | ChooseStep) else None


@dataclass(frozen=True)
class RunGraph:
    """All steps of a run; number formats that its config leaves open are settled in ``config``."""

    config: RunConfig
    collection: CollectionStep
    split: SplitStep
    index: Bm25IndexStep
    methods: tuple[MethodGraph, ...]
    compare: CompareStep | None
    left_out: dict[str, str]
    """Name → why this run has no such method."""

    def method(self, name: str) -> MethodGraph:
        """The graph of a method.

        Raises:
            ConfigError: this run has no such method.
        """
        for graph in self.methods:
            if graph.name == name:
                return graph
        raise ConfigError(
            f"This run has no method '{name}'.",
            hint="It has: " + ", ".join(graph.name for graph in self.methods),
        )

    def ends(self) -> list[Step]:
        """The last steps: everything stands below them."""
        if self.compare is not None:
            return [self.compare]
        return [graph.evaluate for graph in self.methods]

    def steps(self, until: Iterable[str] | None = None) -> list[Step]:
        """Every step once, each after those it reads; with ``until``, only what these need."""
        if until is None:
            return in_order(self.ends(), STEP_ORDER)
        # Fingerprints are asked of the wanted steps alone: whoever only wants to tune needs no
        # start encoder within reach.
        names = set(until)
        wanted = [step for step in everything_below(self.ends()) if step.name in names]
        return in_order(wanted, STEP_ORDER)
