"""Number formats that a config leaves to this machine, settled once for a work folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sptar import trials
from sptar.config import RunConfig
from sptar.workspace import Workspace

if TYPE_CHECKING:
    from sptar.tensors.formats import Work

__all__ = ["settled"]

_MADE_BY: dict[Work, tuple[str, ...]] = {
    "language_model": ("tune", "select", "augment"),
    "training": ("train",),
    "encoding": ("train", "encode"),
}
"""Steps whose artefacts say in which format a work folder has begun."""

_RECIPE: tuple[tuple[str, Work], ...] = (("dtype", "training"), ("encode_dtype", "encoding"))
"""Settings of a recipe that may be ``auto``."""


def settled(config: RunConfig, workspace: Workspace) -> RunConfig:
    """The config with a number format wherever it said ``auto``.

    The first to ask in a work folder tries this machine; from then on the folder keeps the answer,
    also on another machine, or its artefacts would have to be made anew. A folder that has
    artefacts already keeps the format of the first of them.

    Raises:
        ModelError: the device that is to be tried does not exist here.
    """
    trials.keep_in(workspace.trials)
    llm, train = config.llm, config.train
    if llm is not None and llm.dtype == "auto":
        # Whatever a hosted model calculates in, it is not settled here.
        hosted = llm.backend == "openai"
        format_ = "float32" if hosted else _format("language_model", llm.device, workspace)
        llm = llm.model_copy(update={"dtype": format_})
    asked = {name: getattr(train, name) for name, _ in _RECIPE}
    train = train.model_copy(update=_without_auto(asked, train.device, workspace))
    recipes = {
        name: {**values, **_without_auto(values, train.device, workspace)}
        for name, values in config.recipes.items()
    }
    return config.model_copy(update={"llm": llm, "train": train, "recipes": recipes})


def _without_auto(values: dict[str, Any], device: str, workspace: Workspace) -> dict[str, str]:
    return {
        name: _format(work, device, workspace)
        for name, work in _RECIPE
        if values.get(name) == "auto"
    }


def _format(work: Work, device: str, workspace: Workspace) -> str:
    def trial() -> dict[str, Any]:
        begun = _begun(work, workspace)
        if begun is not None:
            return {"format": begun, "reason": "the artefacts that lay in this work folder"}
        import torch

        from sptar.devices import usable_device
        from sptar.tensors.formats import try_formats

        setting = "llm.device" if work == "language_model" else "train.device"
        return try_formats(work, torch.device(usable_device(device, setting)))

    return str(trials.kept(f"number-format-{work}", trial)["format"])


def _begun(work: Work, workspace: Workspace) -> str | None:
    """The format of the oldest artefact of this work."""
    found = [
        manifest
        for manifest in workspace.manifests(_MADE_BY[work])
        # The vectors of a trained retriever have no settings of their own: its training has them.
        if manifest.step != "encode" or "start" in manifest.settings
    ]
    if not found:
        return None
    oldest = min(found, key=lambda manifest: manifest.finished_at).settings
    name = "encode_dtype" if work == "encoding" else "dtype"
    # A setting that came later stays out of an artefact's settings at its old value.
    return str(oldest.get("train", oldest).get(name, "float32"))
