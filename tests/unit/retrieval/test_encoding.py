"""Vectors depend on the text alone, and a start model's own settings are respected."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from sptar.config import TrainConfig
from sptar.errors import ConfigError, ModelError
from sptar.progress import RecordedProgress
from sptar.retrieval.dense import encoder as encoding
from sptar.retrieval.dense.encoder import load_encoder
from sptar.retrieval.specs import RETRIEVERS, retriever_spec
from sptar.types import Document, Query
from tiny import DOCUMENTS, LANGUAGE_MODEL_SHAPES, QUERIES

ODD = (Document("empty", ""), Document("blank", "  \n "), Document("long", "the bees dance " * 900))


@pytest.fixture(scope="module")
def packed_encoder(tiny_encoder, tmp_path_factory):
    """A sentence-transformers folder with settings of its own: [CLS], 40 tokens, prompts."""
    body = Transformer(str(tiny_encoder))
    model = SentenceTransformer(
        modules=[body, Pooling(body.get_embedding_dimension(), "cls"), Normalize()],
        prompts={"query": "ask: ", "passage": "tell: "},
    )
    model.max_seq_length = 40
    folder = tmp_path_factory.mktemp("packed") / "encoder"
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("shape", ["encoder", *LANGUAGE_MODEL_SHAPES])
def test_any_model_encodes_independently_of_batch_and_order(shape, tiny_encoder, tiny_models):
    """Encoders, and every shape of language model, with or without a pad token."""
    start = tiny_encoder if shape == "encoder" else tiny_models[shape]
    documents = [*DOCUMENTS, *ODD]
    alone = load_encoder(start, TrainConfig(encode_batch_size=1)).encode_documents(documents)
    together = load_encoder(start, TrainConfig(encode_batch_size=32)).encode_documents(documents)
    backwards = load_encoder(start, TrainConfig(encode_batch_size=4)).encode_documents(
        documents[::-1]
    )[::-1]
    assert alone.shape == (len(documents), 32)
    assert alone.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(backwards, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1.0, atol=1e-5)
    # The texts are told apart, so equality above is not that of constants.
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


def test_a_vector_is_the_normalised_mean_of_the_token_states(tiny_encoder):
    """Against transformers alone, one text at a time."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    model = AutoModel.from_pretrained(tiny_encoder).eval()
    expected = []
    for document in DOCUMENTS:
        with torch.no_grad():
            states = model(**tokenizer(document.full_text, return_tensors="pt")).last_hidden_state
        mean = states[0].mean(dim=0)
        expected.append((mean / mean.norm()).numpy())
    found = load_encoder(tiny_encoder, TrainConfig()).encode_documents(DOCUMENTS)
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)


def test_pooling_of_the_config_is_for_a_start_that_has_none(tiny_encoder, packed_encoder):
    mean = load_encoder(tiny_encoder, TrainConfig(pooling="mean"))
    first = load_encoder(tiny_encoder, TrainConfig(pooling="cls"))
    assert (mean.pooling, first.pooling) == ("mean", "cls")
    assert np.abs(mean.encode_queries(QUERIES) - first.encode_queries(QUERIES)).max() > 1e-3
    assert load_encoder(packed_encoder, TrainConfig(pooling="mean")).pooling == "cls"


def test_a_folders_own_prompts_and_token_bound_are_kept(packed_encoder):
    encoder = load_encoder(packed_encoder, TrainConfig(max_tokens=350))
    assert encoder.max_tokens == 40
    assert load_encoder(packed_encoder, TrainConfig(max_tokens=10)).max_tokens == 10
    assert load_encoder(packed_encoder).max_tokens == 40
    assert encoder.prompt("query") == "ask: "
    assert encoder.prompt("document") == "tell: "
    plain = SentenceTransformer(str(packed_encoder))
    by_hand = plain.encode([document.full_text for document in DOCUMENTS], prompt_name="passage")
    np.testing.assert_allclose(encoder.encode_documents(DOCUMENTS), by_hand, atol=1e-5)


def test_prompts_of_the_config_win_and_change_the_vectors(packed_encoder, tiny_encoder):
    config = TrainConfig(query_prompt="where: ", document_prompt="text: ")
    for start in (packed_encoder, tiny_encoder):
        encoder = load_encoder(start, config)
        assert (encoder.prompt("query"), encoder.prompt("document")) == ("where: ", "text: ")
        by_hand = load_encoder(start, TrainConfig()).model.encode(
            [f"where: {query.text}" for query in QUERIES], prompt="", normalize_embeddings=True
        )
        np.testing.assert_allclose(encoder.encode_queries(QUERIES), by_hand, atol=1e-5)


def test_what_exceeds_the_token_bound_is_cut(tiny_encoder):
    encoder = load_encoder(tiny_encoder, TrainConfig(max_tokens=8))
    start = "bees tell each other where flowers grow"
    vectors = encoder.encode_queries([Query("1", start), Query("2", start + " by dancing")])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_nothing_to_encode(tiny_encoder):
    assert load_encoder(tiny_encoder).encode_documents([]).shape == (0, 32)


def test_a_bert_decoder_attends_in_both_directions_as_an_encoder(tiny_models):
    progress = RecordedProgress()
    encoder = load_encoder(tiny_models["bert"], TrainConfig(pooling="cls"), progress=progress)
    one, other = encoder.encode_queries([Query("1", "bees dance"), Query("2", "bees tell")])
    # [CLS] stands first: it differs only if it sees the words after it.
    assert np.abs(one - other).max() > 1e-3
    assert any("both directions" in message for message in progress.messages)


