"""Adapters where a model is wanted: refused, because libraries put them on top without a word."""

from __future__ import annotations

from pathlib import Path

from sptar.errors import ModelError

__all__ = ["refuse_adapter"]

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model"


def refuse_adapter(name: str, revision: str | None = None) -> None:
    """Refuse a folder or repository that holds an adapter (LoRA or another), alone or not.

    Beside a model's own weights, transformers adds the adapter to them: after a merge it would
    count twice.

    Raises:
        ModelError: there is an ``adapter_config.json`` in it.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        found = next(iter(sorted(folder.rglob(_CONFIG))), None)
        beside = found is not None and any(
            not file.name.startswith(_WEIGHTS) for file in found.parent.glob("*.safetensors")
        )
    else:
        found, beside = _in_repository(name, revision), False
    if found is None:
        return
    if beside:
        raise ModelError(
            f"{name} holds an adapter ({_CONFIG}) beside the model, which would be put on top of "
            "the model's own weights.",
            hint=f"If it has been merged into them, delete {_CONFIG} and {_WEIGHTS}.safetensors; "
            "if not, merge it first (PEFT's merge_and_unload).",
        )
    raise ModelError(
        f"{name} is an adapter, not a model.",
        hint="Merge it first: load it with PEFT, then merge_and_unload() and save_pretrained("
        "FOLDER); a tuned soft prompt belongs in `tune.adapter`.",
    )


def _in_repository(name: str, revision: str | None) -> Path | None:
    from transformers.utils import cached_file

    try:
        found = cached_file(
            name,
            _CONFIG,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except Exception:  # whatever is wrong with the name is told when the model is loaded
        return None
    return None if found is None else Path(found)
