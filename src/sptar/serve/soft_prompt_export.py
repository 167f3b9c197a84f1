"""A run's soft prompt, taken out for use elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sptar.config import RunConfig
from sptar.errors import ConfigError, WorkspaceError
from sptar.graph.methods import build_graph
from sptar.steps.augment import AugmentStep
from sptar.steps.base import Context
from sptar.workspace import Artefact

__all__ = ["TunedPrompt", "export_soft_prompt", "tuned_prompt"]

_SAMPLES = 8
"""Prompts on which the new words' logits are measured."""


@dataclass(frozen=True)
class TunedPrompt:
    """The augment step of a run whose soft prompt and examples are finished."""

    step: AugmentStep
    inputs: Mapping[str, Artefact]


def tuned_prompt(config: RunConfig, context: Context) -> TunedPrompt:
    """Find the finished soft prompt and examples of a config's method ``sptar``.

    Raises:
        ConfigError: the config has no such method, or tunes by LoRA.
        WorkspaceError: tuning or selection has not been run.
    """
    graph = build_graph(config, context.workspace)
    steps = [method.weak for method in graph.methods if method.tune is not None]
    step = next((step for step in steps if isinstance(step, AugmentStep)), None)
    if step is None:
        raise ConfigError("This config tunes no soft prompt.", hint="Add `sptar` to its `methods`.")
    missing = [
        name
        for name, below in step.inputs.items()
        if context.workspace.find(below.name, below.fingerprint) is None
    ]
    if missing:
        raise WorkspaceError(
            f"The step '{missing[0]}' has not been run in {context.workspace.root}.",
            hint="Type: sptar select CONFIG",
        )
    inputs = {name: below.artefact(context.workspace) for name, below in step.inputs.items()}
    if inputs["tune"].manifest.summary["method"] == "lora":
        raise ConfigError(
            "This config tunes by LoRA (`tune.method: lora`): there are no virtual tokens.",
            hint="The adapter in the artefact's folder loads with PEFT.",
        )
    return TunedPrompt(step, inputs)


def export_soft_prompt(
    config: RunConfig, context: Context, folder: Path, *, as_vocabulary: bool
) -> dict[str, object]:
    """Write the soft prompt as a PEFT folder, or into the vocabulary of a plain checkpoint.

    Returns:
        What was written, for people and scripts.

    Raises:
        ConfigError, WorkspaceError: see :func:`tuned_prompt`.
        ModelError: the folder is taken.
    """
    found = tuned_prompt(config, context)
    adapter = found.inputs["tune"].path("adapter")
    if not as_vocabulary:
        if folder.exists() and any(folder.iterdir()):
            raise WorkspaceError(f"{folder} is not empty.", hint="Give a new folder.")
        shutil.copytree(adapter, folder, dirs_exist_ok=True)
        return {"folder": str(folder), "kind": "PEFT prompt tuning"}
    from sptar.llm.vocabulary_export import export_as_vocabulary
    from sptar.steps.resources import open_collection, open_split
    from sptar.steps.tune import prompted_model
    from sptar.weak.select import load_selection

    model, soft_prompt = prompted_model(found.step.llm, found.inputs["tune"], context)
    assert soft_prompt is not None
    template = found.step.template(model, soft_prompt, found.inputs, context)
    examples = load_selection(found.inputs["select"].path("selection.json")).examples
    corpus = open_collection(found.inputs, context).corpus
    positions = open_split(found.inputs, context).augment[:_SAMPLES]
    export = export_as_vocabulary(
        model,
        soft_prompt,
        folder,
        prefix_ids=template.prefix_ids(examples),
        sample_ids=[template.document_ids(corpus[int(p)]).ids for p in positions],
    )
    return {
        "folder": str(folder),
        "kind": "checkpoint with the soft prompt in its vocabulary",
        "virtual_tokens": len(export.virtual_token_ids),
        "prefix_tokens": len(export.prefix_ids),
        "suppressed_by": export.suppressed_by,
        "margin": export.margin,
    }
