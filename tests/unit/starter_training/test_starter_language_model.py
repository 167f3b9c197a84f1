"""The training of starter-lm: its loss, that it learns, and that stops do not matter."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from batches import Batch, padded
from language_model import (
    Settings,
    backward,
    learning_rate,
    llama_config,
    losses,
    losses_by_style,
    main,
    new_model,
    perplexities,
    perplexity_by_style,
    train,
    trainable,
)
from pairs import StyledPair
from sequences import IGNORED, PairStore, Template
from settings import read_settings
from starter_trainings import Killed, kill_at, log_of, weights, without_seconds
from wordings import alike

from sptar.config import LanguageModelConfig
from sptar.errors import ConfigError, WorkspaceError
from sptar.io import write_jsonl
from sptar.llm.loading import LanguageModel, load_language_model
from tiny import DOCUMENTS, LANGUAGE_MODEL_SHAPES, QUERIES

TOOLS = Path(__file__).parents[3] / "tools" / "starter"
EIGHT = [
    StyledPair("question", "s", query.text, document.full_text, False)
    for query, document in zip(QUERIES, DOCUMENTS, strict=False)
]
SMALL = Settings(
    steps=12,
    styles={"question": 1.0, "title": 0.5},
    step_tokens=400,
    sequence_tokens=200,
    document_tokens=30,
    query_tokens=12,
    learning_rate=3e-3,
    warm_up=2,
    validate_every=5,
    validation_sequences=2,
    checkpoint_every=4,
    dtype="float32",
)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def eight_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight questions to train, and three titles and questions that are kept aside."""
    rows = [vars(pair) for pair in EIGHT]
    rows += [{**row, "held_out": True, "style": "title"} for row in rows[:3]]
    rows += [{**row, "held_out": True} for row in rows[5:8]]
    path = tmp_path_factory.mktemp("eight") / "pairs.jsonl"
    write_jsonl(path, rows)
    return path


def load(folder: Path) -> LanguageModel:
    return load_language_model(LanguageModelConfig(name=str(folder), device="cpu"))


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_the_loss_counts_the_queries_tokens_and_nothing_else(
    tiny_models: dict[str, Path], shape: str
) -> None:
    model = load(tiny_models[shape])
    template = Template(model, 20, 12)
    sequences = [template.sequence(EIGHT[:3], 250), template.sequence(EIGHT[4:5], 250)]
    slow = []
    with torch.no_grad():
        for sequence in sequences:
            logits = model.model(input_ids=torch.tensor([sequence.ids])).logits[0].double()
            for begin, end in sequence.queries:
                for place in range(begin, end):
                    chances = torch.softmax(logits[place - 1], dim=0)
                    slow.append(-math.log(chances[sequence.ids[place]].item()))
        found = losses(model.model, *padded(sequences).to("cpu"), "float32")
    queries = [*EIGHT[:3], EIGHT[4]]
    end = model.encode(" \n") if shape != "bert" else [model.newline_token_id]
    tokens = [min(12, len(model.encode(" " + pair.query))) + len(end) for pair in queries]
    assert len(found) == len(slow) == sum(tokens)
    assert found.tolist() == pytest.approx(slow, abs=1e-4)


@pytest.mark.parametrize("shape", LANGUAGE_MODEL_SHAPES)
def test_padding_changes_no_loss(tiny_models: dict[str, Path], shape: str) -> None:
    model = load(tiny_models[shape])
    template = Template(model, 20, 12)
    short = template.sequence(EIGHT[2:3], 250)
    long = template.sequence(EIGHT[:4], 250)
    with torch.no_grad():
        alone = losses(model.model, *padded([short]).to("cpu"), "float32")
        batch = padded([short, long])
        other = Batch(batch.ids.copy(), batch.targets, batch.tokens)
        other.ids[0, len(short.ids) :] = 7
        for some in (batch, other):
            together = losses(model.model, *some.to("cpu"), "float32")
            assert torch.allclose(together[: len(alone)], alone, atol=1e-5)


