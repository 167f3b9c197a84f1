"""The methods as graphs of steps: what would be made, and from what.

Methods share every step whose causes are the same: ``inpars`` after ``sptar`` finds split, BM25
index and comparison runs already made, and a further retriever finds the weak queries written.
"""

from __future__ import annotations

from dataclasses import dataclass

from sptar.config import FilterConfig, RunConfig
from sptar.errors import ConfigError
from sptar.graph.retrievers import RetrieverChain, TrainingSets, searches_untrained
from sptar.graph.runs import MethodGraph, RunGraph
from sptar.identity import model_content
from sptar.methods import method_named, target_of
from sptar.steps.augment import AugmentStep
from sptar.steps.bm25 import Bm25IndexStep
from sptar.steps.collection import CollectionStep, pinned_source, source_identity
from sptar.steps.evaluate import CompareStep, EvaluateStep, RunStep
from sptar.steps.filter import FilterStep, RankStep
from sptar.steps.formats import settled
from sptar.steps.import_weak import ImportWeakStep
from sptar.steps.pairs import PairsStep
from sptar.steps.recipes import ModelIdentities, retrievers_of
from sptar.steps.select import SelectStep
from sptar.steps.split import SplitStep
from sptar.steps.tune import TuneStep
from sptar.workspace import Workspace

__all__ = ["build_graph"]


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
