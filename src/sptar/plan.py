"""What a run would do: which steps are there, which are not, how long writing would take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sptar.config import RunConfig
from sptar.data.unlabelled import refuse_none
from sptar.foreseen import refuse_settings, try_starts
from sptar.graph.methods import build_graph
from sptar.graph.runs import RunGraph
from sptar.pipeline import refusal
from sptar.steps.augment import AugmentStep
from sptar.steps.base import Context, Step, make
from sptar.steps.encode import EncodeStep
from sptar.steps.rerank import RerankStep
from sptar.steps.resources import labelled_pairs, language_model, open_collection, open_split
from sptar.steps.select import SelectStep
from sptar.steps.train import TrainStep
from sptar.steps.trial_times import (
    StepTime,
    selecting_seconds,
    times_of_retrievers,
    tuning_seconds,
)
from sptar.steps.tune import TuneStep
from sptar.types import Generator
from sptar.workspace import Artefact, Workspace

__all__ = ["Plan", "PlannedStep", "PlannedWork", "Probe", "plan"]

_PROBE_DOCUMENTS = 16


@dataclass(frozen=True)
class PlannedStep:
    """A step and its state: ``reuse``, ``resume`` (unfinished work lies there) or ``make``."""

    name: str
    fingerprint: str
    state: str
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Probe:
    """A short trial of the generator on some documents.

    ``tuned`` says that no prompt was tried at the start value of its tuning: with that, answers
    tend to be longer and the estimate too careful.
    ``seconds`` is the estimate for all documents of all methods that still have to be written;
    ``model_bytes`` are the weights, ``cache_bytes`` the key/value cache of one full batch.
    """

    documents: int
    tuned: bool
    documents_per_second: float
    documents_to_write: int
    seconds: float
    model_bytes: int
    cache_bytes: int
    available_bytes: int | None

    @property
    def fits(self) -> bool | None:
        """Whether weights and cache fit into the memory that is free now; None if unknown."""
        if self.available_bytes is None:
            return None
        # The weights are loaded already when the free memory is measured.
        return self.cache_bytes < self.available_bytes


@dataclass(frozen=True)
class PlannedWork:
    """How much there is to write and to tune on, as the split says.

    The pairs are those that tuning and the choice of examples read, ``all_…`` those that the labels
    make; they are 0 where the run tunes nothing.
    """

    documents: int
    documents_to_augment: int
    train_pairs: int = 0
    all_train_pairs: int = 0
    evaluation_pairs: int = 0
    all_evaluation_pairs: int = 0


@dataclass(frozen=True)
class Plan:
    """All steps in order, the probe if one was made, and why methods are left out.

    ``work`` is known when the split is there, or was made for the probe.
    """

    name: str
    steps: tuple[PlannedStep, ...]
    probe: Probe | None
    left_out: dict[str, str] = field(default_factory=dict)
    refused: str | None = None
    """Why ``sptar run`` would not begin: a finished run of this name would lose its scores."""
    times: tuple[StepTime, ...] = ()
    """Estimates for the steps that are to be made, where there were trials. Tuning and training
    are counted with all their epochs; what lies there unfinished is counted whole."""
    not_counted: tuple[str, ...] = ()
    """Steps that are to be made and have no estimate."""
    work: PlannedWork | None = None

    @property
    def seconds(self) -> float:
        """All estimates together."""
        return sum(found.seconds for found in self.times)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return asdict(self)


def plan(config: RunConfig, context: Context, *, probe: bool) -> Plan:
    """The plan of a config.

    What a config alone cannot be is refused as a run would. With ``probe`` also what the data and
    the models tell: the collection is read and split (both are kept: a run reuses them), every
    start encoder is loaded, the language model is tuned, asked for losses and writes queries for a
    few documents, and each recipe's start trains and reads a little; nothing else is made.
    """
    workspace = context.workspace
    graph = build_graph(config, workspace)
    users: dict[str, list[str]] = {}
    for method in graph.methods:
        for step in method.evaluate.upstream():
            users.setdefault(step.fingerprint, []).append(method.name)
    steps = tuple(
        PlannedStep(
            step.name,
            step.fingerprint,
            _state(step, workspace),
            tuple(users.get(step.fingerprint, [method.name for method in graph.methods])),
        )
        for step in graph.steps()
    )
    to_make = [step for step in graph.steps() if _state(step, workspace) != "reuse"]
    refuse_settings(config, to_make)
    missing = [step for step in to_make if isinstance(step, AugmentStep)]
    work = _work(graph, context, make_split=probe)
    if missing and work is not None:
        refuse_none(work.documents_to_augment, config.split)
    if probe:
        try_starts(to_make, context)
    measured, times = _trials(graph, missing, context) if probe else (None, [])
    counted = {found.name for found in times}
    refused = refusal(config, graph, workspace)
    return Plan(
        config.name,
        steps,
        measured,
        dict(graph.left_out),
        None if refused is None else str(refused),
        tuple(times),
        tuple(
            dict.fromkeys(
                step.name
                for step in steps
                # The trials have made collection and split.
                if times
                and step.name not in counted
                and workspace.find(step.name, step.fingerprint) is None
            )
        ),
        work,
    )


def _trials(
    graph: RunGraph, missing: list[AugmentStep], context: Context
) -> tuple[Probe | None, list[StepTime]]:
    """Short trials of what takes longest, and what follows for the steps that are to be made."""
    todo = [step for step in graph.steps() if _state(step, context.workspace) != "reuse"]
    if not any(
        isinstance(step, AugmentStep | TuneStep | TrainStep | EncodeStep | RerankStep)
        for step in todo
    ):
        return None, []
    inputs = {
        "collection": make(graph.collection, context).artefact,
        "split": make(graph.split, context).artefact,
    }
    times: list[StepTime] = []
    tunings = [step for step in todo if isinstance(step, TuneStep)]
    tuned = [tuning_seconds(step, inputs, context) for step in tunings]
    known = [seconds for seconds in tuned if seconds is not None]
    if known and len(known) == len(tunings):
        times.append(StepTime(TuneStep.name, len(known), sum(known)))
    chosen = [
        selecting_seconds(step, inputs, context) for step in todo if isinstance(step, SelectStep)
    ]
    if chosen:
        times.append(StepTime(SelectStep.name, len(chosen), sum(chosen)))
    probe = None
    # A server's model is not here to be tried.
    if missing and missing[0].llm.backend == "transformers":
        probe = _probe(graph, missing, inputs, context)
        times.append(StepTime(missing[0].name, len(missing), probe.seconds))
    times += times_of_retrievers(todo, inputs, context)
    return probe, times


def _work(graph: RunGraph, context: Context, *, make_split: bool) -> PlannedWork | None:
    if not make_split and _state(graph.split, context.workspace) != "reuse":
        return None
    inputs = {
        "collection": make(graph.collection, context).artefact,
        "split": make(graph.split, context).artefact,
    }
    collection, split = open_collection(inputs, context), open_split(inputs, context)
    counts = PlannedWork(len(collection.corpus), len(split.augment))
    if not any(True for _ in graph.steps(["tune"])):
        return counts
    bound, seed = graph.config.tune.pairs_per_query, graph.config.seed
    train, everything = (
        len(labelled_pairs(collection, split.train, most, seed)) for most in (bound, None)
    )
    evaluation, all_evaluation = (
        len(labelled_pairs(collection, split.evaluation, most, seed)) for most in (bound, None)
    )
    return replace(
        counts,
        train_pairs=train,
        all_train_pairs=everything,
        evaluation_pairs=evaluation,
        all_evaluation_pairs=all_evaluation,
    )


def _state(step: Step, workspace: Workspace) -> str:
    if workspace.find(step.name, step.fingerprint) is not None:
        return "reuse"
    return "resume" if workspace.started(step.name, step.fingerprint) else "make"


def _probe(
    graph: RunGraph,
    missing: list[AugmentStep],
    inputs: Mapping[str, Artefact],
    context: Context,
) -> Probe:
    from sptar.llm.engine.generation import PromptedGenerator
    from sptar.llm.soft_prompt import SoftPrompt, initial_matrix
    from sptar.types import GenerationRequest

    config = graph.config
    assert config.llm is not None
    collection = open_collection(inputs, context)
    split = open_split(inputs, context)
    examples = labelled_pairs(collection, split.train)[: config.prompt.examples]
    positions = split.augment[:: max(1, len(split.augment) // _PROBE_DOCUMENTS)]
    documents = [collection.corpus[int(p)] for p in positions[:_PROBE_DOCUMENTS]]
    model = language_model(config.llm, context)
    requests = [GenerationRequest(document) for document in documents]
    rows = len(split.augment) * config.augment.queries_per_document
    seconds, cache, tuned = 0.0, 0, True
    # Prompts with virtual tokens and prompts without are tried apart.
    for soft in (True, False):
        alike = [step for step in missing if _has_soft_prompt(step) == soft]
        if not alike:
            continue
        prompt = None
        if soft:
            matrix = initial_matrix(model, config.tune, config.seed)
            prompt = SoftPrompt(matrix, config.llm.name, {})
        template = alike[0].template(model, prompt, inputs, context)
        ready = next((step for step in alike if _inputs_ready(step, context.workspace)), None)
        generator: Generator = PromptedGenerator(
            model, template, prompt, examples, config.augment, seed=config.seed
        )
        if ready is not None:
            made = {name: step.artefact(context.workspace) for name, step in ready.inputs.items()}
            generator = ready.generator(made, context)
        tuned = tuned and (ready is not None or not soft)
        generator.generate(requests[:1])  # the first call also pays for the prefix
        begin = time.perf_counter()
        generator.generate(requests)
        each = (time.perf_counter() - begin) / len(requests)
        seconds += each * rows * len(alike)
        cache = max(cache, _cache_bytes(model, template, config))
    weights = sum(weight.numel() * weight.element_size() for weight in model.model.parameters())
    return Probe(
        documents=len(requests),
        tuned=tuned,
        documents_per_second=rows * len(missing) / seconds,
        documents_to_write=rows * len(missing),
        seconds=seconds,
        model_bytes=weights,
        cache_bytes=cache,
        available_bytes=_available_bytes(),
    )


def _has_soft_prompt(step: AugmentStep) -> bool:
    return isinstance(step.tune, TuneStep) and step.tune.tune.method == "soft_prompt"


def _inputs_ready(step: AugmentStep, workspace: Workspace) -> bool:
    """Whether a step could begin at once."""
    return all(
        workspace.find(below.name, below.fingerprint) is not None for below in step.inputs.values()
    )


def _cache_bytes(model: Any, template: Any, config: RunConfig) -> int:
    """Keys and values of a full batch: 2 × layers × heads × width × tokens × rows × bytes."""
    settings = model.model.config.get_text_config()
    heads = settings.num_attention_heads
    width = getattr(settings, "head_dim", None) or settings.hidden_size // heads
    shared = getattr(settings, "num_key_value_heads", None) or heads
    budget = template.document_budget or config.prompt.max_document_words * 2
    tokens = (
        template.virtual_tokens + (config.prompt.examples + 1) * budget + template.max_new_tokens
    )
    element = model.dtype.itemsize
    per_row = 2 * settings.num_hidden_layers * shared * width * tokens * element
    return int(per_row * config.augment.batch_size)


def _available_bytes() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
