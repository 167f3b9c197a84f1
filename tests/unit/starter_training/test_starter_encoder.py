"""The training of starter-encoder: what is masked, that it learns, and that it can be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder import Settings, first_layers, learning_rate, losses, main, read_texts, train
from masked_windows import Windows
from sequences import IGNORED
from starter_text import passage_rows
from starter_trainings import Killed, kill_at, log_of, weights, without_seconds
from text_rows import KeptAside

from sptar.errors import DataError, ModelError, WorkspaceError

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
SMALL = Settings(
    layers=1,
    steps=12,
    rows=6,
    tokens=32,
    learning_rate=3e-3,
    warm_up=2,
    validate_every=5,
    validation_batches=1,
    checkpoint_every=4,
    dtype="float32",
)
OWN = replace(SMALL, shape=SHAPE)
MILL = "where the old mill turns slowly by the river " * 200


@pytest.fixture(scope="module")
def bert(tiny_models: dict[str, Path]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_models["bert"])


def windows(tokenizer: Any, text: str = "", **changes: Any) -> Windows:
    values = {"tokens": 22, "masked_share": 0.15, "seed": 0, **changes}
    return Windows(
        [text or "where the old mill turns slowly by the river " * 200], tokenizer, **values
    )


def test_eight_of_ten_words_are_masked_one_is_another_and_one_stays(bert: Any) -> None:
    found = windows(bert)
    batch = found.batch("train/0", 1000)
    rows = len(found)
    assert batch.ids.shape == batch.targets.shape == (rows, 22)
    assert (batch.ids[:, 0] == bert.cls_token_id).all()
    assert (batch.ids[:, -1] == bert.sep_token_id).all()
    asked = batch.targets != IGNORED
    assert (asked.sum(axis=1) == 3).all()
    assert not asked[:, [0, -1]].any()
    masked = batch.ids[asked] == bert.mask_token_id
    same = batch.ids[asked] == batch.targets[asked]
    assert 0.7 < masked.mean() < 0.9
    assert 0.04 < same.mean() < 0.18
    assert 0.04 < (~masked & ~same).mean() < 0.18
    other = batch.ids[asked][~masked & ~same]
    assert not set(other.tolist()) & set(bert.all_special_ids)
    assert set(found.ordinary.tolist()) | set(bert.all_special_ids) == set(range(len(bert)))
    # With the targets put back, the rows are pieces of the text.
    whole = np.where(asked, batch.targets, batch.ids)[:, 1:-1]
    flat = bert([MILL], add_special_tokens=False)
    ids = flat["input_ids"][0]
    pieces = {tuple(ids[first : first + 20]) for first in range(0, len(ids) - 19, 20)}
    assert {tuple(row) for row in whole.tolist()} == pieces


def test_a_batch_is_named_by_seed_and_number(bert: Any) -> None:
    one, again = windows(bert).batch("train/7", 4), windows(bert).batch("train/7", 4)
    assert (one.ids == again.ids).all()
    assert (one.targets == again.targets).all()
    assert (one.ids != windows(bert).batch("train/8", 4).ids).any()
    assert (one.ids != windows(bert, seed=1).batch("train/7", 4).ids).any()


def test_special_words_in_a_text_are_plain(bert: Any) -> None:
    found = windows(bert, "a [MASK] b [SEP] c [CLS] d " * 50)
    batch = found.batch("train/0", 100)
    whole = np.where(batch.targets != IGNORED, batch.targets, batch.ids)[:, 1:-1]
    assert not set(whole.ravel().tolist()) & {
        bert.mask_token_id,
        bert.sep_token_id,
        bert.cls_token_id,
    }


def test_a_text_that_fills_no_piece_is_refused(bert: Any) -> None:
    with pytest.raises(DataError, match="less than one piece of 20"):
        windows(bert, "too short")


def test_the_language_models_held_out_pages_are_held_out_here(text_folder: Path) -> None:
    texts = read_texts(text_folder, 0)
    rows = passage_rows()
    kept_aside = KeptAside(rows)
    assert sorted(texts.held_out) == sorted(row["text"] for row in rows if kept_aside(row))
    assert texts.held_out
    assert not set(texts.held_out) & set(texts.trained)
    assert len(texts.held_out) + len(texts.trained) == len(rows)


def test_the_start_is_the_language_models_beginning_turned_round(
    tiny_models: dict[str, Path],
) -> None:
    from transformers import AutoModelForCausalLM

    causal = AutoModelForCausalLM.from_pretrained(tiny_models["bert"]).state_dict()
    model = first_layers(tiny_models["bert"], 1).eval()
    ours = model.state_dict()
    assert set(ours) < set(causal)
    assert all(torch.equal(ours[name], causal[name]) for name in ours)
    assert not any("layer.1." in name for name in ours)
    with torch.no_grad():
        one, two = (
            model.bert(input_ids=torch.tensor([[20, 21, 22, last]])).last_hidden_state[0, 0]
            for last in (23, 24)
        )
    assert not torch.allclose(one, two)


@pytest.mark.parametrize(
    ("shape", "layers", "said"), [("llama", 1, "shape"), ("bert", 3, "2 layers")]
)
def test_a_start_that_does_not_fit_is_refused(
    tiny_models: dict[str, Path], shape: str, layers: int, said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        first_layers(tiny_models[shape], layers)


def test_the_loss_is_that_of_the_masked_words(tiny_models: dict[str, Path], bert: Any) -> None:
    model = first_layers(tiny_models["bert"], 2).eval()
    batch = windows(bert).batch("train/0", 3)
    with torch.no_grad():
        found = losses(model, *batch.to("cpu"), "float32")
        logits = model(input_ids=torch.from_numpy(batch.ids)).logits.double()
    slow = [
        -torch.log_softmax(logits[row, place], dim=0)[batch.targets[row, place]].item()
        for row in range(3)
        for place in range(22)
        if batch.targets[row, place] != IGNORED
    ]
    assert found.tolist() == pytest.approx(slow, abs=1e-4)


@pytest.mark.parametrize("own_shape", [False, True], ids=["first layers", "own shape"])
def test_it_learns_and_sentence_transformers_loads_it(
    tiny_models: dict[str, Path],
    bpe_folder: Path,
    text_folder: Path,
    tmp_path: Path,
    own_shape: bool,
) -> None:
    from sentence_transformers import SentenceTransformer

    start = bpe_folder if own_shape else tiny_models["bert"]
    chosen = replace(OWN if own_shape else SMALL, steps=60, rows=16, validate_every=60)
    folder = train(chosen, start, text_folder, tmp_path)
    rows = log_of(tmp_path)
    told = [row["loss"] for row in rows if "loss" in row]
    assert told[-1] < 0.8 * told[0]
    first, last = (row["held_out_perplexity"] for row in rows if "held_out_perplexity" in row)
    assert last < 0.6 * first
    encoder = SentenceTransformer(str(folder), device="cpu")
    ids = encoder.tokenizer("an old ladder")["input_ids"]
    assert (ids[0], ids[-1]) == (encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id)
    vectors = encoder.encode(["an old ladder", "an old ladder", "the wet cellar " * 300])
    assert vectors.shape == (3, 32)
    assert np.isfinite(vectors).all()
    assert np.allclose(vectors[0], vectors[1], atol=1e-3)
    assert not np.allclose(vectors[0], vectors[2], atol=1e-2)


@pytest.mark.parametrize("own_shape", [False, True], ids=["first layers", "own shape"])
def test_a_stopped_training_ends_with_the_same_encoder(
    tiny_models: dict[str, Path],
    bpe_folder: Path,
    text_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own_shape: bool,
) -> None:
    start, chosen = (bpe_folder, OWN) if own_shape else (tiny_models["bert"], SMALL)
    whole = train(chosen, start, text_folder, tmp_path / "whole")
    for stop_at in (5, 10):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, stop_at)
            train(chosen, start, text_folder, tmp_path / "stopped")
    # What was drawn elsewhere in between must not matter.
    torch.rand(3)
    resumed = train(chosen, start, text_folder, tmp_path / "stopped")
    assert weights(resumed) == weights(whole)
    ours, theirs = (without_seconds(log_of(tmp_path / name)) for name in ("stopped", "whole"))
    assert ours == theirs
    with pytest.raises(WorkspaceError, match=r"another masked_share\."):
        train(replace(chosen, masked_share=0.2), start, text_folder, tmp_path / "stopped")


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    chosen = replace(SMALL, steps=100, warm_up=10, learning_rate=1.0)
    assert learning_rate(chosen, 0) == pytest.approx(0.1)
    assert learning_rate(chosen, 50) == pytest.approx(0.5)
    assert learning_rate(chosen, 99) == pytest.approx(0.01)


def test_the_command_reads_a_file_of_settings(
    bpe_folder: Path, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"  {name}: {value}" for name, value in SHAPE.items()]
    text = "\n".join(["shape:", *lines, "steps: 2", "rows: 2", "tokens: 16", "learning_rate: 1e-3"])
    (tmp_path / "settings.yaml").write_text(text)
    arguments = ["--start", str(bpe_folder), "--text", str(text_folder)]
    arguments += ["--out", str(tmp_path / "out"), "--settings", str(tmp_path / "settings.yaml")]
    monkeypatch.setattr("sys.argv", ["encoder.py", *arguments])
    main()
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
