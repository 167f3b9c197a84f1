"""A sparse encoder from any start, its vectors, its loss, and the folder it leaves behind."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer, SparseEncoder
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from sptar.config import TrainConfig
from sptar.errors import ConfigError, ModelError
from sptar.progress import RecordedProgress
from sptar.retrieval.index import ListedIds
from sptar.retrieval.reduced_corpus import DevSet
from sptar.retrieval.retriever import TrainingBatch
from sptar.retrieval.sparse import SparseTrainable, flops, load_sparse_encoder
from sptar.retrieval.specs import recipe
from sptar.retrieval.training import TrainingData, train_retriever
from sptar.types import Document, Query
from tiny import DOCUMENTS, LANGUAGE_MODEL_SHAPES, PAIRS, QUERIES

ODD = (Document("empty", ""), Document("blank", "  \n "), Document("long", "the bees dance " * 900))
TEXTS = [document.full_text for document in DOCUMENTS]
QRELS = {pair.query.query_id: {pair.document.doc_id: 1} for pair in PAIRS}
BATCH = TrainingBatch(
    numbers=tuple(range(4)),
    queries=tuple(pair.query.text for pair in PAIRS[:4]),
    positives=tuple(pair.document.full_text for pair in PAIRS[:4]),
    negatives=tuple((DOCUMENTS[8 + i].full_text, DOCUMENTS[4 + i].full_text) for i in range(4)),
)


def without_dropout(module):
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return module


def splade(start, **settings):
    return recipe(TrainConfig(start=str(start), **settings), "splade")


def load(start, **settings):
    return load_sparse_encoder(None, splade(start, **settings))


def saved(model, start, folder):
    """A model with the tokenizer of a start."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(start).save_pretrained(folder)
    return folder


def small_config(kind, start, **settings):
    return kind(
        vocab_size=len(AutoTokenizer.from_pretrained(start)),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        pad_token_id=0,
        **settings,
    )


@pytest.fixture(scope="module")
def masked_lm(tiny_encoder, tmp_path_factory):
    """A tiny masked language model with a head of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.BertForMaskedLM(small_config(transformers.BertConfig, tiny_encoder))
        torch.nn.init.normal_(model.cls.predictions.bias, std=0.1)
    return saved(model, tiny_encoder, tmp_path_factory.mktemp("masked") / "lm")


@pytest.fixture(scope="module")
def starts(tiny_encoder, tiny_models, masked_lm, tmp_path_factory):
    """Every kind of start by name."""
    folder = tmp_path_factory.mktemp("starts")
    packed = SentenceTransformer(str(tiny_encoder), prompts={"query": "ask: ", "passage": "tell: "})
    packed.max_seq_length = 40
    packed.save_pretrained(str(folder / "packed"))
    load(masked_lm, query_prompt="where: ").save(folder / "sparse")
    encoder_decoder = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=len(AutoTokenizer.from_pretrained(tiny_encoder)),
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        )
    )
    return {
        **tiny_models,
        "encoder": tiny_encoder,
        "masked_lm": masked_lm,
        "t5": saved(encoder_decoder, tiny_encoder, folder / "t5"),
        "packed": folder / "packed",
        "sparse": folder / "sparse",
    }


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
    monkeypatch.setattr("sptar.retrieval.sparse._LOGITS_AT_ONCE", 100 * encoder.dimension)
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
            raise torch.OutOfMemoryError("full")
        return real(texts, role)

    monkeypatch.setattr(encoder, "embed", small_device)
    found = encoder.encode_documents(DOCUMENTS)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-5)
    assert progress.messages == [
        f"Out of memory: encoding goes on with {size} texts at once." for size in (4, 2)
    ]

    def no_device(texts, role):
        raise torch.OutOfMemoryError("full")

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


def test_flops_by_hand():
    weights = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 4.0, 1.0]])
    assert flops(weights).item() == 0.5**2 + 0.0 + 3.0**2 + 0.5**2
    # The same activity spread over more words costs less.
    assert flops(torch.tensor([[2.0, 0.0], [0.0, 2.0]])) < flops(
        torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    )


def test_the_loss_by_loops(masked_lm):
    config = splade(masked_lm, scale=0.1, query_sparsity=0.02, document_sparsity=0.03)
    trainable = SparseTrainable(load_sparse_encoder(None, config), config)
    encoder = trainable.encoder
    queries = encoder.encode_texts(BATCH.queries, "query").toarray().astype(float)
    texts = [*BATCH.positives, *(text for row in BATCH.negatives for text in row)]
    documents = encoder.encode_texts(texts, "document").toarray().astype(float)
    expected = 0.0
    for number, query in enumerate(queries):
        scores = [0.1 * sum(query * document) for document in documents]
        expected -= scores[number] - math.log(sum(math.exp(score) for score in scores))
    expected /= len(queries)
    for weight, vectors in ((0.02, queries), (0.03, documents)):
        expected += weight * sum((sum(column) / len(column)) ** 2 for column in vectors.T)
    loss = trainable.loss(BATCH)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    # Negatives and both regularisers are in it.
    for change in ({"query_sparsity": 0.0}, {"document_sparsity": 0.0}, {"scale": 0.2}):
        other = SparseTrainable(encoder, config.model_copy(update=change))
        assert abs(other.loss(BATCH).item() - loss.item()) > 1e-3
    without = TrainingBatch(BATCH.numbers, BATCH.queries, BATCH.positives, ((),) * 4)
    assert abs(trainable.loss(without).item() - loss.item()) > 1e-3


@pytest.mark.parametrize("kind", ["masked_lm", "encoder"])
def test_a_loss_in_pieces_has_the_same_gradients(kind, starts):
    found = []
    for size in (None, 3):
        config = splade(starts[kind], micro_batch_size=size, query_sparsity=1e-3)
        trainable = SparseTrainable(load_sparse_encoder(None, config), config)
        without_dropout(trainable.module).train()
        loss = trainable.loss(BATCH)
        loss.backward()
        gradients = {
            name: parameter.grad
            for name, parameter in trainable.module.named_parameters()
            if parameter.grad is not None
        }
        found.append((loss.item(), gradients))
    (whole, expected), (pieces, gradients) = found
    assert pieces == pytest.approx(whole, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-3)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3


def test_the_loss_in_bfloat16_is_float32_and_close(masked_lm):
    losses = []
    for dtype in ("float32", "bfloat16"):
        config = splade(masked_lm, dtype=dtype)
        loss = SparseTrainable(load_sparse_encoder(None, config), config).loss(BATCH)
        assert loss.dtype == torch.float32
        losses.append(loss.item())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


NEGATIVES = [(DOCUMENTS[8 + number % 4],) for number in range(len(PAIRS))]
"""With the pairs' own documents these are all: nothing is ranked that was not trained on."""


