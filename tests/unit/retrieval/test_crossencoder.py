"""Scores depend on the two texts alone, and training is binary classification of pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from sptar.config import TrainConfig
from sptar.errors import DataError, ModelError
from sptar.progress import RecordedProgress
from sptar.retrieval import cached_loss
from sptar.retrieval.crossencoder import (
    CrossEncoderReranker,
    CrossEncoderTrainable,
    load_cross_encoder,
)
from sptar.retrieval.index import ListedIds
from sptar.retrieval.retriever import TrainingBatch
from sptar.retrieval.specs import recipe
from sptar.types import Document, Query
from tiny import DOCUMENTS, LANGUAGE_MODEL_SHAPES, PAIRS, QUERIES, causal_lm

TEXTS = [document.full_text for document in DOCUMENTS]
ASKED = [query.text for query in QUERIES for _ in TEXTS]
ANSWERS = TEXTS * len(QUERIES)


def config_of(start, **settings):
    values = {"start": str(start), "max_tokens": 64, "device": "cpu"} | settings
    return recipe(TrainConfig(**values), "bm25ce")


@pytest.fixture(scope="module")
def classifier(tiny_encoder, tmp_path_factory):
    """A trained cross-encoder as plain transformers saves one, its scores wide apart."""
    return classifier_with(1, tiny_encoder, tmp_path_factory.mktemp("classifier"))


def classifier_with(labels, tiny_encoder, folder):
    settings = BertConfig.from_pretrained(
        tiny_encoder, num_labels=labels, initializer_range=0.3, classifier_dropout=0.2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        BertForSequenceClassification(settings).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder)
    return folder


class Listed(ListedIds):
    """A corpus in memory."""

    def __init__(self, documents):
        super().__init__(documents)
        self._by_id = {document.doc_id: document for document in documents}

    def get(self, doc_id):
        return self._by_id[doc_id]


@pytest.mark.parametrize("shape", ["classifier", "encoder", *LANGUAGE_MODEL_SHAPES])
def test_scores_are_those_of_the_plain_library_one_pair_at_a_time(
    shape, classifier, tiny_encoder, tiny_models, tmp_path
):
    """Also of over-long documents, and whatever the batch; nothing of a machine is saved."""
    start = {"classifier": classifier, "encoder": tiny_encoder, **tiny_models}[shape]
    config = config_of(start, encode_batch_size=7)
    reranker = load_cross_encoder(None, config)
    assert reranker.new_head == (shape != "classifier")
    assert reranker.max_tokens == 64
    scores = reranker.scores(ASKED, ANSWERS)
    assert scores.dtype == np.float32
    reranker.save(tmp_path / "saved")
    plain = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    alone = [float(plain.predict([pair])[0]) for pair in zip(ASKED, ANSWERS, strict=True)]
    spread = float(np.std(alone))
    assert spread > 1e-6
    np.testing.assert_allclose(scores, alone, atol=min(5e-6, 0.01 * spread))
    again = load_cross_encoder(tmp_path / "saved", config)
    assert not again.new_head
    np.testing.assert_allclose(again.scores(ASKED, ANSWERS), scores, atol=1e-6)
    for file in (tmp_path / "saved").rglob("*"):
        assert file.suffix in {".json", ".safetensors", ".txt"}
        if file.suffix != ".safetensors":
            assert str(start.parent) not in file.read_text()
            assert str(tmp_path) not in file.read_text()


@pytest.fixture(scope="module")
def rerankers(classifier):
    return {
        size: load_cross_encoder(None, config_of(classifier, encode_batch_size=size))
        for size in (1, 3, 32)
    }


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_neither_batch_nor_order_matters(data, rerankers):
    rows = data.draw(st.lists(st.integers(0, len(ASKED) - 1), min_size=1, max_size=20))
    expected = [rerankers[1].scores([ASKED[row]], [ANSWERS[row]])[0] for row in sorted(set(rows))]
    expected = dict(zip(sorted(set(rows)), expected, strict=True))
    reranker = rerankers[data.draw(st.sampled_from([1, 3, 32]))]
    found = reranker.scores([ASKED[row] for row in rows], [ANSWERS[row] for row in rows])
    np.testing.assert_allclose(found, [expected[row] for row in rows], atol=5e-6)


def test_equal_texts_tie_exactly(rerankers):
    """Copies in different batches would differ by rounding."""
    found = rerankers[3].scores([ASKED[0]] * 17, [TEXTS[0], *TEXTS, *TEXTS[:4]])
    assert found[0] == found[1] == found[13]
    assert len(set(found.tolist())) == len(TEXTS)


@pytest.mark.parametrize("shape", ["classifier", *LANGUAGE_MODEL_SHAPES])
def test_empty_texts_have_scores(shape, classifier, tiny_models):
    start = {"classifier": classifier, **tiny_models}[shape]
    queries, documents = ["", "bees", "", " \n"], ["", "", "frost", "  "]
    reranker = load_cross_encoder(None, config_of(start))
    together = reranker.scores([*queries, ASKED[0]], [*documents, ANSWERS[3]])
    alone = [reranker.scores([q], [d])[0] for q, d in zip(queries, documents, strict=True)]
    np.testing.assert_allclose(together[:4], alone, atol=5e-6)
    assert len(set(np.round(alone[:3], 5).tolist())) == 3
    assert together[0] == together[3]
    assert reranker.scores([], []).shape == (0,)


def score_of_ids(folder, query_ids, document_ids):
    """[CLS] query [SEP] document [SEP] put together by hand."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    first = [tokenizer.cls_token_id, *query_ids, tokenizer.sep_token_id]
    second = [*document_ids, tokenizer.sep_token_id]
    with torch.inference_mode():
        output = model(
            input_ids=torch.tensor([[*first, *second]]),
            token_type_ids=torch.tensor([[0] * len(first) + [1] * len(second)]),
        )
    return float(output.logits[0, 0])


