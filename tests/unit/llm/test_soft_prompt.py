"""The soft prompt's folder: what we write PEFT loads, and it gives the same loss."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sptar.config import LanguageModelConfig, PromptConfig, TuneConfig
from sptar.errors import ModelError
from sptar.llm.loading import LanguageModel, load_language_model
from sptar.llm.soft_prompt import SoftPrompt, initial_matrix
from sptar.llm.template import PromptTemplate
from sptar.llm.tuning.query_loss import prompt_row, query_losses
from tiny import LANGUAGE_MODEL_SHAPES, PAIRS, WIDTH

TOKENS = 7


def load(folder: Path) -> LanguageModel:
    return load_language_model(LanguageModelConfig(name=str(folder), device="cpu"))


def tune_config(**values: object) -> TuneConfig:
    return TuneConfig(virtual_tokens=TOKENS, **values)


def some_prompt(seed: int = 0) -> SoftPrompt:
    matrix = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
    return SoftPrompt(matrix, "a/model", {"init": "random", "seed": seed})


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_peft_loads_it_and_gets_the_same_loss(
    tiny_models: dict[str, Path], tmp_path: Path, shape: str
) -> None:
    from peft import PeftModel

    model = load(tiny_models[shape])
    prompt = some_prompt()
    folder = prompt.save(tmp_path / "prompt")
    template = PromptTemplate(model, PromptConfig(), virtual_tokens=TOKENS, max_new_tokens=8)
    rows = [prompt_row(template, PAIRS[:1], pair) for pair in PAIRS[1:6]]
    assert len({len(row.ids) for row in rows}) > 2
    ours = query_losses(model, prompt.embeddings(model), rows)

    theirs = PeftModel.from_pretrained(load(tiny_models[shape]).model, str(folder)).eval()
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        end = len(row.ids)
        ids[number, :end] = torch.tensor(row.ids)
        mask[number, :end] = 1
        labels[number, end - row.targets : end] = ids[number, end - row.targets : end]
    with torch.no_grad():
        batch = theirs(input_ids=ids, attention_mask=mask, labels=labels)
        # PEFT's loss is the mean over all target tokens of the batch, ours is one for each row.
        weights = torch.tensor([row.targets for row in rows], dtype=torch.float32)
        assert batch.loss.item() == pytest.approx(
            float((ours * weights).sum() / weights.sum()), abs=1e-5
        )
        for number in range(len(rows)):
            one = slice(number, number + 1)
            alone = theirs(input_ids=ids[one], attention_mask=mask[one], labels=labels[one])
            assert alone.loss.item() == pytest.approx(ours[number].item(), abs=1e-5)


def test_save_and_load_keep_every_bit(tmp_path: Path) -> None:
    prompt = some_prompt()
    folder = prompt.save(tmp_path / "prompt")
    back = SoftPrompt.load(folder)
    assert torch.equal(back.matrix, prompt.matrix)
    assert back.matrix.dtype == torch.float32
    assert (back.base_model, back.provenance) == (prompt.base_model, prompt.provenance)
    assert (back.virtual_tokens, back.hidden_size) == (TOKENS, WIDTH)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "README.md",
        *("adapter_config.json", "adapter_model.safetensors", "soft_prompt.json"),
    ]


@pytest.mark.parametrize("init", ["text", "vocabulary", "random"])
def test_config_has_the_keys_that_peft_writes(tmp_path: Path, init: str) -> None:
    from peft import PromptTuningConfig

    prompt = SoftPrompt(torch.ones(3, 4), "a/model", {"init": init, "init_text": "some text"})
    ours = json.loads((prompt.save(tmp_path / "ours") / "adapter_config.json").read_text())
    theirs = PromptTuningConfig.from_pretrained(str(tmp_path / "ours"))
    theirs.save_pretrained(str(tmp_path / "theirs"))
    written = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    written.pop("peft_version", None)
    assert ours == written


def test_an_export_names_no_path_of_this_machine_and_has_a_card(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    base = tmp_path / "models" / "my-model"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    provenance = {"init": "text", "init_text": "x", "train_pairs": 7, "best_evaluation_loss": 2.5}
    prompt = SoftPrompt(some_prompt().matrix, str(base), provenance)
    folder = prompt.save(tmp_path / "prompt")
    told = json.loads((folder / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == told["tokenizer_name_or_path"] == "my-model"
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.base_model) == ("peft", "my-model")
    assert card.data.license == "mit"
    assert f"{TOKENS} virtual tokens for `my-model`" in card.text
    assert "labelled pairs that it learned from: 7" in card.text
    # A hub name stays, and one that nobody noted is not made up.
    hub = SoftPrompt(some_prompt().matrix, "org/model").save(tmp_path / "hub")
    assert "base_model: org/model\n" in (hub / "README.md").read_text()
    unknown = SoftPrompt(some_prompt().matrix, "").save(tmp_path / "unknown")
    assert "base_model" not in (unknown / "README.md").read_text()


def test_start_from_text_repeats_and_cuts(tiny_models: dict[str, Path]) -> None:
    model = load(tiny_models["llama"])
    ids = model.encode("glass sand")
    assert 1 < len(ids) < TOKENS
    table = model.model.get_input_embeddings().weight
    matrix = initial_matrix(model, tune_config(init_text="glass sand"), 0)
    for position in range(TOKENS):
        assert torch.equal(matrix[position], table[ids[position % len(ids)]])
    long = "the ferry to the island leaves at seven in the morning"
    matrix = initial_matrix(model, tune_config(init_text=long), 0)
    assert torch.equal(matrix, table[model.encode(long)[:TOKENS]])
    assert not matrix.requires_grad


def test_start_from_vocabulary_takes_its_rows(tiny_models: dict[str, Path]) -> None:
    model = load(tiny_models["gpt2"])
    table = model.model.get_input_embeddings().weight
    matrix = initial_matrix(model, tune_config(init="vocabulary"), 1)
    found = [int(torch.where((table == row).all(dim=1))[0][0]) for row in matrix]
    assert len(set(found)) == TOKENS
    assert torch.equal(matrix, initial_matrix(model, tune_config(init="vocabulary"), 1))
    assert not torch.equal(matrix, initial_matrix(model, tune_config(init="vocabulary"), 2))


def test_random_start_has_the_spread_of_the_vocabulary(tiny_models: dict[str, Path]) -> None:
    model = load(tiny_models["gpt2"])
    config = TuneConfig(virtual_tokens=500, init="random")
    matrix = initial_matrix(model, config, 1)
    table = model.model.get_input_embeddings().weight
    assert matrix.std().item() == pytest.approx(table.std().item(), rel=0.05)
    assert torch.equal(matrix, initial_matrix(model, config, 1))
    assert not torch.equal(matrix, initial_matrix(model, config, 2))


@pytest.mark.parametrize("init", ["vocabulary", "random"])
def test_a_tokenizer_that_is_longer_than_the_table(
    tiny_models: dict[str, Path], tmp_path: Path, init: str
) -> None:
    # A pad token was added afterwards, and the table was not resized.
    folder = shutil.copytree(tiny_models["gpt2"], tmp_path / "padded")
    plain = load(tiny_models["gpt2"])
    plain.tokenizer.add_special_tokens({"pad_token": "<pad>"})
    plain.tokenizer.save_pretrained(folder)
    padded = load(folder)
    table = padded.model.get_input_embeddings().weight
    assert len(padded.tokenizer) == len(table) + 1
    count = len(table) + 5
    matrix = initial_matrix(padded, TuneConfig(virtual_tokens=count, init=init), 3)
    assert matrix.shape == (count, WIDTH)
    if init == "vocabulary":
        # Each row once before any comes again.
        assert torch.equal(matrix[: len(table)].sort(dim=0).values, table.sort(dim=0).values)
    else:
        torch.testing.assert_close(matrix.mean(dim=0), table.mean(dim=0), atol=0.05, rtol=0)


def test_text_without_tokens(tiny_models: dict[str, Path]) -> None:
    model = load(tiny_models["bert"])
    with pytest.raises(ModelError, match="makes no tokens"):
        initial_matrix(model, tune_config(init_text=" \t "), 0)


def test_prompt_of_another_width(tiny_models: dict[str, Path]) -> None:
    prompt = SoftPrompt(torch.zeros(50, 4096), "a/llama-7b")
    with pytest.raises(ModelError, match=r"50 virtual tokens of width 4096.*width 32"):
        prompt.embeddings(load(tiny_models["llama"]))


def test_embeddings_take_the_format_of_the_model(tiny_models: dict[str, Path]) -> None:
    config = LanguageModelConfig(name=str(tiny_models["llama"]), device="cpu", dtype="bfloat16")
    prompt = some_prompt()
    assert prompt.embeddings(load_language_model(config)).dtype == torch.bfloat16
    assert prompt.matrix.dtype == torch.float32


def broken(tmp_path: Path, change: dict[str, object]) -> Path:
    folder = some_prompt().save(tmp_path / "prompt")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LORA"}, "of type LORA, not PROMPT_TUNING"),
        ({"num_virtual_tokens": 8}, "7 x 32, but its config says 8 x 32"),
        ({"token_dim": "32"}, "`token_dim` is '32'"),
        ({"num_virtual_tokens": None}, "`num_virtual_tokens` is None"),
    ],
)
def test_broken_config(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        SoftPrompt.load(broken(tmp_path, change))


def test_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no soft prompt"):
        SoftPrompt.load(tmp_path)
    folder = some_prompt().save(tmp_path / "prompt")
    weights = folder / "adapter_model.safetensors"
    matrix = load_file(weights)["prompt_embeddings"].clone()

    matrix[2, 3] = float("nan")
    save_file({"prompt_embeddings": matrix}, weights)
    with pytest.raises(ModelError, match="not finite"):
        SoftPrompt.load(folder)
    save_file({"prompt_embeddings": torch.zeros(7, 32, dtype=torch.int64)}, weights)
    with pytest.raises(ModelError, match="not of real numbers"):
        SoftPrompt.load(folder)
    save_file({"other": torch.zeros(7, 32)}, weights)
    with pytest.raises(ModelError, match="it holds other"):
        SoftPrompt.load(folder)
    weights.write_bytes(b"cut")
    with pytest.raises(ModelError, match="is damaged"):
        SoftPrompt.load(folder)
    weights.unlink()
    with pytest.raises(ModelError, match=r"There is no adapter_model\.safetensors"):
        SoftPrompt.load(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        SoftPrompt.load(folder)