def test_how_a_step_is_cut_into_batches_changes_no_gradient(tiny_models: dict[str, Path]) -> None:
    loaded = trainable(tiny_models["llama"], SMALL)
    template = Template(loaded, 20, 12)
    sequences = [template.sequence(EIGHT[n : n + 1 + n % 2], 250) for n in range(6)]
    found = []
    for cut in ([sequences], [sequences[:1], sequences[1:4], sequences[4:]]):
        loaded.model.zero_grad()
        result = backward(loaded.model, [padded(some) for some in cut], SMALL)
        gradients = [parameter.grad.clone() for parameter in loaded.model.parameters()]
        found.append((result, gradients))
    (one, ours), (two, theirs) = found
    assert one.loss == pytest.approx(two.loss, abs=1e-5)
    assert one.tokens == two.tokens == sum(len(sequence.ids) for sequence in sequences)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_perplexity_is_that_of_the_last_query(tiny_models: dict[str, Path], share: float) -> None:
    model = load(tiny_models["llama"])
    template = Template(model, 30, 12)
    store = PairStore([EIGHT[0], EIGHT[1], EIGHT[2], vars_as(EIGHT[3], "title")], SMALL.styles)
    chosen = replace(SMALL, validation_sequences=3)
    by_query = losses_by_style(model.model, store, template, chosen, reworded_share=share)
    found = perplexity_by_style(model.model, store, template, chosen, reworded_share=share)
    # One title is too few to show two examples before it.
    assert list(found) == list(by_query) == ["question"]
    assert found == perplexities(by_query)
    for examples in range(3):
        each: list[float] = []
        for number in range(chosen.validation_sequences):
            order = random.Random(f"validation/question/{number}")
            pairs = alike(store.draw(order, 3, "question"), share, order)
            ids: list[int] = list(model.begin_token_ids)
            for place, pair in enumerate(pairs[2 - examples :]):
                ids += model.encode(" Document:" if place else "Document:")
                ids += model.encode(" " + pair.document)[:30] + model.encode(" \n Relevant Query:")
                query = model.encode(" " + pair.query)[:12] + model.encode(" \n")
                ids += query
            logits = model.model(input_ids=torch.tensor([ids])).logits[0]
            chances = torch.log_softmax(logits.double(), dim=-1)
            each += [
                -chances[place - 1, ids[place]].item()
                for place in range(len(ids) - len(query), len(ids))
            ]
            one = by_query["question"][number]
            assert one.document == pairs[-1].document
            assert one.tokens == len(query)
            assert one.nats[examples] == pytest.approx(sum(each[-len(query) :]), rel=1e-4)
        assert found["question"][examples] == pytest.approx(
            math.exp(sum(each) / len(each)), rel=1e-3
        )


def test_more_validation_sequences_begin_with_the_same_ones(tiny_models: dict[str, Path]) -> None:
    model = load(tiny_models["gpt2"])
    store, template = PairStore(EIGHT, SMALL.styles), Template(model, 20, 12)
    few, many = (
        losses_by_style(model.model, store, template, replace(SMALL, validation_sequences=number))
        for number in (2, 11)
    )
    assert [len(few["question"]), len(many["question"])] == [2, 11]
    for one, other in zip(few["question"], many["question"], strict=False):
        assert (one.document, one.tokens) == (other.document, other.tokens)
        assert one.nats == pytest.approx(other.nats, abs=1e-3)


def vars_as(pair: StyledPair, style: str) -> StyledPair:
    return replace(pair, style=style)


def test_it_learns_eight_pairs(
    tiny_models: dict[str, Path], eight_pairs: Path, tmp_path: Path
) -> None:
    chosen = replace(SMALL, steps=80, validate_every=80, checkpoint_every=80)
    folder = train(chosen, tiny_models["bert"], eight_pairs, tmp_path / "out")
    rows = log_of(tmp_path / "out")
    told = [row["loss"] for row in rows if "loss" in row]
    assert told[-1] < 0.5 * told[0]
    first, last = (row["perplexity"]["question"] for row in rows if "perplexity" in row)
    assert all(after < 0.5 * before for before, after in zip(first, last, strict=True))
    for row in rows:
        assert ("perplexity" in row) == ("reworded_perplexity" in row) == ("loss" not in row)
        if "perplexity" in row:
            assert (
                set(row["reworded_perplexity"]) == set(row["perplexity"]) == {"question", "title"}
            )
            assert all(len(values) == 3 for values in row["reworded_perplexity"].values())
            assert row["reworded_perplexity"] != row["perplexity"]
    saved = load(folder)
    assert saved.model.config.is_decoder
    assert rows[-2]["tokens"] >= 80 * 400
    assert (folder / "tokenizer.json").is_file()


