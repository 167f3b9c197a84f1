"""The README.md of a soft prompt or a LoRA: its model, what it was made from, how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sptar.model_names import licence_of, public_name

__all__ = ["adapter_card"]


def adapter_card(
    kind: str, base_model: str, provenance: Mapping[str, Any], virtual_tokens: int = 0
) -> str:
    """Markdown with the front matter that the Hugging Face hub reads; no paths of any machine.

    Args:
        kind: ``soft prompt`` or ``LoRA``.
        base_model: folder or hub name of the language model, empty where nobody knows it.
        provenance: what tuning noted, see :func:`sptar.llm.tuning.soft_prompts.tuning_provenance`.
        virtual_tokens: length of a soft prompt.
    """
    base = public_name(base_model) if base_model else ""
    tag = "prompt-tuning" if virtual_tokens else "lora"
    lines = [
        "---",
        "library_name: peft",
        "pipeline_tag: text-generation",
        f"tags: [{tag}, query-generation, sptar]",
        *([f"base_model: {base}"] if base else []),
        f"license: {(licence_of(base_model) if base_model else None) or 'unknown'}",
        "---",
        "",
        f"# A {kind} that makes a language model write queries for documents",
        "",
        f"{f'{virtual_tokens} virtual tokens' if virtual_tokens else 'A low-rank update'} for "
        f"`{base or 'a language model that nobody noted'}`, tuned with SPTAR on pairs of a "
        "document and a query. The model itself is unchanged and not in this folder.",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{base or "BASE"}")  # or its folder',
        'model = PeftModel.from_pretrained(model, "path/to/this/folder")',
        "```",
    ]
    facts = [
        f"- {words}: {provenance[key]}"
        for key, words in _FACTS.items()
        if provenance.get(key) is not None
    ]
    if facts:
        lines += ["", "## Tuning", *facts]
    return "\n".join([*lines, ""])


_FACTS = {
    "train_pairs": "labelled pairs that it learned from",
    "evaluation_pairs": "labelled pairs that chose the epoch",
    "best_epoch": "epoch that was kept",
    "initial_evaluation_loss": "loss for one token on those before tuning",
    "best_evaluation_loss": "and after it",
    "seed": "seed",
    "revision": "revision of the language model",
    "base_model_weights": "hash of its weights",
}
"""What a reader may want to know of the provenance, in words."""
