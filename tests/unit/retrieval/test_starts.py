"""Starts of bi-encoders: token tables, two towers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Router, Transformer
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from sptar.config import TrainConfig
from sptar.errors import ConfigError, ModelError
from sptar.retrieval.dense.encoder import load_encoder
from sptar.retrieval.specs import recipe
from sptar.types import Document, Query
from tiny import DOCUMENTS, QUERIES, encoder


def static(start, **settings):
    return recipe(TrainConfig(start=str(start), **settings), "static")


def mean_of_rows(start, texts):
    """By hand: the rows of the input table, without special tokens, brought to length 1."""
    tokenizer = AutoTokenizer.from_pretrained(start)
    table = AutoModel.from_pretrained(start).get_input_embeddings().weight.detach().numpy()
    means = []
    for text in texts:
        rows = table[tokenizer(text, add_special_tokens=False)["input_ids"]]
        mean = rows.astype(np.float64).mean(axis=0)
        means.append(mean / np.linalg.norm(mean))
    return np.stack(means)


@pytest.mark.parametrize("shape", ["encoder", "llama", "gpt2"])
def test_a_static_vector_is_the_mean_of_the_tables_rows(tiny_encoder, tiny_models, shape):
    start = tiny_encoder if shape == "encoder" else tiny_models[shape]
    found = load_encoder(None, static(start)).encode_documents(DOCUMENTS)
    expected = mean_of_rows(start, [document.full_text for document in DOCUMENTS])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_token_table_reads_so_many_tokens_and_knows_prompts(tiny_encoder, tmp_path):
    encoder_ = load_encoder(None, static(tiny_encoder, max_tokens=8, query_prompt="bees: "))
    assert encoder_.max_tokens == 8
    long = Query("1", "flowers grow on the comb and the bees dance all day long")
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    ids = tokenizer(f"bees: {long.text}", add_special_tokens=False)["input_ids"][:8]
    table = AutoModel.from_pretrained(tiny_encoder).get_input_embeddings().weight.detach().numpy()
    mean = table[ids].mean(axis=0)
    expected = mean / np.linalg.norm(mean)
    np.testing.assert_allclose(encoder_.encode_queries([long])[0], expected, atol=1e-5)
    encoder_.save(tmp_path)
    plain = SentenceTransformer(str(tmp_path))
    np.testing.assert_allclose(
        plain.encode_query(long.text, normalize_embeddings=True), expected, atol=1e-5
    )
    assert load_encoder(tmp_path).max_tokens == 8
    assert load_encoder(tmp_path, static(tmp_path, max_tokens=100)).max_tokens == 8


def test_a_text_without_tokens_has_no_direction(tiny_encoder):
    found = load_encoder(None, static(tiny_encoder)).encode_documents(
        [Document("empty", ""), DOCUMENTS[0]]
    )
    assert np.array_equal(found[0], np.zeros(32, dtype=np.float32))
    assert np.linalg.norm(found[1]) == pytest.approx(1.0, abs=1e-5)


def test_a_static_folder_is_a_start_too(tiny_encoder, tmp_path):
    first = load_encoder(None, static(tiny_encoder))
    first.save(tmp_path)
    again = load_encoder(None, static(tmp_path))
    assert np.array_equal(again.encode_queries(QUERIES), first.encode_queries(QUERIES))


def test_a_model2vec_folder_is_a_start_too(tiny_encoder, tmp_path):
    first = load_encoder(None, static(tiny_encoder))
    first.save(tmp_path / "static")
    folder = tmp_path / "model2vec"
    folder.mkdir()
    table = load_file(tmp_path / "static" / "model.safetensors")["embedding.weight"]
    save_file({"embeddings": table}, folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(tmp_path / "static" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    again = load_encoder(None, static(folder))
    np.testing.assert_allclose(
        again.encode_queries(QUERIES), first.encode_queries(QUERIES), atol=1e-6
    )


def test_a_tokenizer_with_more_tokens_than_the_table_is_refused(tiny_encoder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    tokenizer.add_tokens(["beekeeping"])
    AutoModel.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="its model only"):
        load_encoder(None, static(tmp_path))


def test_a_shared_table_has_one_bound(tiny_encoder):
    with pytest.raises(ConfigError, match="max_query_tokens") as caught:
        load_encoder(None, static(tiny_encoder, max_query_tokens=8))
    assert "train.towers=separate" in str(caught.value)
    towers = load_encoder(None, static(tiny_encoder, max_query_tokens=8, towers="separate"))
    assert (towers.max_tokens, towers.max_query_tokens) == (512, 8)


def test_each_tower_keeps_its_pooling_prompts_and_bound(tiny_encoder, tmp_path):
    body = Transformer(str(tiny_encoder))
    packed = SentenceTransformer(
        modules=[body, Pooling(body.get_embedding_dimension(), "cls")],
        prompts={"query": "ask: ", "passage": "tell: "},
    )
    packed.max_seq_length = 40
    packed.save_pretrained(str(tmp_path / "packed"))
    config = recipe(
        TrainConfig(
            start=str(tiny_encoder),
            query_start=str(tmp_path / "packed"),
            towers="separate",
            max_tokens=50,
        )
    )
    towers = load_encoder(None, config)
    assert isinstance(towers.model[0], Router)
    assert towers.two_towers
    assert (towers.prompt("query"), towers.prompt("document")) == ("ask: ", "")
    assert (towers.max_query_tokens, towers.max_tokens) == (40, 50)
    assert towers.pooling == "cls, mean"
    towers.save(tmp_path / "towers")
    back = load_encoder(tmp_path / "towers", config)
    assert (back.max_query_tokens, back.max_tokens) == (40, 50)
    assert np.array_equal(back.encode_queries(QUERIES), towers.encode_queries(QUERIES))
    assert np.array_equal(back.encode_documents(DOCUMENTS), towers.encode_documents(DOCUMENTS))
    # A folder with two towers is a start again, whatever the config says of towers.
    again = load_encoder(None, recipe(TrainConfig(start=str(tmp_path / "towers"))))
    assert again.two_towers
    assert np.array_equal(again.encode_queries(QUERIES), towers.encode_queries(QUERIES))


def test_towers_with_vectors_of_different_lengths_are_refused(tiny_encoder, tmp_path):
    wide = encoder(tmp_path / "wide", width=48)
    config = recipe(TrainConfig(start=str(tiny_encoder), query_start=str(wide), towers="separate"))
    with pytest.raises(ModelError, match="48 numbers, the document encoder's 32"):
        load_encoder(None, config)


def test_a_missing_query_start_is_named(tiny_encoder):
    config = recipe(
        TrainConfig(start=str(tiny_encoder), query_start="./nowhere", towers="separate")
    )
    with pytest.raises(ModelError, match=r"no encoder folder '\./nowhere'"):
        load_encoder(None, config)