def test_the_document_is_cut_first_and_a_query_down_to_half(classifier):
    """24 tokens leave 21 beside the special ones."""
    tokenizer = AutoTokenizer.from_pretrained(classifier)

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    query, document = QUERIES[1].text, TEXTS[3]
    long_query = " ".join(query_.text for query_ in QUERIES)
    assert 5 < len(ids(query)) < 11 < 21 < len(ids(document))
    assert len(ids(long_query)) > 21
    reranker = load_cross_encoder(None, config_of(classifier, max_tokens=24))
    found = reranker.scores([query, long_query, long_query], [document, document, "bees"])
    room = 21 - len(ids(query))
    beside = 21 - len(ids("bees"))
    assert 21 < len(ids(long_query)) < len(ids(document))
    expected = [
        score_of_ids(classifier, ids(query), ids(document)[:room]),
        # Both have more than half: the longer one gets the odd token.
        score_of_ids(classifier, ids(long_query)[:10], ids(document)[:11]),
        score_of_ids(classifier, ids(long_query)[:beside], ids("bees")),
    ]
    np.testing.assert_allclose(found, expected, atol=5e-6)


def test_a_bound_for_queries_counts_their_prompt(classifier):
    tokenizer = AutoTokenizer.from_pretrained(classifier)

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    config = config_of(classifier, max_query_tokens=5, query_prompt="the bees ")
    query, document = "how do stones rise in fields of frost", TEXTS[0]
    found = load_cross_encoder(None, config).scores([query, "do"], [document, document])
    whole = ids("the bees " + query)
    assert len(whole) > 5
    expected = [
        score_of_ids(classifier, whole[:5], ids(document)),
        score_of_ids(classifier, ids("the bees do")[:5], ids(document)),
    ]
    np.testing.assert_allclose(found, expected, atol=5e-6)


def test_prompts_stand_in_front_and_are_kept(classifier, tmp_path):
    config = config_of(classifier, query_prompt="ask: ", document_prompt="tell: ")
    reranker = load_cross_encoder(None, config)
    reranker.save(tmp_path / "saved")
    found = reranker.scores(ASKED, ANSWERS)
    plain = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    with_prompts = [("ask: " + q, "tell: " + d) for q, d in zip(ASKED, ANSWERS, strict=True)]
    np.testing.assert_allclose(found, plain.predict(with_prompts), atol=5e-6)
    bare = load_cross_encoder(None, config_of(classifier)).scores(ASKED, ANSWERS)
    assert np.abs(found - bare).max() > 1e-3
    again = load_cross_encoder(tmp_path / "saved", config_of(classifier))
    np.testing.assert_array_equal(again.scores(ASKED, ANSWERS), found)


