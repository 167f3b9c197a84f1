"""The methods as graphs of steps: what would be made, and from what.

Methods share every step whose causes are the same: ``inpars`` after ``sptar`` finds split, BM25
index and comparison runs already made, and a further retriever finds the weak queries written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sptar.config import FilterConfig, RunConfig
from sptar.errors import ConfigError
from sptar.identity import model_content
from sptar.methods import method_named, target_of
from sptar.steps.augment import AugmentStep
from sptar.steps.base import Step
from sptar.steps.bm25 import Bm25IndexStep
from sptar.steps.collection import CollectionStep, pinned_source, source_identity
from sptar.steps.evaluate import CompareStep, EvaluateStep, RunStep
from sptar.steps.filter import FilterStep, RankStep
from sptar.steps.formats import settled
from sptar.steps.fuse import FuseStep
from sptar.steps.import_weak import ImportWeakStep
from sptar.steps.pairs import PairsStep
from sptar.steps.recipes import ModelIdentities, retrievers_of
from sptar.steps.retriever_chain import RetrieverChain, TrainingSets, searches_untrained
from sptar.steps.select import SelectStep
from sptar.steps.split import SplitStep
from sptar.steps.train import ChooseStep, TrainStep
from sptar.steps.tune import TuneStep
from sptar.steps.walk import everything_below, in_order, nearest
from sptar.workspace import Workspace

__all__ = ["STEP_ORDER", "MethodGraph", "RunGraph", "build_graph"]

STEP_ORDER = (
    "collection",
    "split",
    "bm25_index",
    "import_weak",
    "tune",
    "select",
    "augment",
    "rank",
    "filter",
    "pairs",
    "mine",
    "teach",
    "train",
    "choose",
    "encode",
    "bm25_search",
    "search",
    "rerank",
    "fuse",
    "evaluate",
    "compare",
)
"""Every step's name, in the order in which a run takes them as far as their inputs allow: rank by
rank rather than method by method, so that the language model is loaded once, does all its work, and
is gone before the first retriever trains. What is read from outside comes first: its faults must
not come up after hours of writing."""


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


class _Builder:
    """Builds the graph of a config; identities of files and models are read once."""

    def __init__(self, config: RunConfig, workspace: Workspace) -> None:
        self.config = config
        self.hashes = workspace.hashes
        data = pinned_source(config.data, self.hashes)
        self.collection = CollectionStep(data=data, identity=source_identity(data, self.hashes))
        self.split = SplitStep(
            collection=self.collection, split=config.split, seed=config.split_seed
        )
        self.index = Bm25IndexStep(collection=self.collection, filter=config.filter)
        self.models = ModelIdentities(self.hashes)
        self.chain = RetrieverChain(config, self.collection, self.split, self.index, self.models)

    @property
    def llm_identity(self) -> str:
        assert self.config.llm is not None
        llm = self.config.llm
        if llm.backend == "openai":
            # A hosted model has a name and nothing else that could be looked at.
            return f"hosted:{llm.served_name or llm.name}"
        return self.models.of(llm.name, llm.revision)

    def tune(self) -> TuneStep:
        config = self.config
        assert config.llm is not None
        adapter = config.tune.adapter
        return TuneStep(
            collection=self.collection,
            split=self.split,
            llm=config.llm,
            llm_identity=self.llm_identity,
            prompt=config.prompt,
            tune=config.tune,
            adapter_identity=None if adapter is None else model_content(adapter, self.hashes),
            max_new_tokens=config.augment.max_new_tokens,
            seed=config.seed,
        )

    def select(self, tuned: TuneStep | None) -> SelectStep:
        config = self.config
        assert config.llm is not None
        select = config.select
        if tuned is None:
            # InPars puts fixed examples into its prompt: one draw by seed, no scoring.
            select = select.model_copy(update={"choice": "first", "groups": 1})
        return SelectStep(
            collection=self.collection,
            split=self.split,
            # A draw reads no model.
            tune=None if select.choice == "first" else tuned,
            llm=config.llm,
            llm_identity=self.llm_identity,
            prompt=config.prompt,
            select=select,
            max_new_tokens=config.augment.max_new_tokens,
            pairs_per_query=config.tune.pairs_per_query,
            seed=config.seed,
        )

    def weak(self, method: str) -> AugmentStep | ImportWeakStep:
        config = self.config
        if method in config.weak_queries:
            file = config.weak_queries[method]
            return ImportWeakStep(
                collection=self.collection,
                split=self.split,
                file=file,
                file_hash=self.hashes.content(file),
            )
        assert config.llm is not None
        tuned = self.tune() if method_named(method).soft_prompt else None
        return AugmentStep(
            collection=self.collection,
            split=self.split,
            tune=tuned,
            select=self.select(tuned),
            llm=config.llm,
            llm_identity=self.llm_identity,
            prompt=config.prompt,
            style=method,
            augment=config.augment,
            seed=config.seed,
        )

    def filter(self, weak: AugmentStep | ImportWeakStep, k: int) -> FilterStep:
        settings = self.config.filter
        ranked = RankStep(
            collection=self.collection, bm25_index=self.index, weak=weak, filter=settings
        )
        return FilterStep(
            collection=self.collection, split=self.split, rank=ranked, filter=settings, k=k
        )

    def evaluated(self, run: RunStep) -> EvaluateStep:
        return EvaluateStep(
            collection=self.collection, split=self.split, run=run, evaluate=self.config.evaluate
        )


@dataclass(frozen=True)
class _Variant:
    """A method as it is trained once: its name, its training sets (none for ``zero_shot``)."""

    name: str
    method: str
    sets: TrainingSets | None
    weak: AugmentStep | ImportWeakStep | None = None
    filter: FilterStep | None = None


def _variants(builder: _Builder) -> list[_Variant]:
    """Every method of the config but BM25, for each cut-off that has a retriever of its own."""
    config = builder.config
    cutoffs = _cutoffs(config.filter)
    written = {
        method: builder.weak(method)
        for method in config.methods
        if method_named(method).takes_weak_queries
    }
    filters = {
        method: {k: builder.filter(weak, k) for k in cutoffs} for method, weak in written.items()
    }

    def pairs_of(method: str, k: int) -> PairsStep:
        others: tuple[FilterStep, ...] = ()
        if config.equal_pairs and len(written) > 1:
            others = tuple(filters[name][k] for name in written)
        own = filters[method][k]
        return PairsStep(
            collection=builder.collection,
            split=builder.split,
            filter=own,
            equal_to=others,
            seed=config.seed,
        )

    found: list[_Variant] = []
    for method in config.methods:
        row = method_named(method)
        if row.ranks_with == "bm25":
            continue
        if row.ranks_with == "start":
            found.append(_Variant(method, method, None))
        elif not row.takes_weak_queries:
            labels = PairsStep(
                collection=builder.collection,
                split=builder.split,
                filter=None,
                equal_to=(),
                seed=config.seed,
            )
            found.append(_Variant(method, method, TrainingSets(((0, labels),))))
        else:
            sets = [(k, pairs_of(method, k)) for k in cutoffs]
            if config.filter.k == "auto":
                groups = [(method, TrainingSets(tuple(sets), choose=True))]
            elif len(sets) > 1:
                groups = [(f"{method}@k={k}", TrainingSets(((k, pairs),))) for k, pairs in sets]
            else:
                groups = [(method, TrainingSets(tuple(sets)))]
            for name, group in groups:
                k = group.sets[0][0]
                found.append(_Variant(name, method, group, written[method], filters[method][k]))
    return found


def build_graph(config: RunConfig, workspace: Workspace) -> RunGraph:
    """The graph of a config: what would be made, and from what.

    Raises:
        ConfigError, DataError, ModelError: a retriever, file, folder or model that the config names
            is not there.
    """
    config = settled(config, workspace)
    retrievers = retrievers_of(config)
    builder = _Builder(config, workspace)
    several = len(retrievers) > 1
    methods: list[MethodGraph] = []
    left_out: dict[str, str] = {}
    for method in config.methods:
        if method_named(method).ranks_with == "bm25":
            run = builder.chain.bm25(config.evaluate.top_k)
            methods.append(MethodGraph(method, method, None, builder.evaluated(run)))
    variants = _variants(builder)
    # Retriever by retriever, as a table shows them.
    for retriever in retrievers:
        for variant in variants:
            name = f"{variant.name}/{retriever}" if several else variant.name
            if variant.sets is None and not searches_untrained(retriever):
                left_out[name] = f"{retriever} gives no sensible ranking before it is trained"
                continue
            methods.append(
                MethodGraph(
                    name,
                    variant.method,
                    retriever,
                    builder.evaluated(builder.chain.run(retriever, variant.sets)),
                    weak=variant.weak,
                    filter=variant.filter,
                )
            )
    if not methods:
        raise ConfigError(
            f"methods: nothing is left to run: {', '.join(left_out)} cannot be.",
            hint="Add a method that trains, such as no_augmentation.",
        )
    compare = None
    if len(methods) > 1:
        compare = CompareStep(
            scores=tuple((graph.name, graph.evaluate) for graph in methods),
            target=_target(methods, several),
            evaluate=config.evaluate,
            seed=config.seed,
        )
    return RunGraph(
        config,
        builder.collection,
        builder.split,
        builder.index,
        tuple(methods),
        compare,
        left_out,
    )


def _cutoffs(settings: FilterConfig) -> list[int]:
    if settings.k == "auto":
        return sorted(settings.auto_k)
    return sorted(settings.k) if isinstance(settings.k, list) else [settings.k]


def _target(methods: list[MethodGraph], several: bool) -> str:
    """What the verdict is about; with several retrievers it is one method with each of them."""
    method = target_of(graph.method for graph in methods)
    ranked = (graph for graph in methods if graph.method == method)
    chosen = next(ranked) if method_named(method).target_rank else methods[-1]
    return chosen.name.partition("/")[0] if several else chosen.name
