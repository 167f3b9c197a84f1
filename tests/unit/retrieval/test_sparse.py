"""A sparse encoder from any start, its vectors, and the folder it leaves behind."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SparseEncoder
from sparse_models import TEXTS, load, saved, small_config, splade
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from sptar.errors import ConfigError, ModelError
from sptar.progress import RecordedProgress
from sptar.retrieval.ranking import ListedIds
from sptar.retrieval.sparse.encoder import load_sparse_encoder
from sptar.types import Document, Query
from tiny import DOCUMENTS, LANGUAGE_MODEL_SHAPES, QUERIES

ODD = (Document("empty", ""), Document("blank", "  \n "), Document("long", "the bees dance " * 900))
KINDS = (*LANGUAGE_MODEL_SHAPES, "encoder", "masked_lm", "t5", "packed", "sparse")


@pytest.mark.parametrize("kind", KINDS)
def test_any_start_encodes_independently_of_batch_and_order(kind, starts):
    documents = [*DOCUMENTS, *ODD]
    alone = load(starts[kind], encode_batch_size=1).encode_documents(documents)
    together = load(starts[kind], encode_batch_size=32).encode_documents(documents)
    backwards = load(starts[kind], encode_batch_size=4).encode_documents(documents[::-1])
    assert alone.shape == (len(documents), together.shape[1])
    assert (alone.dtype, alone.has_sorted_indices) == (np.float32, True)
    assert (alone.data > 0).all()
    np.testing.assert_allclose(together.toarray(), alone.toarray(), atol=2e-5)
    np.testing.assert_allclose(backwards.toarray()[::-1], alone.toarray(), atol=2e-5)
    # The texts are told apart, so equality above is not that of constants.
    assert np.abs((alone[0] - alone[1]).toarray()).max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_start_gives_the_same_in_the_plain_library(kind, starts, tmp_path):
    encoder = load(
        starts[kind], max_tokens=30, max_query_tokens=6, query_prompt="q: ", document_prompt="d: "
    )
    encoder.save(tmp_path / "saved")
    plain = SparseEncoder(str(tmp_path / "saved"))
    documents = encoder.encode_documents(DOCUMENTS).toarray()
    queries = encoder.encode_queries(QUERIES).toarray()
    found = plain.encode_document(TEXTS).to_dense().numpy()
    np.testing.assert_allclose(found, documents, atol=1e-5)
    asked = plain.encode_query([query.text for query in QUERIES]).to_dense().numpy()
    np.testing.assert_allclose(asked, queries, atol=1e-5)
    np.testing.assert_allclose(
        plain.similarity(torch.from_numpy(asked), torch.from_numpy(found)).numpy(),
        queries @ documents.T,
        rtol=1e-4,
    )
    again = load_sparse_encoder(tmp_path / "saved", splade("never/asked"))
    np.testing.assert_array_equal(again.encode_documents(DOCUMENTS).toarray(), documents)
    assert (again.max_tokens, again.max_query_tokens) == (30, 6)
    for file in (tmp_path / "saved").rglob("*"):
        if file.is_file():
            assert file.suffix in {".json", ".safetensors", ".txt"}
            if file.suffix != ".safetensors":
                assert str(starts[kind].parent) not in file.read_text()


def test_weights_of_a_masked_language_model_by_hand(masked_lm):
    """Against transformers alone: the largest log(1 + relu(logit)) over the text's tokens."""
    tokenizer = AutoTokenizer.from_pretrained(masked_lm)
    model = AutoModelForMaskedLM.from_pretrained(masked_lm).eval()
    expected = []
    for text in TEXTS:
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        expected.append(np.log1p(np.maximum(logits.numpy(), 0)).max(axis=0))
    encoder = load(masked_lm)
    assert encoder.dimension == len(tokenizer)
    assert encoder.pooling == "max over relu"
    found = encoder.encode_documents(DOCUMENTS)
    np.testing.assert_allclose(found.toarray(), np.stack(expected), atol=1e-5)
    assert 0 < found.nnz < found.shape[0] * found.shape[1]


