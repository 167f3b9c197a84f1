"""The methods as graphs of steps, and the walk through them.

Methods share every step whose causes are the same: ``inpars`` after ``sptar`` finds split, BM25
index and comparison runs already made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sptar.config import FilterConfig, RunConfig
from sptar.errors import ConfigError, WorkspaceError
from sptar.identity import model_identity
from sptar.io import atomic_write_text, read_json, write_json
from sptar.steps.augment import AugmentStep
from sptar.steps.base import Context, Made, Step, make
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
from sptar.workspace import Artefact, Workspace

__all__ = [
    "MethodGraph",
    "RunGraph",
    "RunRecord",
    "StepRecord",
    "build_graph",
    "load_record",
    "run",
]

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
        every = _ordered(self.ends())
        if until is None:
            return every
        names = set(until)
        return _ordered([step for step in every if step.name in names])


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

    @property
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
    """Method → step → fingerprint, for every step that the method stands on."""
    finished: bool = False

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
            raise WorkspaceError(f"The method '{method}' has no step '{step}'.")
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

    The report is not made here: it only reads what lies in the workspace afterwards.
    """
    workspace = context.workspace
    graph = build_graph(config, workspace)
    folder = workspace.run_folder(config.name)
    settings = json.loads(config.model_dump_json())
    atomic_write_text(
        folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    )
    methods = {
        graph_of.name: {step.name: step.fingerprint for step in graph_of.evaluate.upstream()}
        for graph_of in graph.methods
    }
    records: list[StepRecord] = []
    for step, made in _walk(graph.steps(until), context):
        seconds = made.artefact.manifest.seconds if made.reused else made.seconds
        records.append(StepRecord(step.name, step.fingerprint, made.reused, round(seconds, 3)))
        _save_record(folder, RunRecord(config.name, settings, records, methods))
    record = RunRecord(config.name, settings, records, methods, finished=until is None)
    _save_record(folder, record)
    _link_models(graph, workspace, folder)
    return graph, record


def _walk(steps: list[Step], context: Context) -> Iterator[tuple[Step, Made]]:
    for number, step in enumerate(steps, start=1):
        done = context.workspace.find(step.name, step.fingerprint) is not None
        state = "reused" if done else "making"
        context.progress.message(f"[{number}/{len(steps)}] {step.name} {step.fingerprint}: {state}")
        yield step, make(step, context)


def _save_record(folder: Path, record: RunRecord) -> None:
    write_json(
        folder / "run.json",
        {
            "name": record.name,
            "finished": record.finished,
            "config": record.config,
            "methods": record.methods,
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
    return RunRecord(value["name"], value["config"], steps, value["methods"], value["finished"])


def _link_models(graph: RunGraph, workspace: Workspace, folder: Path) -> None:
    """Put a link to each trained retriever beside the report, for people."""
    for method in graph.methods:
        if method.train is None:
            continue
        found = workspace.find(method.train.name, method.train.fingerprint)
        if found is None:
            continue
        link = folder / "retrievers" / method.name
        link.parent.mkdir(parents=True, exist_ok=True)
        target = Path("..", "..", "..", "artefacts", found.folder.name, "model")
        try:
            link.unlink(missing_ok=True)
            link.symlink_to(target, target_is_directory=True)
        except OSError:  # a file system without links: the run's record names the folder
            return
