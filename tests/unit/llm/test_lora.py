"""LoRA: same interface as the soft prompt, and the base model comes back as it was."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from sptar.config import LanguageModelConfig, PromptConfig, TuneConfig
from sptar.errors import ConfigError, ModelError
from sptar.llm.loading import LanguageModel, load_language_model, weights_hash
from sptar.llm.template import PromptTemplate
from sptar.llm.tuning.loop import TuningLoop
from sptar.llm.tuning.lora import apply_lora, tune_lora
from sptar.llm.tuning.query_loss import prompt_row, query_losses
from sptar.llm.tuning.soft_prompts import TuningResult
from tiny import LANGUAGE_MODEL_SHAPES, PAIRS

TRAIN, EVALUATION = PAIRS[:4], PAIRS[4:6]


def load(folder: Path) -> LanguageModel:
    return load_language_model(LanguageModelConfig(name=str(folder), device="cpu"))


def template(model: LanguageModel, tokens: int = 0) -> PromptTemplate:
    prompt = PromptConfig(max_document_tokens=24, max_query_tokens=16)
    return PromptTemplate(model, prompt, virtual_tokens=tokens, max_new_tokens=8)


def tune(
    model: LanguageModel, checkpoint_folder: Path | None = None, **values: object
) -> TuningResult:
    config = TuneConfig(
        **{"method": "lora", "epochs": 3, "learning_rate": 0.01, "lora_rank": 4} | values
    )
    return tune_lora(
        model,
        template(model),
        TRAIN,
        EVALUATION,
        config,
        7,
        checkpoint_folder=checkpoint_folder,
    )


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_lora_learns_is_saved_and_merged(
    tiny_models: dict[str, Path], tmp_path: Path, shape: str
) -> None:
    from peft import PeftModel

    model = load(tiny_models[shape])
    names = [name for name, _ in model.model.named_modules()]
    before = weights_hash(model.model)
    result = tune(model, epochs=6)
    assert result.history[-1].training_loss < result.history[0].training_loss - 0.5
    assert result.best_evaluation_loss < result.initial_evaluation_loss
    assert result.weights_hash_before == result.weights_hash_after == before
    assert [name for name, _ in model.model.named_modules()] == names
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert not model.model.training
    with pytest.raises(TypeError, match="LoraAdapter"):
        _ = result.soft_prompt

    folder = result.adapter.save(tmp_path / "lora")
    for path in folder.iterdir():
        assert str(tiny_models[shape]).encode() not in path.read_bytes()
    assert "library_name: peft" in (folder / "README.md").read_text()
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "lora.json",
    ]
    merged = apply_lora(model, folder)
    assert weights_hash(model.model) == before
    assert not any(parameter.requires_grad for parameter in merged.model.parameters())
    # Merged into the weights, it has the loss that tuning saw.
    loop = TuningLoop(merged, template(merged), TRAIN, EVALUATION, TuneConfig(), 7)
    assert loop.evaluation_loss(None) == pytest.approx(result.best_evaluation_loss, abs=1e-4)

    # And PEFT reads the folder.
    rows = [prompt_row(template(model), [PAIRS[0]], pair) for pair in PAIRS[1:3]]
    wrapped = PeftModel.from_pretrained(load(tiny_models[shape]).model, str(folder)).eval()
    with torch.no_grad():
        ours = query_losses(merged, None, rows)
        for row, loss in zip(rows, ours, strict=True):
            ids = torch.tensor([row.ids])
            labels = ids.clone()
            labels[:, : -row.targets] = -100
            assert wrapped(input_ids=ids, labels=labels).loss.item() == pytest.approx(
                loss.item(), abs=1e-4
            )


def test_result_depends_on_the_seed_alone(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    model = load(tiny_models["llama"])
    first = tune(model)
    torch.manual_seed(99)
    torch.rand(5)
    second = tune(model, checkpoint_folder=tmp_path)
    resumed = tune(model, checkpoint_folder=tmp_path)
    for other in (second, resumed):
        assert first.adapter.tensors.keys() == other.adapter.tensors.keys()
        for name, tensor in first.adapter.tensors.items():
            assert torch.equal(tensor, other.adapter.tensors[name])


def test_trainable_parameters_are_counted(tiny_models: dict[str, Path]) -> None:
    model = load(tiny_models["llama"])
    result = tune(model, lora_target_modules=["q_proj"], epochs=1)
    # Two layers; each has a 4 x 32 and a 32 x 4 matrix.
    assert result.trainable_parameters == 2 * (4 * 32 + 32 * 4)
    assert sum(tensor.numel() for tensor in result.adapter.tensors.values()) == 512


def test_nothing_is_said_of_future_releases(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    model = load(tiny_models["llama"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        folder = tune(model, epochs=1).adapter.save(tmp_path / "lora")
        apply_lora(model, folder)


def test_unknown_modules(tiny_models: dict[str, Path]) -> None:
    model = load(tiny_models["llama"])
    before = weights_hash(model.model)
    with pytest.raises(ConfigError, match="lora_target_modules.*does not fit"):
        tune(model, lora_target_modules=["no_such_layer"])
    assert weights_hash(model.model) == before


def test_template_with_virtual_tokens(tiny_models: dict[str, Path]) -> None:
    model = load(tiny_models["llama"])
    with pytest.raises(ConfigError, match="LoRA has none"):
        tune_lora(model, template(model, 5), TRAIN, EVALUATION, TuneConfig(), 0)


def test_folders_that_do_not_fit(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    llama = load(tiny_models["llama"])
    with pytest.raises(ModelError, match="holds no LoRA"):
        apply_lora(llama, tmp_path)
    folder = tune(llama, epochs=1).adapter.save(tmp_path / "lora")
    with pytest.raises(ModelError, match="does not fit"):
        apply_lora(load(tiny_models["gpt2"]), folder)
