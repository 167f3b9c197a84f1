"""Does another engine write what the built-in one writes? Greedy text, document by document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sptar.address import masked_address
from sptar.config import RunConfig
from sptar.errors import ConfigError
from sptar.serve.soft_prompt_export import tuned_prompt
from sptar.steps.base import Context
from sptar.steps.resources import open_collection, open_split
from sptar.types import Generation, GenerationRequest

__all__ = ["EngineCheck", "TextDifference", "check_engine"]


@dataclass(frozen=True, slots=True)
class TextDifference:
    """What the two engines wrote for one document."""

    doc_id: str
    built_in: str
    other: str


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """How many greedy texts agree; ``dtype`` is the number format of the built-in engine."""

    engine: str
    dtype: str
    documents: int
    equal: int
    differences: tuple[TextDifference, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return asdict(self)


def check_engine(
    config: RunConfig, context: Context, documents: int, export: Path | None = None
) -> EngineCheck:
    """Compare the built-in engine with the config's server, or with an exported checkpoint.

    Args:
        config: a run whose tuning and selection are finished.
        context: workspace and progress.
        documents: how many of the documents to augment are tried.
        export: a folder of :func:`sptar.serve.soft_prompt_export.export_soft_prompt`, run by plain
            transformers from token ids alone; without it, the config names a server.

    Raises:
        ConfigError: there is nothing to compare with.
    """
    if export is None and config.llm is not None and config.llm.backend != "vllm":
        raise ConfigError(
            "There is no other engine to compare with.",
            hint="Set `llm.backend: vllm` and `llm.base_url`, or give --export FOLDER.",
        )
    found = tuned_prompt(config, context)
    greedy = found.step.augment.model_copy(update={"decoding": "greedy", "queries_per_document": 1})
    step = replace(found.step, augment=greedy)
    built_in = replace(step, llm=step.llm.model_copy(update={"backend": "transformers"}))
    corpus = open_collection(found.inputs, context).corpus
    positions = open_split(found.inputs, context).augment[:documents]
    requests = [GenerationRequest(corpus[int(position)]) for position in positions]
    ours = built_in.generator(found.inputs, context).generate(requests)
    theirs: Sequence[Generation]
    if export is not None:
        from sptar.llm.vocabulary_export import ExportedGenerator
        from sptar.steps.tune import prompted_model

        model, soft_prompt = prompted_model(step.llm, found.inputs["tune"], context)
        template = step.template(model, soft_prompt, found.inputs, context)
        theirs = ExportedGenerator(export, template).generate(requests)
        engine = f"plain transformers on {export}"
    else:
        theirs = step.generator(found.inputs, context).generate(requests)
        engine = f"{step.llm.backend} at {masked_address(step.llm.base_url or '')}"
    differences = tuple(
        TextDifference(
            request.document.doc_id,
            own.raw,
            other.raw if other.refusal is None else f"(nothing: {other.refusal})",
        )
        for request, own, other in zip(requests, ours, theirs, strict=True)
        if own.raw != other.raw or other.refusal is not None
    )
    return EngineCheck(
        engine=engine,
        dtype=step.llm.dtype,
        documents=len(requests),
        equal=len(requests) - len(differences),
        differences=differences,
    )