def test_loading_twice_gives_the_same_weights_and_leaves_the_random_state_alone(tiny_models):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one = load_encoder(tiny_models["bert"], TrainConfig()).model.state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    other = load_encoder(tiny_models["bert"], TrainConfig()).model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_memory_running_out_halves_the_batch(tiny_encoder, monkeypatch):
    progress = RecordedProgress()
    encoder = load_encoder(tiny_encoder, TrainConfig(encode_batch_size=8), progress=progress)
    expected = encoder.encode_queries(QUERIES)
    real = encoder.model.encode

    def scarce(texts, *, batch_size, **settings):
        if batch_size > 2:
            torch.empty(2**52)  # raises what a processor's allocator says
        return real(texts, batch_size=batch_size, **settings)

    monkeypatch.setattr(encoder.model, "encode", scarce)
    np.testing.assert_allclose(encoder.encode_queries(QUERIES), expected, atol=1e-5)
    assert [message.split()[-4] for message in progress.messages] == ["4", "2"]


def test_a_missing_folder_is_named():
    with pytest.raises(ModelError, match=r"no encoder folder '\./nowhere'"):
        load_encoder("./nowhere", TrainConfig())


def test_a_hub_name_that_cannot_be_reached_is_named():
    with pytest.raises(ModelError, match="'nobody/nothing-of-this-name' cannot be loaded"):
        load_encoder("nobody/nothing-of-this-name", TrainConfig())


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_encoder(tmp_path, TrainConfig())
    assert "config.json" in str(caught.value)


def test_pickled_weights_are_refused(tiny_encoder, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_encoder, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, a pickle"):
        load_encoder(folder, TrainConfig())


def test_code_of_a_repository_is_not_run(packed_encoder, tmp_path):
    folder = tmp_path / "custom"
    shutil.copytree(packed_encoder, folder)
    witness = tmp_path / "ran"
    (folder / "custom.py").write_text(f"open({str(witness)!r}, 'w')\nclass Pool: pass\n")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "custom.Pool"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="code of its own") as caught:
        load_encoder(folder, TrainConfig())
    assert "train.trust_remote_code=true" in str(caught.value)
    assert not witness.exists()


def test_a_device_that_is_not_there_is_named(tiny_encoder):
    for device in ("cuda:99", "meta"):
        with pytest.raises(ModelError, match=f"`train.device: {device}` is asked for, but"):
            load_encoder(tiny_encoder, TrainConfig(device=device))


def test_the_recipe_of_the_dpr_row_is_the_default_of_the_config():
    row = RETRIEVERS["dpr"]
    assert retriever_spec(TrainConfig()) == row
    assert row.normalise
    with pytest.raises(ConfigError, match="no retriever 'unknown'"):
        retriever_spec(TrainConfig.model_construct(retriever="unknown"))


@pytest.fixture(scope="module")
def lengths_mixed():
    """Enough texts, long and short in turns, for many batches and packed weights."""
    words = ["bees", "dance", "where", "flowers", "grow", "and", "the", "hive", "finds", "them"]
    return [
        Document(str(number), " ".join(words[place % 10] for place in range(number, number * 4)))
        for number in range(1, 60)
    ]


def test_packed_weights_and_token_budgets_give_the_librarys_own_vectors(
    tiny_encoder, lengths_mixed
):
    encoder = load_encoder(tiny_encoder, TrainConfig(encode_batch_size=8))
    expected = encoder.model.encode(
        [document.full_text for document in lengths_mixed], normalize_embeddings=True
    )
    found = encoder.encode_documents(lengths_mixed)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len({row.tobytes() for row in found.round(4)}) > 20
    # Nothing of the packed weights is left: a training goes on with those of its optimiser.
    with torch.no_grad():
        for weight in encoder.model.parameters():
            weight.mul_(1.5)
    expected = encoder.model.encode(
        [document.full_text for document in lengths_mixed], normalize_embeddings=True
    )
    changed = encoder.encode_documents(lengths_mixed)
    np.testing.assert_allclose(changed, expected, atol=1e-6)
    assert np.abs(changed - found).max() > 1e-2


def test_batches_keep_to_the_token_budget_and_the_number_of_texts(
    tiny_encoder, lengths_mixed, monkeypatch
):
    monkeypatch.setattr(encoding, "_TOKENS_AT_ONCE", 128)
    encoder = load_encoder(tiny_encoder, TrainConfig(encode_batch_size=4, max_tokens=40))
    seen = []
    real = encoder.model.encode

    def watched(texts, **settings):
        seen.append([min(40, len(text) // 4 + 2) for text in texts])
        return real(texts, **settings)

    monkeypatch.setattr(encoder.model, "encode", watched)
    encoder.encode_documents(lengths_mixed)
    assert sum(map(len, seen)) == len(lengths_mixed)
    assert max(map(len, seen)) == 4
    assert all(len(batch) == 1 or len(batch) * max(batch) <= 128 for batch in seen)
    assert [max(batch) for batch in seen] == sorted((max(b) for b in seen), reverse=True)


def test_bfloat16_moves_vectors_a_little_and_keeps_their_length(tiny_encoder, lengths_mixed):
    exact = load_encoder(tiny_encoder, TrainConfig()).encode_documents(lengths_mixed)
    encoder = load_encoder(tiny_encoder, TrainConfig(encode_dtype="bfloat16"))
    for rough in (
        encoder.encode_documents(lengths_mixed),
        np.concatenate([encoder.encode_documents([one]) for one in lengths_mixed]),
    ):
        assert rough.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rough, axis=1), 1.0, atol=1e-5)
        assert 1e-5 < np.abs(rough - exact).max() < 2e-2
        assert (rough * exact).sum(axis=1).min() > 0.999
