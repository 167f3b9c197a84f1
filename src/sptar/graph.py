"""The methods as graphs of steps: what would be made, and from what.

Methods share every step whose causes are the same: ``inpars`` after ``sptar`` finds split, BM25
index and comparison runs already made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sptar.config import FilterConfig, RunConfig
from sptar.errors import ConfigError
from sptar.identity import model_identity
from sptar.steps.augment import AugmentStep
from sptar.steps.base import Step
from sptar.steps.bm25 import Bm25IndexStep, Bm25SearchStep
from sptar.steps.collection import CollectionStep, source_identity
from sptar.steps.encode import DenseSearchStep, EncodeStep
from sptar.steps.evaluate import CompareStep, EvaluateStep
from sptar.steps.filter import FilterStep, RankStep
from sptar.steps.import_weak import ImportWeakStep
from sptar.steps.pairs import PairsStep
from sptar.steps.select import SelectStep
from sptar.steps.split import SplitStep
from sptar.steps.train import ChooseStep, TrainStep
from sptar.steps.tune import TuneStep
from sptar.workspace import Workspace

__all__ = ["STEP_ORDER", "MethodGraph", "RunGraph", "build_graph"]

STEP_ORDER = (
    "collection",
    "split",
    "bm25_index",
    "tune",
    "select",
    "augment",
    "import_weak",
    "rank",
    "filter",
    "pairs",
    "train",
    "choose",
    "encode",
    "bm25_search",
    "dense_search",
    "evaluate",
    "compare",
)
"""Every step's name, in the order in which a run takes them."""


@dataclass(frozen=True)
class MethodGraph:
    """The steps of one method, from its weak queries to its scores."""

    name: str
    evaluate: EvaluateStep
    tune: TuneStep | None = None
    select: SelectStep | None = None
    weak: AugmentStep | ImportWeakStep | None = None
    filter: FilterStep | None = None
    pairs: PairsStep | None = None
    train: TrainStep | ChooseStep | None = None
    encode: EncodeStep | None = None

    def among(self, steps: Iterable[Step]) -> list[Step]:
        """Those of ``steps`` that this method stands on."""
        wanted = list(steps)
        names = {step.name for step in wanted}
        own = {
            (step.name, step.fingerprint)
            for step in _all_objects([self.evaluate])
            if step.name in names
        }
        return [step for step in wanted if (step.name, step.fingerprint) in own]


@dataclass(frozen=True)
class RunGraph:
    """All steps of a run."""

    config: RunConfig
    collection: CollectionStep
    split: SplitStep
    index: Bm25IndexStep
    methods: tuple[MethodGraph, ...]
    compare: CompareStep | None

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
            return _ordered(self.ends())
        # Fingerprints are asked of the wanted steps alone: whoever only wants to tune needs no
        # start encoder within reach.
        names = set(until)
        return _ordered([step for step in _all_objects(self.ends()) if step.name in names])


def _all_objects(ends: Iterable[Step]) -> list[Step]:
    found: dict[int, Step] = {}
    waiting = list(ends)
    while waiting:
        step = waiting.pop()
        if id(step) not in found:
            found[id(step)] = step
            waiting.extend(step.inputs.values())
    return list(found.values())


def _ordered(ends: Iterable[Step]) -> list[Step]:
    found: dict[tuple[str, str], Step] = {}
    for end in ends:
        for step in end.upstream():
            found.setdefault((step.name, step.fingerprint), step)
    # Rank by rank rather than method by method: the language model is loaded once, does all its
    # work, and is gone before the first retriever trains. A step's inputs stand earlier in
    # STEP_ORDER than itself, and sorting is stable.
    return sorted(found.values(), key=lambda step: STEP_ORDER.index(step.name))