def share_at_rank_one(run, qrels):
    hits = sum(next(iter(run[query_id]), "") in judged for query_id, judged in qrels.items())
    return hits / len(qrels)


@pytest.mark.parametrize("kind", ["masked_lm", "encoder"])
def test_it_learns_its_pairs_and_the_plain_library_ranks_alike(kind, starts, tmp_path):
    config = splade(starts[kind], batch_size=8, epochs=30, patience=30, learning_rate=3e-3)
    result = train_retriever(
        TrainingData(PAIRS, NEGATIVES),
        DevSet(QUERIES, DOCUMENTS, QRELS),
        config,
        5,
        tmp_path / "model",
        share_at_rank_one,
        tmp_path / "state",
    )
    assert result.start_dev_score < 0.7
    assert result.best_dev_score == 1.0
    trained = load_sparse_encoder(tmp_path / "model", config)
    block = trained.encode_documents(DOCUMENTS)
    found = trained.searcher([block], ListedIds(DOCUMENTS)).search(QUERIES, 100)
    assert share_at_rank_one(found, QRELS) == 1.0
    plain = SparseEncoder(str(tmp_path / "model"))
    scores = plain.similarity(
        plain.encode_query([query.text for query in QUERIES]), plain.encode_document(TEXTS)
    ).numpy()
    for row, query in zip(scores, QUERIES, strict=True):
        for column, document in enumerate(DOCUMENTS):
            expected = found[query.query_id].get(document.doc_id, 0.0)
            assert row[column] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_regulariser_makes_vectors_sparse(tiny_encoder):
    """Without it they stay dense; each weight acts on its own role."""
    active = {}
    for weights in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.1)):
        config = splade(tiny_encoder, query_sparsity=weights[0], document_sparsity=weights[1])
        trainable = SparseTrainable(load_sparse_encoder(None, config), config)
        without_dropout(trainable.module).train()
        optimizer = torch.optim.AdamW(trainable.module.parameters(), lr=2e-3)
        for _ in range(30):
            trainable.loss(BATCH).backward()
            optimizer.step()
            optimizer.zero_grad()
        trainable.module.eval()
        active[weights] = (
            trainable.encoder.encode_texts(BATCH.queries, "query").nnz / 4,
            trainable.encoder.encode_texts(BATCH.positives, "document").nnz / 4,
        )
    dense, sparse_queries, sparse_documents = active.values()
    assert sparse_queries[0] < 0.5 * dense[0]
    assert sparse_documents[1] < 0.5 * dense[1]
    assert sparse_queries[0] < sparse_documents[0]
    assert sparse_documents[1] < sparse_queries[1]


def test_a_training_that_was_stopped_goes_on_bit_for_bit(masked_lm, tmp_path):
    config = splade(masked_lm, batch_size=4, epochs=4, patience=4, learning_rate=1e-3)

    def train(name, stop_at=None):
        calls = []

        def dev_score(run, qrels):
            calls.append(run)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            # Later is better, so that the last epoch is kept.
            return float(len(calls)) if stop_at is None else len(calls) / 100

        result = train_retriever(
            TrainingData(PAIRS, NEGATIVES),
            DevSet(QUERIES, DOCUMENTS, QRELS),
            config,
            5,
            tmp_path / name,
            dev_score,
            tmp_path / f"{name}-state",
        )
        return result, (tmp_path / name / "model.safetensors").read_bytes()

    _, expected = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("stopped", stop_at=4)
    result, found = train("stopped")
    assert result.resumed_after == 2
    assert found == expected


def test_how_texts_are_read_is_part_of_the_identity(masked_lm):
    readings = [
        SparseTrainable(load_sparse_encoder(None, config), config).reading()
        for config in (
            splade(masked_lm),
            splade(masked_lm, max_tokens=20),
            splade(masked_lm, max_query_tokens=9),
            splade(masked_lm, query_prompt="q: "),
            splade(masked_lm, document_prompt="d: "),
        )
    ]
    assert len({json.dumps(reading) for reading in readings}) == 5
    config = splade(masked_lm, max_tokens=20, max_query_tokens=9, query_prompt="q: ")
    words = SparseTrainable(load_sparse_encoder(None, config), config).reading_in_words()
    assert "at most 9 tokens of a query and 20 of a document" in words
    assert "'q: '" in words