def test_without_a_head_the_token_table_is_one(tiny_encoder):
    """Scaled by one number and lowered by another, the same for all words."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    model = AutoModel.from_pretrained(tiny_encoder).eval()
    table = model.get_input_embeddings().weight.detach().numpy()
    encoder = load(tiny_encoder)
    head = next(module for module in encoder.model.modules() if type(module).__name__ == "Dense")
    weight = head.linear.weight.detach().numpy()
    bias = head.linear.bias.detach().numpy()
    scale = float((weight * table).sum() / (table * table).sum())
    assert scale > 0
    np.testing.assert_allclose(weight, scale * table, rtol=1e-5, atol=1e-7)
    assert bias[0] < 0
    assert (bias == bias[0]).all()
    expected = []
    for text in TEXTS:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        logits = scale * (states @ table.T) + bias[0]
        expected.append(np.log1p(np.maximum(logits, 0)).max(axis=0))
    found = encoder.encode_documents(DOCUMENTS)
    np.testing.assert_allclose(found.toarray(), np.stack(expected), atol=1e-5)
    # A text weighs some words and leaves most of the vocabulary alone.
    assert all(1 <= count < 0.5 * encoder.dimension for count in np.diff(found.indptr))


def test_which_head_is_used_is_told(starts):
    for kind in KINDS:
        progress = RecordedProgress()
        encoder = load_sparse_encoder(None, splade(starts[kind]), progress=progress)
        has_head = kind in ("bert", "masked_lm", "sparse")
        told = any("its token table becomes one" in message for message in progress.messages)
        assert told is not has_head, kind
        assert type(encoder.model[0].model).__name__.endswith("ForMaskedLM") is has_head, kind


def test_a_config_that_promises_a_head_is_not_believed(tiny_encoder, tmp_path):
    """Weights of a plain encoder whose config still names the masked language model."""
    folder = tmp_path / "promises"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (folder / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(
        load(folder).encode_documents(DOCUMENTS).toarray(),
        load(tiny_encoder).encode_documents(DOCUMENTS).toarray(),
    )


@pytest.mark.parametrize("kind", ["encoder", "bert", "llama"])
def test_loading_twice_gives_the_same_weights_and_leaves_the_random_state_alone(kind, starts):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one = load(starts[kind]).model.state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    other = load(starts[kind]).model.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_starts_own_prompts_and_bound_are_kept(starts):
    encoder = load(starts["packed"])
    assert (encoder.prompt("query"), encoder.prompt("document")) == ("ask: ", "tell: ")
    assert (encoder.max_tokens, encoder.max_query_tokens) == (40, 40)
    assert load(starts["packed"], query_prompt="find: ").prompt("query") == "find: "
    assert load(starts["packed"], max_tokens=10).max_tokens == 10
    assert load(starts["sparse"]).prompt("query") == "where: "


def test_what_exceeds_the_bound_is_cut_for_queries_and_documents(masked_lm):
    encoder = load(masked_lm, max_tokens=12, max_query_tokens=8)
    long, longer = "bees tell each other where", "bees tell each other where flowers grow"
    longest = "bees tell each other where flowers grow by dancing on the comb all day long"
    queries = encoder.encode_queries([Query("1", longer), Query("2", longest)]).toarray()
    documents = encoder.encode_documents([Document("1", long), Document("2", longest)]).toarray()
    np.testing.assert_allclose(queries[0], queries[1], atol=1e-5)
    assert np.abs(documents[0] - documents[1]).max() > 1e-3


def test_few_logits_at_once_change_nothing(masked_lm, monkeypatch):
    encoder = load(masked_lm)
    expected = encoder.encode_documents(DOCUMENTS)
    monkeypatch.setattr("sptar.retrieval.sparse.encoder._LOGITS_AT_ONCE", 100 * encoder.dimension)
    assert encoder._texts_at_once(5, "document") == 14
    assert encoder._texts_at_once(5000, "document") == 1
    found = encoder.encode_documents(DOCUMENTS)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-5)


def test_memory_running_out_halves_the_batch(masked_lm, monkeypatch):
    progress = RecordedProgress()
    config = splade(masked_lm, encode_batch_size=8)
    encoder = load_sparse_encoder(None, config, progress=progress)
    expected = encoder.encode_documents(DOCUMENTS)
    real = encoder.embed

    def small_device(texts, role):
        if len(texts) > 2:
            torch.empty(2**52)  # raises what a processor's allocator says
        return real(texts, role)

    monkeypatch.setattr(encoder, "embed", small_device)
    found = encoder.encode_documents(DOCUMENTS)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-5)
    assert progress.messages == [
        f"Out of memory: encoding goes on with {size} texts at once." for size in (4, 2)
    ]

    def no_device(texts, role):
        torch.empty(2**52)  # raises what a processor's allocator says

    monkeypatch.setattr(encoder, "embed", no_device)
    with pytest.raises(ModelError, match="too little memory"):
        encoder.encode_documents(DOCUMENTS)


def test_a_models_bound_on_active_words_holds_as_in_the_library(masked_lm):
    encoder = load(masked_lm)
    encoder.model.max_active_dims = 7
    vectors = encoder.encode_documents(DOCUMENTS)
    assert np.diff(vectors.indptr).tolist() == [7] * len(DOCUMENTS)
    plain = encoder.model.encode_document(TEXTS).to_dense().numpy()
    np.testing.assert_allclose(plain, vectors.toarray(), atol=1e-5)


def test_blocks_on_disk_and_in_memory_find_the_same(masked_lm, tmp_path):
    encoder = load(masked_lm)
    documents = [*DOCUMENTS, Document("q03", "why do stones rise in fields")]
    whole = encoder.encode_block(documents)
    blocks = [encoder.encode_block(documents[a:b]) for a, b in ((0, 5), (5, 5), (5, 13))]
    assert encoder.block_suffix == ".safetensors"
    files = []
    for number, block in enumerate(blocks):
        files.append(tmp_path / f"block-{number}{encoder.block_suffix}")
        encoder.save_block(files[-1], block)
    ids = ListedIds(documents)
    expected = encoder.searcher([whole], ids).search(QUERIES, 5)
    # The query's own document would be its best.
    assert "q03" not in expected["q03"]
    from_disk = encoder.searcher(files, ids).search(QUERIES, 5)
    joined = encoder.searcher([encoder.join_blocks(blocks)], ids).search(QUERIES, 5)
    assert from_disk == joined
    for query_id, scores in expected.items():
        assert list(from_disk[query_id]) == list(scores)
        assert from_disk[query_id] == pytest.approx(scores, rel=1e-5)
    assert all(len(scores) == 5 for scores in expected.values())


def test_nothing_to_encode(masked_lm):
    encoder = load(masked_lm)
    assert encoder.encode_documents([]).shape == (0, encoder.dimension)


def test_starts_that_cannot_become_a_sparse_encoder(tiny_encoder, tmp_path):
    narrow = transformers.ElectraModel(
        small_config(transformers.ElectraConfig, tiny_encoder, embedding_size=16)
    )
    with pytest.raises(ModelError, match="its vectors have 16 numbers, the model's states 32"):
        load(saved(narrow, tiny_encoder, tmp_path / "narrow"))
    with pytest.raises(ModelError, match="There is no encoder folder"):
        load(tmp_path / "nowhere")
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_encoder, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a pickle"):
        load(pickled)
    with pytest.raises(ConfigError, match="towers"):
        load(tiny_encoder, towers="separate")
