"""What a run would do: which steps are there, which are not, how long writing would take."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sptar.config import RunConfig
from sptar.graph import RunGraph, build_graph
from sptar.pipeline import refusal
from sptar.steps.augment import AugmentStep
from sptar.steps.base import Context, Step, make
from sptar.steps.resources import labelled_pairs, language_model, open_collection, open_split
from sptar.workspace import Workspace

__all__ = ["Plan", "PlannedStep", "Probe", "plan"]

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

    ``tuned`` says whether the tuned prompt of a finished step was there to be tried; with the
    prompt's start value, answers tend to be longer and the estimate too careful.
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
class Plan:
    """All steps in order, the probe if one was made, and why methods are left out."""

    name: str
    steps: tuple[PlannedStep, ...]
    probe: Probe | None
    left_out: dict[str, str] = field(default_factory=dict)
    refused: str | None = None
    """Why ``sptar run`` would not begin: a finished run of this name would lose its scores."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return asdict(self)


def plan(config: RunConfig, context: Context, *, probe: bool) -> Plan:
    """The plan of a config.

    With ``probe`` the collection is read and split (both are kept: a run reuses them) and the
    language model writes queries for a few documents; nothing else is made.
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
    missing = [
        step
        for step in graph.steps(["augment"])
        if isinstance(step, AugmentStep) and _state(step, workspace) != "reuse"
    ]
    # A server's model is not here to be tried.
    here = config.llm is not None and config.llm.backend == "transformers"
    measured = _probe(graph, missing, context) if probe and missing and here else None
    refused = refusal(config, graph, workspace)
    return Plan(
        config.name,
        steps,
        measured,
        dict(graph.left_out),
        None if refused is None else str(refused),
    )


def _state(step: Step, workspace: Workspace) -> str:
    if workspace.find(step.name, step.fingerprint) is not None:
        return "reuse"
    return "resume" if workspace.started(step.name, step.fingerprint) else "make"


def _probe(graph: RunGraph, missing: list[AugmentStep], context: Context) -> Probe:
    from sptar.llm.generation import PromptedGenerator
    from sptar.llm.soft_prompt import SoftPrompt, initial_matrix
    from sptar.llm.template import PromptTemplate
    from sptar.types import GenerationRequest

    config = graph.config
    assert config.llm is not None
    inputs = {
        "collection": make(graph.collection, context).artefact,
        "split": make(graph.split, context).artefact,
    }
    collection = open_collection(inputs, context)
    split = open_split(inputs, context)
    examples = labelled_pairs(collection, split.train)[: config.prompt.examples]
    positions = split.augment[:: max(1, len(split.augment) // _PROBE_DOCUMENTS)]
    documents = [collection.corpus[int(p)] for p in positions[:_PROBE_DOCUMENTS]]
    model = language_model(config.llm, context)
    template = PromptTemplate(
        model,
        config.prompt,
        virtual_tokens=config.tune.virtual_tokens,
        max_new_tokens=config.augment.max_new_tokens,
    )
    ready = next((step for step in missing if _inputs_ready(step, context.workspace)), None)
    if ready is not None:
        made = {name: step.artefact(context.workspace) for name, step in ready.inputs.items()}
        generator = ready.generator(made, context)
    else:
        matrix = initial_matrix(model, config.tune, config.seed)
        generator = PromptedGenerator(
            model,
            template,
            SoftPrompt(matrix, config.llm.name, {}),
            examples,
            config.augment,
            seed=config.seed,
        )
    requests = [GenerationRequest(document) for document in documents]
    generator.generate(requests[:1])  # the first call also pays for the prefix
    begin = time.perf_counter()
    generator.generate(requests)
    rate = len(requests) / (time.perf_counter() - begin)
    rows = len(split.augment) * config.augment.queries_per_document * len(missing)
    weights = sum(weight.numel() * weight.element_size() for weight in model.model.parameters())
    return Probe(
        documents=len(requests),
        tuned=ready is not None,
        documents_per_second=rate,
        documents_to_write=rows,
        seconds=rows / rate,
        model_bytes=weights,
        cache_bytes=_cache_bytes(model, template, config),
        available_bytes=_available_bytes(),
    )


def _inputs_ready(step: AugmentStep, workspace: Workspace) -> bool:
    """Whether a step with a soft prompt could begin at once."""
    return step.tuned is not None and all(
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
        config.tune.virtual_tokens
        + (config.prompt.examples + 1) * budget
        + config.augment.max_new_tokens
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