def test_any_start_gets_the_same_new_head_each_time(tiny_encoder, tmp_path):
    """A sentence-transformers folder, an old one with the transformer one folder down, a
    classifier with three classes."""
    body = Transformer(str(tiny_encoder))
    packed = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension())])
    packed.save_pretrained(str(tmp_path / "packed"))
    nested = tmp_path / "nested"
    nested.mkdir()
    for name in ("modules.json", "config_sentence_transformers.json"):
        (nested / name).write_text((tmp_path / "packed" / name).read_text())
    body.save(str(nested / "0_Transformer"))
    (nested / "1_Pooling").mkdir()
    (nested / "1_Pooling" / "config.json").write_text("{}")
    three = classifier_with(3, tiny_encoder, tmp_path / "three")
    expected = load_cross_encoder(tiny_encoder, config_of("unused")).scores(ASKED, ANSWERS)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    for start in (tiny_encoder, tmp_path / "packed", nested):
        reranker = load_cross_encoder(start, config_of("unused"))
        assert reranker.new_head
        np.testing.assert_array_equal(reranker.scores(ASKED, ANSWERS), expected)
    of_three = load_cross_encoder(three, config_of("unused"))
    assert of_three.new_head
    assert of_three.model.num_labels == 1
    assert np.isfinite(of_three.scores(ASKED, ANSWERS)).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_trained_cross_encoder_is_taken_as_it_is(classifier, tmp_path):
    """With its sigmoid, which scores do without: they are raw."""
    plain = CrossEncoder(str(classifier), device="cpu", activation_fn=torch.nn.Sigmoid())
    plain.save_pretrained(str(tmp_path / "trained"))
    reranker = load_cross_encoder(tmp_path / "trained", config_of("unused"))
    assert not reranker.new_head
    plain.max_seq_length = 64
    squashed = plain.predict(list(zip(ASKED, ANSWERS, strict=True)))
    found = torch.tensor(reranker.scores(ASKED, ANSWERS))
    assert found.min() < 0
    np.testing.assert_allclose(torch.sigmoid(found), squashed, atol=5e-6)


def test_a_chat_template_does_not_turn_pairs_into_chats(tmp_path, tiny_models):
    folder = causal_lm("qwen", tmp_path / "chat")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    chatty = load_cross_encoder(folder, config_of(folder)).scores(ASKED, ANSWERS)
    bare = load_cross_encoder(tiny_models["qwen"], config_of(folder)).scores(ASKED, ANSWERS)
    np.testing.assert_array_equal(chatty, bare)


