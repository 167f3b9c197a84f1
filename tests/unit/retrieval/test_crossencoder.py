"""A cross-encoder's scores depend on the two texts alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crossencoder_models import ANSWERS, ASKED, TEXTS, config_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rounding import rounding
from sptar.errors import ModelError
from sptar.progress import RecordedProgress
from sptar.retrieval.cross.reranker import CrossEncoderReranker, load_cross_encoder
from tiny import LANGUAGE_MODEL_SHAPES, QUERIES

ERROR = rounding(size=2.0)
"""Of a score; those of the tiny models are between -2 and 2."""


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
    np.testing.assert_allclose(scores, alone, atol=min(ERROR, 0.01 * spread))
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
    np.testing.assert_allclose(found, [expected[row] for row in rows], atol=ERROR)


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
    np.testing.assert_allclose(together[:4], alone, atol=ERROR)
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
    np.testing.assert_allclose(found, expected, atol=ERROR)


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
    np.testing.assert_allclose(found, expected, atol=ERROR)


def test_prompts_stand_in_front_and_are_kept(classifier, tmp_path):
    config = config_of(classifier, query_prompt="ask: ", document_prompt="tell: ")
    reranker = load_cross_encoder(None, config)
    reranker.save(tmp_path / "saved")
    found = reranker.scores(ASKED, ANSWERS)
    plain = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    with_prompts = [("ask: " + q, "tell: " + d) for q, d in zip(ASKED, ANSWERS, strict=True)]
    np.testing.assert_allclose(found, plain.predict(with_prompts), atol=ERROR)
    bare = load_cross_encoder(None, config_of(classifier)).scores(ASKED, ANSWERS)
    assert np.abs(found - bare).max() > 1e-3
    again = load_cross_encoder(tmp_path / "saved", config_of(classifier))
    np.testing.assert_array_equal(again.scores(ASKED, ANSWERS), found)


def test_memory_that_runs_out_halves_the_batch(classifier, monkeypatch):
    progress = RecordedProgress()
    config = config_of(classifier, encode_batch_size=8)
    reranker = load_cross_encoder(None, config, progress=progress)
    expected = reranker.scores(ASKED, ANSWERS)
    read = CrossEncoderReranker.logits
    at_once = []

    def small(self, rows):
        if len(rows) > fits:
            torch.empty(2**52)  # raises what a processor's allocator says
        at_once.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(CrossEncoderReranker, "logits", small)
    fits = 2
    np.testing.assert_allclose(reranker.scores(ASKED, ANSWERS), expected, atol=ERROR)
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