@pytest.mark.parametrize("stop_at", [5, 10, 12])
@pytest.mark.parametrize("shape", ["llama", "bert"])
def test_a_stopped_training_ends_with_the_same_weights_and_log(
    tiny_models: dict[str, Path],
    eight_pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    stop_at: int,
) -> None:
    whole = train(SMALL, tiny_models[shape], eight_pairs, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, stop_at)
        train(SMALL, tiny_models[shape], eight_pairs, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "model").exists()
    with (tmp_path / "stopped" / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')
    resumed = train(SMALL, tiny_models[shape], eight_pairs, tmp_path / "stopped")
    assert weights(resumed) == weights(whole)
    ours, theirs = (without_seconds(log_of(tmp_path / name)) for name in ("stopped", "whole"))
    assert ours == theirs
    assert [row["step"] for row in ours] == [0, 5, 10, 10, 12, 12]
    # A finished training is not trained again.
    assert weights(train(SMALL, tiny_models[shape], eight_pairs, tmp_path / "stopped")) == weights(
        whole
    )
    assert without_seconds(log_of(tmp_path / "stopped")) == theirs


def test_how_often_it_is_measured_and_who_makes_batches_change_no_weight(
    tiny_models: dict[str, Path], eight_pairs: Path, tmp_path: Path
) -> None:
    one = train(SMALL, tiny_models["qwen"], eight_pairs, tmp_path / "one")
    other = replace(SMALL, validate_every=3, checkpoint_every=100, workers=1)
    two = train(other, tiny_models["qwen"], eight_pairs, tmp_path / "two")
    assert weights(one) == weights(two)
    for change in ({"seed": 1}, {"most_pairs": 1}, {"reworded_share": 0.5}):
        other = replace(SMALL, **change)
        out = tmp_path / "-".join(change)
        assert weights(train(other, tiny_models["qwen"], eight_pairs, out)) != weights(one)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda chosen, pairs: (replace(chosen, learning_rate=1e-3), pairs), "learning_rate"),
        (lambda chosen, pairs: (replace(chosen, reworded_share=0.5), pairs), "reworded_share"),
        (lambda chosen, pairs: (replace(chosen, steps=20, seed=3), pairs), "seed, steps"),
        (lambda chosen, pairs: (chosen, pairs.with_name("other.jsonl")), "pairs"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    tiny_models: dict[str, Path],
    eight_pairs: Path,
    tmp_path: Path,
    change: Callable[[Settings, Path], tuple[Settings, Path]],
    named: str,
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(eight_pairs.read_text())
    pairs.with_name("other.jsonl").write_text(eight_pairs.read_text() + "\n")
    chosen = replace(SMALL, steps=2, validate_every=100)
    train(chosen, tiny_models["gpt2"], pairs, tmp_path / "out")
    left = weights(tmp_path / "out" / "model")
    other, other_pairs = change(chosen, pairs)
    with pytest.raises(WorkspaceError, match=f"another {named}\\."):
        train(other, tiny_models["gpt2"], other_pairs, tmp_path / "out")
    assert weights(tmp_path / "out" / "model") == left


def test_settings_that_leave_no_room_are_refused(
    tiny_models: dict[str, Path], eight_pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no room for a document"):
        train(replace(SMALL, document_tokens=190), tiny_models["gpt2"], eight_pairs, tmp_path)
    with pytest.raises(ConfigError, match="256 tokens that the model can see"):
        train(replace(SMALL, sequence_tokens=257), tiny_models["gpt2"], eight_pairs, tmp_path)
    with pytest.raises(ConfigError, match="no style poem"):
        replace(SMALL, styles={"poem": 1.0})


def test_the_rate_warms_up_and_falls_to_a_twentieth() -> None:
    chosen = replace(SMALL, steps=1000, warm_up=100, learning_rate=1.0)
    rates = [learning_rate(chosen, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[99] == rates[100] == 1.0
    assert rates[550] == pytest.approx(0.525)
    assert rates[-1] == pytest.approx(0.05, abs=1e-4)
    assert sorted(rates[100:], reverse=True) == rates[100:]


def test_the_command_trains_a_model_of_its_own_shape(
    bpe_folder: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {
        **{name: getattr(SMALL, name) for name in ("step_tokens", "sequence_tokens", "dtype")},
        **{"steps": 99, "document_tokens": 60, "query_tokens": 30, "learning_rate": "1e-3"},
        **{"plain_share": 0.5, "validation_sequences": 1, "shape": SHAPE},
        "styles": {"question": 0.5, "heading": 0.5},
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(values))
    arguments = [str(tmp_path / "settings.yaml"), "--pairs", str(pairs_file), "--steps", "3"]
    arguments += ["--start", str(bpe_folder), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["language_model.py", *arguments])
    main()
    saved = load(tmp_path / "out" / "model")
    assert saved.model.config.model_type == "llama"
    assert saved.context_tokens == 256
    assert saved.begin_token_ids == ()
    assert json.loads((tmp_path / "out" / "log.jsonl").read_text().splitlines()[-1])["step"] == 3


def test_a_new_model_is_named_by_its_seed(bpe_folder: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        new_model(SHAPE, bpe_folder, tmp_path / name, seed)
    assert weights(tmp_path / "one") == weights(tmp_path / "two") != weights(tmp_path / "three")
    assert torch.equal(torch.random.get_rng_state(), state)


class Vocabulary:
    """As much of a tokenizer as a configuration needs."""

    eos_token_id, pad_token_id = 1, 0

    def __len__(self) -> int:
        return 16_384


def test_the_gpu_models_are_as_large_as_they_may_be() -> None:
    from encoder import Settings as EncoderSettings
    from encoder import bert_config
    from transformers import BertModel, LlamaForCausalLM

    language_settings = read_settings(TOOLS / "language_model_gpu.yaml", Settings)
    encoder_settings = read_settings(TOOLS / "encoder_gpu.yaml", EncoderSettings)
    with torch.device("meta"):
        language_model = LlamaForCausalLM(llama_config(language_settings.shape, Vocabulary()))
        encoder = BertModel(bert_config(encoder_settings.shape, Vocabulary()))
    counts = [
        sum(value.numel() for value in model.parameters()) for model in (language_model, encoder)
    ]
    # By hand: words, layers of four projections and three of the gated part, norms.
    width, inner = 448, 1216
    layer = 4 * width * width + 3 * width * inner + 2 * width
    assert counts[0] == 16_384 * width + 8 * layer + width
    assert 20e6 <= counts[0] <= 40e6
    assert 8e6 <= counts[1] <= 15e6
    assert 2 * sum(counts) <= 80e6
    assert language_settings.sequence_tokens == 1024
    for name in ("gpu", "cpu"):
        chosen = read_settings(TOOLS / f"language_model_{name}.yaml", Settings)
        assert chosen.steps > 0
        assert chosen.most_pairs > 3
        assert chosen.reworded_share == 0.5


def test_no_target_is_left_out_of_a_plain_row(tiny_models: dict[str, Path]) -> None:
    model = load(tiny_models["gpt2"])
    ids = torch.tensor([model.encode("Moss has no roots. It drinks through its leaves.")])
    with torch.no_grad():
        assert len(losses(model.model, ids, ids, "float32")) == ids.numel() - 1
        nothing = torch.full_like(ids, IGNORED)
        nothing[0, -1] = ids[0, -1]
        assert len(losses(model.model, ids, nothing, "float32")) == 1