def test_what_cannot_be_loaded_is_explained(tmp_path, classifier):
    with pytest.raises(ModelError, match="There is no encoder folder"):
        load_cross_encoder(tmp_path / "nowhere", config_of("unused"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_cross_encoder(tmp_path / "broken", config_of("unused"))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((classifier / "config.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="a pickle"):
        load_cross_encoder(pickled, config_of("unused"))


def test_memory_that_runs_out_halves_the_batch(classifier, monkeypatch):
    progress = RecordedProgress()
    config = config_of(classifier, encode_batch_size=8)
    reranker = load_cross_encoder(None, config, progress=progress)
    expected = reranker.scores(ASKED, ANSWERS)
    read = CrossEncoderReranker.logits
    at_once = []

    def small(self, rows):
        if len(rows) > fits:
            raise torch.OutOfMemoryError
        at_once.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(CrossEncoderReranker, "logits", small)
    fits = 2
    np.testing.assert_allclose(reranker.scores(ASKED, ANSWERS), expected, atol=5e-6)
    assert at_once == [2] * (len(ASKED) // 2)
    assert progress.messages[-1] == "Out of memory: scoring goes on with 2 pairs at once."
    fits = 0
    with pytest.raises(ModelError, match="too little memory"):
        reranker.scores(ASKED, ANSWERS)


def test_scores_that_are_no_numbers_are_an_error(classifier):
    reranker = load_cross_encoder(None, config_of(classifier))
    with torch.no_grad():
        reranker.model[0].model.classifier.bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="no numbers"):
        reranker.scores(["a"], ["b"])
    with pytest.raises(ValueError, match="1 queries for 2 documents"):
        reranker.scores(["a"], ["b", "c"])


CORPUS = Listed(
    [Document(name, f"text of {name}") for name in "abcde"] + [Document("q1", "its own text")]
)


@pytest.fixture
def by_table(classifier, monkeypatch):
    """A reranker whose scores are looked up by hand: the letter of the document."""
    table = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 3.0, "e": -1.0, "t": 9.0}
    reranker = load_cross_encoder(None, config_of(classifier))
    monkeypatch.setattr(
        reranker,
        "scores",
        lambda queries, documents: np.array([table[text[-1]] for text in documents], np.float32),
    )
    return reranker


def test_candidates_are_ordered_by_score_then_id(by_table):
    queries = [Query("q1", "x"), Query("q2", "y"), Query("q3", "z")]
    candidates = {
        "q1": {"e": 5.0, "d": 4.0, "q1": 3.5, "c": 3.0, "b": 2.0},
        "q3": {"a": 1.0},
        "unasked": {"b": 1.0},
    }
    run = by_table.rerank(queries, candidates, CORPUS, 3)
    assert {query_id: list(found.items()) for query_id, found in run.items()} == {
        "q1": [("b", 3.0), ("d", 3.0), ("c", 2.0)],
        "q2": [],
        "q3": [("a", 1.0)],
    }
    assert list(by_table.rerank(queries, candidates, CORPUS, 1)["q1"]) == ["b"]


def test_candidates_that_are_not_there_and_queries_twice_are_refused(by_table):
    with pytest.raises(DataError, match=r"^Document z is to be reranked, and the corpus"):
        by_table.rerank([Query("q1", "x")], {"q1": {"z": 1.0}}, CORPUS, 3)
    with pytest.raises(ValueError, match="twice"):
        by_table.rerank([Query("q", "x"), Query("q", "y")], {}, CORPUS, 3)
    with pytest.raises(ValueError, match="top_k"):
        by_table.rerank([], {}, CORPUS, 0)


def test_reranking_in_pieces_gives_the_whole(classifier, monkeypatch):
    reranker = load_cross_encoder(None, config_of(classifier))
    corpus = Listed(DOCUMENTS)
    candidates = {
        query.query_id: dict.fromkeys([document.doc_id for document in DOCUMENTS[number:]], 0.0)
        for number, query in enumerate(QUERIES)
    }
    whole = reranker.rerank(QUERIES, candidates, corpus, 5)
    monkeypatch.setattr("sptar.retrieval.crossencoder._PAIRS_AT_ONCE", 7)
    cut = reranker.rerank(QUERIES, candidates, corpus, 5)
    assert list(cut) == list(whole)
    for query_id, found in whole.items():
        assert len(found) == 5
        assert list(cut[query_id]) == list(found)
        np.testing.assert_allclose(list(cut[query_id].values()), list(found.values()), atol=5e-6)


def batch_of(pairs, negatives=2):
    return TrainingBatch(
        numbers=tuple(range(len(pairs))),
        queries=tuple(pair.query.text for pair in pairs),
        positives=tuple(pair.document.full_text for pair in pairs),
        negatives=tuple(
            tuple(TEXTS[(number + 1 + k) % len(TEXTS)] for k in range(negatives))
            for number in range(len(pairs))
        ),
    )


def test_the_loss_is_the_mean_cross_entropy_of_all_rows(classifier):
    """By hand from the plain library's scores: -ln σ(s) for a positive, -ln (1 - σ(s)) else."""
    config = config_of(classifier)
    trainable = CrossEncoderTrainable(load_cross_encoder(None, config), config, None)
    assert trainable.spec.name == "bm25ce"
    plain = CrossEncoder(str(classifier), device="cpu", activation_fn=torch.nn.Identity())
    plain.max_seq_length = 64
    batch = batch_of(PAIRS[:3], negatives=4)
    losses = []
    for query, positive, negatives in zip(
        batch.queries, batch.positives, batch.negatives, strict=True
    ):
        losses.append(np.log1p(np.exp(-plain.predict([(query, positive)])[0])))
        losses += [np.log1p(np.exp(plain.predict([(query, text)])[0])) for text in negatives]
    assert len(losses) == 15
    found = trainable.loss(batch)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def gradient_of(trainable, batch, *, training):
    trainable.module.train(training)
    trainable.module.zero_grad()
    torch.manual_seed(5)
    loss = trainable.loss(batch)
    loss.backward()
    return loss.item(), {
        name: parameter.grad.clone()
        for name, parameter in trainable.module.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("size", [1, 4, 100])
def test_micro_batches_change_neither_loss_nor_gradient(classifier, size):
    batch = batch_of(PAIRS[:5])
    found = []
    for micro in (None, size):
        config = config_of(classifier, micro_batch_size=micro)
        trainable = CrossEncoderTrainable(load_cross_encoder(None, config), config, None)
        found.append(gradient_of(trainable, batch, training=False))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-6)


def test_with_dropout_a_piece_is_read_the_same_way_twice(classifier, monkeypatch):
    """Against the same pieces with the same random numbers, kept in memory."""
    config = config_of(classifier, micro_batch_size=4)
    batch = batch_of(PAIRS[:5])
    trainable = CrossEncoderTrainable(load_cross_encoder(None, config), config, None)
    loss, found = gradient_of(trainable, batch, training=True)
    with monkeypatch.context() as patched:
        patched.setattr(cached_loss, "checkpoint", lambda embed, *args, use_reentrant: embed(*args))
        kept_loss, kept = gradient_of(trainable, batch, training=True)
    assert loss == kept_loss
    assert found.keys() == kept.keys()
    for name, gradient in kept.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
    other, _ = gradient_of(trainable, batch, training=False)
    assert abs(other - loss) > 1e-4


@pytest.mark.parametrize("micro", [None, 4])
def test_bfloat16_is_for_the_model_and_not_for_the_loss(classifier, micro):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = config_of(classifier, dtype=dtype, micro_batch_size=micro)
        trainable = CrossEncoderTrainable(load_cross_encoder(None, config), config, None)
        trainable.module.eval()
        loss = trainable.loss(batch_of(PAIRS[:4]))
        loss.backward()
        assert loss.dtype == torch.float32
        losses[dtype] = loss.item()
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_it_learns_its_pairs_and_ranks_the_candidates(classifier, tmp_path):
    config = config_of(classifier)
    batch = batch_of(PAIRS[:5], negatives=3)
    candidates = {
        pair.query.query_id: dict.fromkeys(
            [document.doc_id for document in DOCUMENTS[number : number + 4]], 1.0
        )
        for number, pair in enumerate(PAIRS[:5])
    }
    candidates["q07"] = {"d05": 1.0, "d99": 1.0, "d01": 2.0}
    trainable = CrossEncoderTrainable(load_cross_encoder(None, config), config, candidates)
    optimiser = torch.optim.AdamW(trainable.module.parameters(), lr=3e-3)
    trainable.module.train()
    torch.manual_seed(1)
    losses = []
    for _ in range(80):
        loss = trainable.loss(batch)
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    # Always telling the share of the positives, 1 in 4, would cost 0.56.
    assert losses[0] > 0.56
    # One batch alone can be hit hard by dropout.
    assert np.mean(losses[-10:]) < 0.3
    trainable.module.eval()
    run = trainable.rank(QUERIES, DOCUMENTS, 3)
    for pair in PAIRS[:5]:
        assert next(iter(run[pair.query.query_id])) == pair.document.doc_id
        assert len(run[pair.query.query_id]) == 3
    assert set(run["q07"]) == {"d05", "d01"}
    assert run["q08"] == {}
    trainable.save(tmp_path / "trained")
    plain = CrossEncoder(str(tmp_path / "trained"), device="cpu")
    rows = [(QUERIES[0].text, DOCUMENTS[int(doc_id[1:]) - 1].full_text) for doc_id in run["q01"]]
    np.testing.assert_allclose(plain.predict(rows), list(run["q01"].values()), atol=2e-5)


def test_without_candidates_all_documents_are_ranked(classifier):
    config = config_of(classifier)
    trainable = CrossEncoderTrainable(load_cross_encoder(None, config), config, None)
    run = trainable.rank(QUERIES[:2], DOCUMENTS, 100)
    assert {len(found) for found in run.values()} == {len(DOCUMENTS)}


def test_what_is_read_is_part_of_the_identity(classifier):
    def reading(**settings):
        config = config_of(classifier, **settings)
        reranker = load_cross_encoder(None, config)
        return json.dumps(CrossEncoderTrainable(reranker, config, None).reading())

    told = {
        reading(),
        reading(max_tokens=32),
        reading(max_query_tokens=8),
        reading(query_prompt="ask: "),
        reading(document_prompt="tell: "),
    }
    assert len(told) == 5


def test_the_card_says_how_texts_are_read(classifier):
    config = config_of(classifier, max_query_tokens=8, query_prompt="ask: ")
    told = CrossEncoderTrainable(load_cross_encoder(None, config), config, None)
    words = told.reading_in_words()
    assert "at most 64 tokens of both and 8 of the query; the longer one is cut." in words
    assert "ask: " in words
