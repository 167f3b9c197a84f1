"""Loading: what the record says, and a sentence for everything that can go wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sptar.config import LanguageModelConfig
from sptar.errors import ModelError
from sptar.llm.device import choose_device, choose_dtype
from sptar.llm.loading import LanguageModel, load_language_model, weights_hash
from tiny import CONTEXT_TOKENS, LANGUAGE_MODEL_SHAPES, WIDTH

DOC2QUERY = Path("../shared/models/doc2query-v0")


def load(folder: Path | str, **settings: object) -> LanguageModel:
    return load_language_model(
        LanguageModelConfig(name=str(folder), **{"device": "cpu"} | settings)
    )


def copy(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_record_of_each_shape(tiny_models: dict[str, Path], shape: str) -> None:
    model = load(tiny_models[shape])
    tokenizer = model.tokenizer
    assert model.context_tokens == CONTEXT_TOKENS
    assert model.hidden_size == WIDTH
    assert model.dtype == torch.float32
    assert model.verdict.shares
    assert model.verdict.continues
    assert model.verdict.takes_embeddings
    assert model.verdict.takes_positions
    assert model.verdict.hides_padding
    assert not model.model.training
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    # Only LLaMA has a BOS; BERT's [CLS] opens a classification, not a text.
    assert model.begin_token_ids == ((tokenizer.bos_token_id,) if shape == "llama" else ())
    end = tokenizer.sep_token_id if shape == "bert" else tokenizer.eos_token_id
    assert model.end_token_id == end
    assert model.newline_token_id is not None
    assert tokenizer.decode([model.newline_token_id]) == "\n"
    by_hand = {token for token in range(len(tokenizer)) if "\n" in tokenizer.decode([token])}
    assert model.stop_token_ids == by_hand | {end}
    if shape == "bert":
        assert model.newline_token_id == len(tokenizer) - 1


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_special_tokens_in_a_text_are_text(tiny_models: dict[str, Path], shape: str) -> None:
    model = load(tiny_models[shape])
    special = set(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
    for text in ("a </s> b", "a <|endoftext|> b", "a [SEP] b", "<s>"):
        assert not special & set(model.encode(text))


@pytest.mark.parametrize("doubles", [True, False])
def test_pieces_join_when_the_tokenizer_adds_a_blank(
    tiny_models: dict[str, Path], tmp_path: Path, doubles: bool
) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # SentencePiece puts a blank in front of every text: LLaMA-2's even when there is one.
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    if doubles:
        blanks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        backend.normalizer = normalizers.Sequence(blanks)
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("▁+"), "merged_with_next")
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=90, special_tokens=["<unk>", "</s>"], show_progress=False
    )
    backend.train_from_iterator(["Document: the moss drinks a\n", "the query is"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"
    )
    folder = copy(tiny_models["llama"], tmp_path / "sentence_piece")
    tokenizer.save_pretrained(folder)
    model = load(folder)
    assert model.adds_leading_blank
    joined = model.tokenizer("Document: the moss", add_special_tokens=False)["input_ids"]
    assert model.encode("Document:") + model.encode(" the moss") == joined
    if doubles:
        unaware = replace(model, adds_leading_blank=False)
        assert unaware.encode("Document:") + unaware.encode(" the moss") != joined


def test_hash_sees_one_changed_bit(tiny_models: dict[str, Path]) -> None:
    model = load(tiny_models["gpt2"]).model
    before = weights_hash(model)
    assert before == weights_hash(load(tiny_models["gpt2"]).model)
    weight = model.transformer.h[1].mlp.c_fc.weight
    with torch.no_grad():
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert weights_hash(model) != before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_number_formats(tiny_models: dict[str, Path], dtype: str) -> None:
    model = load(tiny_models["llama"], dtype=dtype)
    assert model.dtype == getattr(torch, dtype) == model.model.dtype


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model folder"):
        load(tmp_path / "nowhere")


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file"):
        load(tmp_path / "file")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)


def test_unreachable_hub() -> None:
    with pytest.raises(ModelError, match="hub cannot be reached, and nobody/no-such-model"):
        load("nobody/no-such-model")


def test_pickled_weights_are_refused_unread(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(tiny_models["gpt2"], tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(ModelError, match="only pickled weights"):
        load(folder)


def test_no_weights_at_all(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(tiny_models["gpt2"], tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no model weights"):
        load(folder)


def test_damaged_weights(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(tiny_models["gpt2"], tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_no_tokenizer(tiny_models: dict[str, Path], tmp_path: Path, shape: str) -> None:
    folder = copy(tiny_models[shape], tmp_path / shape)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="no tokenizer that can be loaded"):
        load(folder)


def test_tokenizer_of_another_model(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    from tiny import causal_lm

    folder = causal_lm("bert", tmp_path / "small", vocabulary=300)
    for path in tiny_models["bert"].glob("tokenizer*"):
        shutil.copy(path, folder)
    with pytest.raises(ModelError, match="do not belong together"):
        load(folder)


def test_a_word_that_the_model_does_not_have(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = copy(tiny_models["gpt2"], tmp_path / "longer")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["ferryboat"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="knows 513 tokens, and its model only 512"):
        load(folder)


def adapter_of(base: Path, folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    settings = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    get_peft_model(model, settings).save_pretrained(folder)
    return folder


def test_adapter_files_left_beside_the_merged_model(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = copy(tiny_models["llama"], tmp_path / "merged")
    for path in adapter_of(tiny_models["llama"], tmp_path / "adapter").glob("adapter_*"):
        shutil.copy(path, folder)
    with pytest.raises(ModelError, match=r"beside the model.*merged into them, delete"):
        load(folder)


def test_an_adapter_alone_is_no_model(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is an adapter, not a model\. Merge it first"):
        load(adapter_of(tiny_models["llama"], tmp_path / "adapter"))


def test_the_table_of_positions_bounds_the_context(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    import transformers

    # RoBERTa's first position is the row behind the padding's.
    config = transformers.RobertaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=100, pad_token_id=4, is_decoder=True,
        bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    folder = copy(tiny_models["llama"], tmp_path / "roberta")
    transformers.RobertaForCausalLM(config).save_pretrained(folder)
    model = load(folder)
    assert model.context_tokens == 95
    assert not model.verdict.takes_positions
    model.model(input_ids=torch.full((1, 95), 20))
    with pytest.raises((IndexError, RuntimeError)):
        model.model(input_ids=torch.full((1, 96), 20))


def test_encoder_is_no_language_model(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="weights are missing"):
        load(tiny_encoder)


def test_sequence_to_sequence_is_no_causal_model(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = copy(tiny_models["gpt2"], tmp_path / "t5")
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "vocab_size": 512}))
    with pytest.raises(ModelError, match="not a causal language model"):
        load(folder)


def test_model_that_looks_ahead_is_refused(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(tiny_models["bert"], tmp_path / "both_ways")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"is_decoder": False}))
    with pytest.raises(ModelError, match="see those behind them"):
        load(folder)


def test_code_of_the_model_is_not_run(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(tiny_models["gpt2"], tmp_path / "remote")
    witness = tmp_path / "executed"
    (folder / "code.py").write_text(f"open({str(witness)!r}, 'w').close()\n")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "code.C"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="its own Python code, which is not run unasked"):
        load(folder)
    assert not witness.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_asked_and_absent() -> None:
    with pytest.raises(
        ModelError, match="`llm.device: cuda:0` is asked for, but torch cannot compute there"
    ):
        choose_device("cuda:0")
    assert choose_device("auto").type in ("cpu", "mps")


def test_unknown_device_and_dtype() -> None:
    with pytest.raises(ModelError, match="`llm.device: abacus` names no device"):
        choose_device("abacus")
    with pytest.raises(ModelError, match="`llm.device: meta` is asked for, but torch cannot"):
        choose_device("meta")
    with pytest.raises(ModelError, match="`dtype: int3` is unknown"):
        choose_dtype("int3", torch.device("cpu"))


@pytest.mark.skipif(not DOC2QUERY.is_dir(), reason="the shared model is not here")
def test_real_small_generator() -> None:
    model = load(DOC2QUERY)
    assert model.context_tokens == 512
    assert model.newline_token_id == 30522
    assert model.end_token_id == 102
    assert model.stop_token_ids == {102, 30522}
    assert model.begin_token_ids == ()
    # Its tokenizer.json asks for truncation at 32 tokens, which must not cut documents.
    assert len(model.encode("word " * 100)) == 100
