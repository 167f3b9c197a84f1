"""Any start becomes a late-interaction model, and one that is one already stays it."""

from __future__ import annotations

import json
import shutil
import string

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
)
from test_late_encoder import ODD, load, settings_for
from transformers import AutoTokenizer

from sptar.errors import ModelError
from sptar.retrieval.late.encoder import load_late_encoder
from sptar.retrieval.late.start import punctuation_tokens
from tiny import DOCUMENTS, QUERIES, causal_lm


def test_loading_twice_gives_the_same_weights_and_leaves_the_random_state_alone(tiny_models):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one = load(tiny_models["bert"]).model.state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    other = load(tiny_models["bert"]).model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["1.linear.weight"].shape == (16, 32)
    assert 0.05 < one["1.linear.weight"].std() < 0.15
    assert not any("bias" in name for name in one if name.startswith("1."))


def test_a_sentence_encoder_gives_its_transformer_and_prompts(tiny_encoder, tmp_path):
    body = Transformer(str(tiny_encoder))
    packed = SentenceTransformer(
        modules=[body, Pooling(32, "cls"), Dense(32, 8), Normalize()],
        prompts={"query": "ask: ", "passage": "tell: "},
    )
    packed.max_seq_length = 40
    packed.save_pretrained(str(tmp_path / "packed"))
    encoder = load(tmp_path / "packed")
    assert [type(module).__name__ for module in encoder.model] == [
        "Transformer",
        "Dense",
        "MultiVectorMask",
        "Normalize",
    ]
    assert encoder.dimension == 16
    assert (encoder.prompt("query"), encoder.prompt("document")) == ("ask: ", "tell: ")
    assert encoder.model[0].document_length == 40
    assert load(tmp_path / "packed", max_tokens=20).model[0].document_length == 20
    same = load(tiny_encoder, query_prompt="ask: ", document_prompt="tell: ", max_tokens=40)
    np.testing.assert_array_equal(
        encoder.encode_documents(DOCUMENTS).vectors, same.encode_documents(DOCUMENTS).vectors
    )
    assert load(tmp_path / "packed", query_prompt="where: ").prompt("query") == "where: "


def test_a_multi_vector_start_is_taken_as_it_is(tiny_encoder, tmp_path):
    model = MultiVectorEncoder(str(tiny_encoder), device="cpu", prompts={"query": "[Q] "})
    model.save_pretrained(str(tmp_path / "start"))
    encoder = load(tmp_path / "start", max_tokens=30)
    assert encoder.dimension == 128
    assert encoder.prompt("query") == "[Q] "
    assert encoder.model[0].query_expansion is None
    assert encoder.model[0].document_length == 30
    texts = [query.text for query in QUERIES]
    plain = model.encode_query(texts, convert_to_numpy=True)
    for found, expected in zip(encoder.encode_queries(QUERIES), plain, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert encoder.encode_documents([ODD[-1]]).lengths.tolist() == [30]


def test_a_colbert_checkpoint_of_its_authors_is_taken_as_it_is(tiny_encoder, tmp_path):
    """Stanford's format: the projection beside the encoder's weights, lengths in a file."""
    folder = tmp_path / "colbert"
    shutil.copytree(tiny_encoder, folder)
    weights = load_file(folder / "model.safetensors")
    projection = torch.linspace(-1, 1, 24 * 32).reshape(24, 32)
    save_file(
        {f"bert.{name}": value for name, value in weights.items()} | {"linear.weight": projection},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    (folder / "artifact.metadata").write_text(json.dumps({"query_maxlen": 20, "doc_maxlen": 30}))
    encoder = load(folder)
    assert encoder.dimension == 24
    assert torch.equal(encoder.model.state_dict()["1.linear.weight"], projection)
    assert encoder.encode_queries(QUERIES).lengths.tolist() == [20] * 8
    assert encoder.model[0].document_length == 30
    assert encoder.prompt("query") == "[unused0] "


def test_a_chat_template_puts_nothing_around_the_texts(tmp_path):
    folder = causal_lm("qwen", tmp_path / "chat")
    expected = load(folder).encode_queries(QUERIES)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    )
    tokenizer.save_pretrained(folder)
    encoder = load(folder)
    np.testing.assert_array_equal(encoder.encode_queries(QUERIES).vectors, expected.vectors)
    encoder.save(tmp_path / "saved")
    again = load_late_encoder(tmp_path / "saved", settings_for(folder))
    np.testing.assert_array_equal(again.encode_queries(QUERIES).vectors, expected.vectors)


def test_padding_on_the_left_is_put_right_and_stays_so(tmp_path):
    """Filled-in tokens in front of a query would see nothing of it."""
    folder = causal_lm("gpt2", tmp_path / "left")
    expected = load(folder).encode_queries(QUERIES)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": "left"}))
    start = SentenceTransformer(str(folder), device="cpu")
    assert start.tokenizer.padding_side == "left"
    start.save_pretrained(str(tmp_path / "packed"))
    for name in ("left", "packed"):
        encoder = load(tmp_path / name)
        np.testing.assert_array_equal(encoder.encode_queries(QUERIES).vectors, expected.vectors)
        encoder.save(tmp_path / f"{name} saved")
        plain = MultiVectorEncoder(str(tmp_path / f"{name} saved"), device="cpu")
        found = plain.encode_query([query.text for query in QUERIES], convert_to_numpy=True)
        np.testing.assert_allclose(np.concatenate(found), expected.vectors, atol=1e-6)


def test_what_cannot_be_a_start_is_named(tiny_encoder, tmp_path):
    with pytest.raises(ModelError, match="no encoder folder"):
        load(tmp_path / "nowhere")
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_encoder, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        load(pickled)
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder).backend_tokenizer
    table = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)])
    table.save_pretrained(str(tmp_path / "table"))
    with pytest.raises(ModelError, match="no transformer"):
        load(tmp_path / "table")


def test_punctuation_of_a_byte_level_vocabulary_includes_groups_and_blanks():
    class Tokenizer:
        all_special_tokens = ("<>", "[MASK]")

        def get_vocab(self):
            words = [".", "Ġ(", "...", ")Ċ", "▁,", "a.", "Ġ", "Ġthe", "##", "<>", "[MASK]", "5%"]
            return {word: number for number, word in enumerate(words)}

    assert punctuation_tokens(Tokenizer()) == sorted([".", "Ġ(", "...", ")Ċ", "▁,", "##"])


def test_punctuation_is_the_single_marks_of_a_word_piece_vocabulary(tiny_encoder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    assert punctuation_tokens(tokenizer) == sorted(
        set(string.punctuation).intersection(tokenizer.get_vocab())
    )
