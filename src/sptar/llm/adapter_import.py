"""Import a soft prompt that somebody else tuned, from a PEFT folder with weights of either kind.

A ``.bin`` file is a pickle, which can run code when it is loaded. It is read by torch's restricted
unpickler, which builds tensors and nothing else, and only when it is of a plausible size.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from sptar.errors import ModelError
from sptar.llm.soft_prompt import WEIGHTS_FILE, SoftPrompt, checked_matrix, read_adapter_config

__all__ = ["LARGEST_BYTES", "import_adapter"]

LARGEST_BYTES = 64 * 2**20
"""A prompt of 1000 virtual tokens of width 16384 in float32 just fits."""

_PICKLE_FILE = "adapter_model.bin"


def import_adapter(folder: str | Path) -> SoftPrompt:
    """Read a prompt-tuning adapter; safetensors are taken where both kinds are there.

    Raises:
        ModelError: the folder is no prompt-tuning adapter, the pickle holds more than tensors (it
            is refused, not run), the file is too large, or matrix and config contradict each other.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ModelError(f"There is no adapter folder {folder}.", hint="Check `tune.adapter`.")
    config = read_adapter_config(folder)
    path = folder / WEIGHTS_FILE
    if path.is_file():
        prompt = SoftPrompt.load(folder)
        matrix, provenance = prompt.matrix, dict(prompt.provenance)
    else:
        path = folder / _PICKLE_FILE
        matrix, provenance = checked_matrix(_read_pickle(path), config, path), {}
    provenance["imported_from"] = f"{folder.name}/{path.name}"
    if config.get("prompt_tuning_init") == "TEXT":
        provenance.setdefault("init", "text")
        provenance.setdefault("init_text", config.get("prompt_tuning_init_text") or "")
    for key in ("num_layers", "num_attention_heads"):
        if isinstance(config.get(key), int):
            provenance.setdefault(key, config[key])
    return SoftPrompt(matrix, str(config.get("base_model_name_or_path") or ""), provenance)


def _read_pickle(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"There is neither {WEIGHTS_FILE} nor {_PICKLE_FILE} in {path.parent}.")
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(member.file_size for member in archive.infolist()))
    if size > LARGEST_BYTES:
        raise ModelError(
            f"{path} holds {size:,} bytes, more than any soft prompt needs ({LARGEST_BYTES:,})."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} was refused: it is damaged, or holds more than tensors, and such a file can "
            "run code when it is loaded.",
            hint="Do not load it with other tools unless you trust its source.",
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, not named tensors.")
    return content
