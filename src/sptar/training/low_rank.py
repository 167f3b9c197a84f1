"""A low-rank update (LoRA) of an encoder's linear layers, put in and merged away again.

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2021 (arXiv 2106.09685); PEFT's
layers. The merged model is an ordinary one, which every library loads without PEFT.
"""

from __future__ import annotations

import warnings

import torch
from sentence_transformers.sentence_transformer.modules import Transformer

from sptar.errors import ModelError

__all__ = ["add_low_rank", "merge_low_rank"]


def add_low_rank(model: torch.nn.Module, rank: int, alpha: float) -> None:
    """Freeze a model and give all linear layers of its transformers a trainable update.

    It starts as zero, from a fixed seed: the model's vectors stay what they are.

    Raises:
        ModelError: there is no transformer with linear layers in it.
    """
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    bodies = [module for module in model.modules() if isinstance(module, Transformer)]
    if not bodies:
        raise ModelError(
            "The start has no transformer that LoRA could change.", hint="Choose another."
        )
    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear")
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        # PEFT turns `fan_in_fan_out` on for GPT-2 by itself and says so each time.
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        torch.manual_seed(0)
        for body in bodies:
            inject_adapter_in_model(settings, body.model)


def merge_low_rank(model: torch.nn.Module) -> None:
    """Add the updates to the weights and put the plain layers back; nothing to do without any."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {
        name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    }
    for name, layer in found.items():
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
