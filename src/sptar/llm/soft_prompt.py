"""The soft prompt: a matrix of virtual-token embeddings, kept as a folder that PEFT can load.

The folder holds ``adapter_config.json`` and ``adapter_model.safetensors`` as PEFT's prompt tuning
writes them, and ``soft_prompt.json`` with what the prompt was made from. Nothing in it is pickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sptar.config import TuneConfig
from sptar.errors import DataError, ModelError
from sptar.io import atomic_path, atomic_write_text, read_json, write_json
from sptar.llm.adapter_card import adapter_card
from sptar.llm.loading import LanguageModel
from sptar.model_names import public_name

__all__ = ["SoftPrompt", "checked_matrix", "initial_matrix", "read_adapter_config"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PROVENANCE_FILE = "soft_prompt.json"
MATRIX_KEY = "prompt_embeddings"

_PEFT_INITS = {"text": "TEXT", "vocabulary": "SAMPLE_VOCAB", "random": "RANDOM"}
_LARGEST_SAMPLE = 4096


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Virtual tokens for one language model.

    Attributes:
        matrix: float32 ``[virtual tokens, width of the input embeddings]``, on the CPU.
        base_model: folder or hub name of the model that it was learned for.
        provenance: plain JSON values that say what it was made from.
    """

    matrix: torch.Tensor
    base_model: str
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def virtual_tokens(self) -> int:
        """l_s, the length of the prompt."""
        return int(self.matrix.shape[0])

    @property
    def hidden_size(self) -> int:
        """Width of each virtual token."""
        return int(self.matrix.shape[1])

    @property
    def digest(self) -> str:
        """SHA-256 of the matrix: equal only for the same prompt."""
        return hashlib.sha256(self.matrix.contiguous().numpy().tobytes()).hexdigest()

    def check_fits(self, language_model: LanguageModel) -> None:
        """Raise :class:`~sptar.errors.ModelError` unless the width is the model's.

        Also where the model reads token ids, which virtual tokens do not have.
        """
        check_takes_virtual_tokens(language_model)
        if self.hidden_size != language_model.hidden_size:
            raise ModelError(
                f"The soft prompt has {self.virtual_tokens} virtual tokens of width "
                f"{self.hidden_size} (made for {self.base_model}), but "
                f"{language_model.config.name} has embeddings of width "
                f"{language_model.hidden_size}.",
                hint="Use the model that it was tuned for, or tune a prompt for this one.",
            )

    def embeddings(self, language_model: LanguageModel) -> torch.Tensor:
        """``[virtual tokens, width]`` on the model's device, in its number format.

        Raises:
            ModelError: the widths differ.
        """
        self.check_fits(language_model)
        return self.matrix.to(device=language_model.device, dtype=language_model.dtype)

    def save(self, folder: str | Path) -> Path:
        """Write the PEFT folder; each file appears whole or not at all, the config last."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        matrix = self.matrix.detach().to("cpu", torch.float32).contiguous()
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            save_file({MATRIX_KEY: matrix}, temporary, metadata={"format": "pt"})
        write_json(folder / PROVENANCE_FILE, self.provenance)
        card = adapter_card("soft prompt", self.base_model, self.provenance, self.virtual_tokens)
        atomic_write_text(folder / "README.md", card)
        write_json(folder / CONFIG_FILE, self._adapter_config())
        return folder

    def _adapter_config(self) -> dict[str, Any]:
        """The keys that PEFT's own ``save_pretrained`` writes for prompt tuning."""
        init = _PEFT_INITS.get(str(self.provenance.get("init")), "RANDOM")
        from_text = init == "TEXT"
        return {
            "auto_mapping": None,
            # PEFT's own key; a path of this machine would mean nothing on another one.
            "base_model_name_or_path": public_name(self.base_model),
            "inference_mode": True,
            "modules_to_save": None,
            "num_attention_heads": self.provenance.get("num_attention_heads"),
            "num_layers": self.provenance.get("num_layers"),
            "num_transformer_submodules": 1,
            "num_virtual_tokens": self.virtual_tokens,
            "peft_type": "PROMPT_TUNING",
            "prompt_tuning_init": init,
            "prompt_tuning_init_text": self.provenance.get("init_text", "") if from_text else None,
            "revision": self.provenance.get("revision"),
            "task_type": "CAUSAL_LM",
            "token_dim": self.hidden_size,
            "tokenizer_kwargs": None,
            "tokenizer_name_or_path": public_name(self.base_model) if from_text else None,
        }

    @classmethod
    def load(cls, folder: str | Path) -> SoftPrompt:
        """Read a PEFT prompt-tuning folder with safetensors weights.

        Raises:
            ModelError: the folder is no such folder, or config and weights contradict each other.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        config = read_adapter_config(folder)
        path = folder / WEIGHTS_FILE
        if not path.is_file():
            raise ModelError(
                f"There is no {WEIGHTS_FILE} in {folder}.",
                hint="A folder with adapter_model.bin must be imported first: set `tune.adapter`.",
            )
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is damaged: {error}.") from None
        provenance: dict[str, Any] = {}
        if (folder / PROVENANCE_FILE).is_file():
            provenance = _read_object(folder / PROVENANCE_FILE)
        return cls(
            matrix=checked_matrix(tensors, config, path),
            base_model=str(config.get("base_model_name_or_path") or ""),
            provenance=provenance,
        )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (DataError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object.")
    return value


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The ``adapter_config.json`` of a prompt-tuning folder.

    Raises:
        ModelError: it is missing, cannot be read, or is of another kind of adapter.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ModelError(
            f"{folder} is no soft prompt: there is no {CONFIG_FILE} in it.",
            hint="Give a folder that PEFT or `sptar` wrote.",
        )
    config = _read_object(path)
    kind = config.get("peft_type")
    if kind != "PROMPT_TUNING":
        raise ModelError(f"{path}: the adapter is of type {kind}, not PROMPT_TUNING.")
    for key in ("num_virtual_tokens", "token_dim"):
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise ModelError(f"{path}: `{key}` is {config.get(key)!r}, not a number above 0.")
    return config


def checked_matrix(
    tensors: Mapping[str, Any], config: Mapping[str, Any], path: Path
) -> torch.Tensor:
    """The virtual-token matrix among the tensors of a file, as float32.

    Raises:
        ModelError: there is anything but this one matrix, its shape is not the config's, or a
            value is not finite.
    """
    if set(tensors) != {MATRIX_KEY} or not isinstance(tensors[MATRIX_KEY], torch.Tensor):
        found = ", ".join(sorted(str(key) for key in tensors)[:5]) or "nothing"
        raise ModelError(f"{path} must hold one tensor, `{MATRIX_KEY}`; it holds {found}.")
    matrix: torch.Tensor = tensors[MATRIX_KEY]
    expected = (config["num_virtual_tokens"], config["token_dim"])
    if tuple(matrix.shape) != expected:
        raise ModelError(
            f"{path} holds a matrix of {' x '.join(str(size) for size in matrix.shape)}, but its "
            f"config says {expected[0]} x {expected[1]}."
        )
    if not matrix.is_floating_point():
        raise ModelError(f"{path} holds a matrix of {matrix.dtype}, not of real numbers.")
    matrix = matrix.detach().to("cpu", torch.float32).contiguous()
    if not torch.isfinite(matrix).all():
        raise ModelError(f"{path} holds values that are not finite: the tuning went wrong.")
    return matrix


def check_takes_virtual_tokens(language_model: LanguageModel) -> None:
    """Refuse a model that computes something else from embeddings than from their ids.

    Raises:
        ModelError: it does; in front of its text a virtual token would not be what was tuned.
    """
    if not language_model.verdict.takes_embeddings:
        raise ModelError(
            f"{language_model.config.name} cannot have a soft prompt: besides the embeddings it "
            "reads the token ids themselves, which virtual tokens do not have.",
            hint="Take another model, methods without a soft prompt (inpars), or "
            "`tune.method: lora`.",
        )


@torch.no_grad()
def initial_matrix(language_model: LanguageModel, config: TuneConfig, seed: int) -> torch.Tensor:
    """Start value of the soft prompt: float32 ``[config.virtual_tokens, hidden_size]``.

    ``text`` repeats or cuts the embeddings of ``config.init_text`` (tokenised without BOS; the
    published code repeats the BOS with the text); ``vocabulary`` takes those of tokens drawn
    without repeats; ``random`` draws normal numbers with the mean and spread of the vocabulary's
    embeddings, each dimension by itself.

    Raises:
        ModelError: the tokenizer makes no tokens of ``init_text``.
    """
    check_takes_virtual_tokens(language_model)
    count = config.virtual_tokens
    # A tokenizer can know more tokens than the table has rows: a pad token added afterwards.
    rows = int(language_model.model.get_input_embeddings().weight.shape[0])
    vocabulary = min(len(language_model.tokenizer), rows)
    generator = torch.Generator().manual_seed(seed)
    if config.init == "text":
        ids = language_model.encode(config.init_text)
        if not ids:
            raise ModelError(
                f"The tokenizer of {language_model.config.name} makes no tokens of "
                f"`tune.init_text: {config.init_text!r}`.",
                hint="Give a text in the model's language.",
            )
        chosen = torch.tensor([ids[position % len(ids)] for position in range(count)])
    elif config.init == "vocabulary":
        draws = -(-count // vocabulary)
        orders = [torch.randperm(vocabulary, generator=generator) for _ in range(draws)]
        chosen = torch.cat(orders)[:count]
    else:
        step = -(-vocabulary // _LARGEST_SAMPLE)
        sample = language_model.embed(torch.arange(0, vocabulary, step)).float().cpu()
        noise = torch.randn(count, language_model.hidden_size, generator=generator)
        drawn: torch.Tensor = noise * sample.std(dim=0) + sample.mean(dim=0)
        return drawn
    return language_model.embed(chosen).float().cpu().clone()