class _Builder:
    """Builds the graph of a config; identities of files and models are read once."""

    def __init__(self, config: RunConfig, workspace: Workspace) -> None:
        self.config = config
        self.hashes = workspace.hashes
        self.collection = CollectionStep(config.data, source_identity(config.data, self.hashes))
        self.split = SplitStep(self.collection, config.split, config.split_seed)
        self.index = Bm25IndexStep(self.collection, config.filter)
        self._llm: str | None = None
        self._start: str | None = None

    @property
    def llm_identity(self) -> str:
        if self._llm is None:
            assert self.config.llm is not None
            llm = self.config.llm
            self._llm = model_identity(llm.name, llm.revision, self.hashes)
        return self._llm

    def start_identity(self) -> str:
        if self._start is None:
            train = self.config.train
            self._start = model_identity(train.start, train.revision, self.hashes)
        return self._start

    def tune(self) -> TuneStep:
        config = self.config
        assert config.llm is not None
        adapter = config.tune.adapter
        return TuneStep(
            self.collection,
            self.split,
            config.llm,
            self.llm_identity,
            config.prompt,
            config.tune,
            None if adapter is None else self.hashes.content(adapter),
            config.augment.max_new_tokens,
            config.seed,
        )

    def select(self, tuned: TuneStep | None) -> SelectStep:
        config = self.config
        assert config.llm is not None
        select = config.select
        if tuned is None:
            # InPars puts fixed examples into its prompt: one draw by seed, no scoring.
            select = select.model_copy(update={"choice": "first", "groups": 1})
        return SelectStep(
            self.collection,
            self.split,
            tuned,
            config.llm,
            self.llm_identity,
            config.prompt,
            select,
            config.augment.max_new_tokens,
            config.seed,
        )

    def weak(self, method: str) -> tuple[AugmentStep | ImportWeakStep, TuneStep | None]:
        config = self.config
        if method in config.weak_queries:
            file = config.weak_queries[method]
            step = ImportWeakStep(self.collection, self.split, file, self.hashes.content(file))
            return step, None
        assert config.llm is not None
        tuned = self.tune() if method == "sptar" else None
        augment = AugmentStep(
            self.collection,
            self.split,
            tuned,
            self.select(tuned),
            config.llm,
            self.llm_identity,
            config.prompt,
            method,
            config.augment,
            config.seed,
        )
        return augment, tuned

    def filter(self, weak: AugmentStep | ImportWeakStep, settings: FilterConfig, k: int) -> Any:
        ranked = RankStep(self.collection, self.index, weak, settings)
        return FilterStep(self.collection, self.split, ranked, settings, k)

    def train(self, pairs: PairsStep) -> TrainStep:
        config = self.config
        return TrainStep(
            self.collection,
            self.split,
            self.index,
            pairs,
            config.train,
            self.start_identity,
            config.evaluate.measures[0],
            config.evaluate.relevance_level,
            config.seed,
        )

    def dense(self, trained: TrainStep | ChooseStep | None) -> tuple[EncodeStep, EvaluateStep]:
        config = self.config
        encode = EncodeStep(self.collection, trained, config.train, self.start_identity)
        search = DenseSearchStep(self.collection, self.split, encode, config.evaluate.top_k)
        return encode, EvaluateStep(self.collection, self.split, search, config.evaluate)


def build_graph(config: RunConfig, workspace: Workspace) -> RunGraph:
    """The graph of a config: what would be made, and from what.

    Raises:
        ConfigError, DataError, ModelError: a file, folder or model that the config names is not
            there.
    """
    builder = _Builder(config, workspace)
    cutoffs = _cutoffs(config.filter)
    augmenting = [
        method
        for method in config.methods
        if method in config.weak_queries or method not in ("bm25", "zero_shot", "no_augmentation")
    ]
    filters: dict[str, dict[int, FilterStep]] = {}
    written = {method: builder.weak(method) for method in augmenting}
    for method, (weak, _) in written.items():
        filters[method] = {k: builder.filter(weak, config.filter, k) for k in cutoffs}

    def pairs_of(method: str, k: int) -> PairsStep:
        others: tuple[FilterStep, ...] = ()
        if config.equal_pairs and len(augmenting) > 1:
            others = tuple(filters[name][k] for name in augmenting)
        own = filters[method][k]
        return PairsStep(builder.collection, builder.split, own, others, config.seed)

    methods: list[MethodGraph] = []
    for method in config.methods:
        if method == "bm25":
            search = Bm25SearchStep(
                builder.collection, builder.split, builder.index, config.evaluate.top_k
            )
            scored = EvaluateStep(builder.collection, builder.split, search, config.evaluate)
            methods.append(MethodGraph(method, scored))
        elif method == "zero_shot":
            encode, scored = builder.dense(None)
            methods.append(MethodGraph(method, scored, encode=encode))
        elif method == "no_augmentation":
            pairs = PairsStep(builder.collection, builder.split, None, (), config.seed)
            trained = builder.train(pairs)
            encode, scored = builder.dense(trained)
            methods.append(MethodGraph(method, scored, pairs=pairs, train=trained, encode=encode))
        else:
            weak, tuned = written[method]
            select = weak.examples if isinstance(weak, AugmentStep) else None
            trainings = {k: builder.train(pairs_of(method, k)) for k in cutoffs}
            chosen: list[tuple[str, int, TrainStep | ChooseStep]]
            if config.filter.k == "auto":
                chosen = [(method, cutoffs[0], ChooseStep(tuple(trainings.items())))]
            elif len(cutoffs) > 1:
                chosen = [(f"{method}@k={k}", k, step) for k, step in trainings.items()]
            else:
                chosen = [(method, cutoffs[0], trainings[cutoffs[0]])]
            for name, k, training in chosen:
                encode, scored = builder.dense(training)
                methods.append(
                    MethodGraph(
                        name,
                        scored,
                        tune=tuned,
                        select=select,
                        weak=weak,
                        filter=filters[method][k],
                        pairs=trainings[k].pairs,
                        train=training,
                        encode=encode,
                    )
                )
    compare = None
    if len(methods) > 1:
        compare = CompareStep(
            tuple((graph.name, graph.evaluate) for graph in methods),
            _target([graph.name for graph in methods]),
            config.evaluate,
            config.seed,
        )
    return RunGraph(
        config, builder.collection, builder.split, builder.index, tuple(methods), compare
    )


def _cutoffs(settings: FilterConfig) -> list[int]:
    if settings.k == "auto":
        return sorted(settings.auto_k)
    return sorted(settings.k) if isinstance(settings.k, list) else [settings.k]


def _target(names: list[str]) -> str:
    """The method that the verdict is about: SPTAR if it is there, else the last one."""
    for name in names:
        if name.partition("@")[0] == "sptar":
            return name
    return names[-1]
