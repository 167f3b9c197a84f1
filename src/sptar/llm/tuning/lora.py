"""LoRA, for comparison with the soft prompt: same data, same loop, other parameters.

A LoRA adds a low-rank update to the weights of chosen layers (Hu et al., 2021); PEFT puts it in.
For generation the update is merged into a copy of the weights, so everything behind it stays as it
is.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sptar.config import TuneConfig
from sptar.errors import ConfigError, ModelError
from sptar.io import atomic_path, atomic_write_text, write_json
from sptar.llm.adapter_card import adapter_card
from sptar.llm.loading import LanguageModel, weights_hash
from sptar.llm.template import PromptTemplate
from sptar.llm.tuning.loop import TuningLoop
from sptar.llm.tuning.soft_prompts import TuningResult, tuning_provenance, tuning_result
from sptar.model_names import public_name
from sptar.progress import silent
from sptar.types import Pair, Progress

__all__ = ["LoraAdapter", "apply_lora", "tune_lora"]

_CONFIG_FILE = "adapter_config.json"
_WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """A finished LoRA: its tensors under PEFT's names, and PEFT's config of it."""

    tensors: dict[str, torch.Tensor]
    adapter_config: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Write a folder that ``PeftModel.from_pretrained`` loads; the config last."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / _WEIGHTS_FILE) as temporary:
            save_file(self.tensors, temporary, metadata={"format": "pt"})
        write_json(folder / "lora.json", self.provenance)
        base = str(self.adapter_config.get("base_model_name_or_path") or "")
        atomic_write_text(folder / "README.md", adapter_card("LoRA", base, self.provenance))
        write_json(folder / _CONFIG_FILE, self.adapter_config)
        return folder


def tune_lora(
    language_model: LanguageModel,
    template: PromptTemplate,
    train: Sequence[Pair],
    evaluation: Sequence[Pair],
    config: TuneConfig,
    seed: int,
    progress: Progress = silent,
    checkpoint_folder: Path | None = None,
) -> TuningResult:
    """Learn a LoRA on the same pairs, prompts and objective as a soft prompt.

    A soft prompt's learning rate is far too high for it: 1e-4 to 1e-3 is usual. The model is given
    back as it came; the result's ``adapter`` is a :class:`LoraAdapter`.

    Raises:
        ConfigError: the template makes room for virtual tokens, or no module has the names in
            ``config.lora_target_modules``.
        DataError, ModelError, WorkspaceError: as for a soft prompt.
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    if template.virtual_tokens:
        raise ConfigError(
            f"The prompt makes room for {template.virtual_tokens} virtual tokens, but LoRA has "
            "none."
        )
    targets = config.lora_target_modules
    adapter_config = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=targets if isinstance(targets, str) else list(targets),
        base_model_name_or_path=language_model.config.name,
    )
    loop = TuningLoop(language_model, template, train, evaluation, config, seed)
    before = weights_hash(language_model.model)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT turns `fan_in_fan_out` on for GPT-2 by itself and says so each time.
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        # PEFT uses what transformers has renamed; that is for its authors to know.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        try:
            wrapped = get_peft_model(language_model.model, adapter_config)
        except ValueError as error:
            raise ConfigError(
                f"`tune.lora_target_modules: {targets}` does not fit "
                f"{language_model.config.name}: {error}",
                hint="Set it to all-linear.",
            ) from None
    wrapped.eval()
    try:
        parameters = {
            name: parameter
            for name, parameter in wrapped.named_parameters()
            if parameter.requires_grad
        }
        state = loop.run(parameters, None, before, progress, checkpoint_folder)
        tensors = {
            name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in get_peft_model_state_dict(wrapped).items()
        }
        described = _plain(wrapped.peft_config["default"].to_dict())
    finally:
        wrapped.unload()
        language_model.model.requires_grad_(False)
    adapter = LoraAdapter(
        tensors=tensors,
        adapter_config={
            **described,
            "inference_mode": True,
            # A path of this machine would mean nothing on another one.
            "base_model_name_or_path": public_name(language_model.config.name),
        },
        provenance=tuning_provenance(language_model, template, loop, state, before),
    )
    trained = sum(parameter.numel() for parameter in parameters.values())
    return tuning_result(loop, adapter, state, trained, before, weights_hash(language_model.model))


def _plain(value: Any) -> Any:
    """PEFT's config as JSON values: sets sorted, enumerations by value."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(inner) for inner in value)
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return getattr(value, "value", value)


def apply_lora(language_model: LanguageModel, folder: str | Path) -> LanguageModel:
    """A language model with a LoRA merged into a copy of its weights.

    The given model stays as it is, so both need memory until it is dropped. Equal to the unmerged
    LoRA up to rounding.

    Raises:
        ModelError: the folder holds no LoRA in safetensors, or one for another model.
    """
    from peft import PeftModel

    folder = Path(folder)
    for name in (_CONFIG_FILE, _WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} holds no LoRA: there is no {name} in it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = PeftModel.from_pretrained(copy.deepcopy(language_model.model), str(folder))
            merged = wrapped.merge_and_unload(safe_merge=True)
    except Exception as error:
        raise ModelError(
            f"The LoRA in {folder} does not fit {language_model.config.name}: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    merged.eval()
    merged.requires_grad_(False)
    return replace(language_model, model=merged)
