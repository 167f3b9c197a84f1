"""A cross-encoder from any start, or a trained one as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crossencoder_models import ANSWERS, ASKED, classifier_with, config_of
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoTokenizer

from sptar.errors import ModelError
from sptar.retrieval.cross.reranker import load_cross_encoder
from tiny import causal_lm


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
