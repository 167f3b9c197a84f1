"""Late interaction reads texts as ColBERT does, and gives the plain library's scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from test_late_scores import slow_maxsim
from transformers import AutoModel, AutoTokenizer

from sptar.config import TrainConfig
from sptar.errors import DataError
from sptar.progress import RecordedProgress
from sptar.retrieval.dense.rerank import VectorReranker
from sptar.retrieval.late import encoder as late_encoder
from sptar.retrieval.late.encoder import load_late_encoder
from sptar.retrieval.late.scores import late_scores
from sptar.retrieval.ranking import ListedIds
from sptar.retrieval.specs import recipe
from sptar.types import Document, Query
from tiny import DOCUMENTS, LANGUAGE_MODEL_SHAPES, QUERIES

ODD = (
    Document("empty", ""),
    Document("blank", "  \n "),
    Document("marks", "?!. (...)"),
    Document("long", "the bees dance " * 900),
)


def settings_for(start, **settings):
    given = {"start": str(start), "token_dimension": 16, "device": "cpu", **settings}
    return recipe(TrainConfig(), "colbert", given)


def load(start, **settings):
    return load_late_encoder(None, settings_for(start, **settings))


class Listed(ListedIds):
    """Documents in memory as a corpus."""

    def __init__(self, documents):
        super().__init__(documents)
        self._documents = documents

    def __getitem__(self, position):
        return self._documents[position]


@pytest.mark.parametrize("shape", ["encoder", *LANGUAGE_MODEL_SHAPES])
def test_any_model_encodes_independently_of_batch_and_order(shape, tiny_encoder, tiny_models):
    start = tiny_encoder if shape == "encoder" else tiny_models[shape]
    documents = [*DOCUMENTS, *ODD]
    queries = [*QUERIES, Query("empty", ""), Query("long", "bees dance " * 500)]
    alone, together = load(start, encode_batch_size=1), load(start, encode_batch_size=32)
    for one, all_ in (
        (alone.encode_documents(documents), together.encode_documents(documents)),
        (alone.encode_queries(queries), together.encode_queries(queries)),
    ):
        assert one.lengths.tolist() == all_.lengths.tolist()
        np.testing.assert_allclose(one.vectors, all_.vectors, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(one.vectors, axis=1), 1.0, atol=1e-5)
        assert np.isfinite(one.vectors).all()
    backwards = together.encode_documents(documents[::-1]).take(range(len(documents))[::-1])
    np.testing.assert_allclose(
        backwards.vectors, together.encode_documents(documents).vectors, atol=1e-5
    )
    found = alone.encode_documents(documents)
    # The texts are told apart, so equality above is not that of constants.
    assert np.abs(found[0][:5] - found[1][:5]).max() > 1e-2
    assert alone.encode_queries(queries).lengths.tolist() == [32] * len(queries)


def by_hand(encoder, start, ids, attention):
    """[t, d] of one text: transformers' states, projected, of length 1."""
    body = AutoModel.from_pretrained(start).eval()
    weight = encoder.model.state_dict()["1.linear.weight"]
    with torch.no_grad():
        states = body(
            input_ids=torch.tensor([ids]), attention_mask=torch.tensor([attention])
        ).last_hidden_state[0]
    projected = states @ weight.T
    return (projected / projected.norm(dim=-1, keepdim=True)).numpy()


def test_a_query_is_filled_up_with_mask_tokens_that_are_compared_but_not_attended(tiny_encoder):
    encoder = load(tiny_encoder, max_query_tokens=20, query_prompt="ask: ")
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    found = encoder.encode_queries(QUERIES)
    for query, vectors in zip(QUERIES, found, strict=True):
        ids = tokenizer(f"ask: {query.text}", truncation=True, max_length=20)["input_ids"]
        missing = 20 - len(ids)
        filled = ids + [tokenizer.mask_token_id] * missing
        expected = by_hand(encoder, tiny_encoder, filled, [1] * len(ids) + [0] * missing)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert encoder.model[0].query_expansion["token"] == "[MASK]"


def test_a_document_has_no_vectors_for_its_punctuation(tiny_encoder):
    """The marks are read like all words, only their vectors are left out."""
    encoder = load(tiny_encoder, max_tokens=30, document_prompt="tell: ")
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    found = encoder.encode_documents(DOCUMENTS)
    skipped = 0
    for document, vectors in zip(DOCUMENTS, found, strict=True):
        text = f"tell: {document.full_text}"
        ids = tokenizer(text, truncation=True, max_length=30)["input_ids"]
        kept = [token not in "!,.:;-" for token in tokenizer.convert_ids_to_tokens(ids)]
        skipped += kept.count(False)
        expected = by_hand(encoder, tiny_encoder, ids, [1] * len(ids))[np.array(kept)]
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert skipped > 10


@pytest.mark.parametrize("shape", ["llama", "gpt2", "qwen"])
def test_a_decoder_without_mask_token_fills_up_with_its_end_token(shape, tiny_models):
    encoder = load(tiny_models[shape], max_query_tokens=12)
    tokenizer = encoder.model.tokenizer
    ids = tokenizer("bleed radiator")["input_ids"]
    assert len(ids) < 12
    missing = 12 - len(ids)
    filled = ids + [tokenizer.eos_token_id] * missing
    expected = by_hand(encoder, tiny_models[shape], filled, [1] * len(ids) + [0] * missing)
    found = encoder.encode_queries([Query("q", "bleed radiator")])
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_nothing_to_encode_and_texts_of_punctuation_alone(tiny_models):
    encoder = load(tiny_models["gpt2"])
    nothing = encoder.encode_documents([])
    assert (len(nothing), nothing.dimension) == (0, 16)
    marks = encoder.encode_documents([Document("m", "...")])
    assert marks.lengths.tolist() == [0]
    empty = encoder.encode_documents([Document("e", "")])
    assert empty.lengths.tolist() == [1]


@pytest.mark.parametrize("shape", ["encoder", "llama", "gpt2", "qwen"])
def test_the_saved_folder_is_safe_and_the_plain_library_gives_the_same_scores(
    shape, tiny_encoder, tiny_models, tmp_path
):
    start = tiny_encoder if shape == "encoder" else tiny_models[shape]
    encoder = load(start, query_prompt="query: ", document_prompt="document: ", max_tokens=40)
    encoder.save(tmp_path / "model")
    plain = MultiVectorEncoder(str(tmp_path / "model"), device="cpu")
    texts = [document.full_text for document in DOCUMENTS]
    queries = plain.encode_query([query.text for query in QUERIES])
    documents = plain.encode_document(texts)
    ours = late_scores(encoder.encode_queries(QUERIES), encoder.encode_documents(DOCUMENTS))
    np.testing.assert_allclose(ours, plain.similarity(queries, documents), rtol=1e-5)
    assert [len(vectors) for vectors in queries] == [32] * 8
    again = load_late_encoder(tmp_path / "model", settings_for(start, max_tokens=40))
    assert again.reading() == encoder.reading()
    assert json.loads(json.dumps(again.reading())) == again.reading()
    np.testing.assert_array_equal(
        again.encode_documents(DOCUMENTS).vectors, encoder.encode_documents(DOCUMENTS).vectors
    )
    for file in (tmp_path / "model").rglob("*"):
        if file.is_file():
            assert file.suffix in {".json", ".safetensors", ".txt"}
        if file.suffix == ".json":
            assert str(start.parent) not in file.read_text()
            assert str(tmp_path) not in file.read_text()


def test_saved_blocks_are_searched_as_those_in_memory(tiny_encoder, tmp_path):
    encoder = load(tiny_encoder)
    documents = [*DOCUMENTS, *ODD]
    paths, blocks = [], []
    for number, (first, last) in enumerate([(0, 5), (5, 5), (5, 16)]):
        path = tmp_path / f"block-{number}{encoder.block_suffix}"
        parts = [encoder.encode_block(documents[first:last]), encoder.encode_block([])]
        blocks.append(encoder.join_blocks(parts))
        encoder.save_block(path, blocks[-1])
        paths.append(path)
    ids = ListedIds(documents)
    found = encoder.searcher(paths, ids).search(QUERIES, 16)
    assert found == encoder.searcher(blocks, ids).search(QUERIES, 16)
    candidates = {query.query_id: {"d01": 2.0, "empty": 1.0, "d09": 0.0} for query in QUERIES}
    reranked = VectorReranker(encoder, paths, ids).rerank(QUERIES, candidates, ids, 2)
    for query_id, scores in found.items():
        kept = [item for item in scores.items() if item[0] in candidates[query_id]]
        assert list(reranked[query_id].items()) == kept[:2]
    vectors = encoder.encode_documents(documents)
    for query, words in zip(QUERIES, encoder.encode_queries(QUERIES), strict=True):
        expected = {
            document.doc_id: slow_maxsim(words, tokens)
            for document, tokens in zip(documents, vectors, strict=True)
        }
        assert found[query.query_id] == pytest.approx(expected, abs=1e-4)
        assert len(found[query.query_id]) == 16


@pytest.mark.parametrize("at_once", [1, 5, 512])
def test_candidates_are_reranked_from_their_texts(tiny_encoder, monkeypatch, at_once):
    monkeypatch.setattr(late_encoder, "_DOCUMENTS_AT_ONCE", at_once)
    encoder = load(tiny_encoder)
    corpus = Listed([*DOCUMENTS, Document("q02", "what do you feed a sourdough starter")])
    blocks = [encoder.encode_documents([*corpus])]
    candidates = {
        "q01": {"d03": 1.0, "d01": 2.0, "d12": 0.5, "d07": 0.0},
        "q02": {"q02": 9.0, "d02": 1.0},
        "q03": {},
    }
    queries = QUERIES[:4]
    found = encoder.rerank(queries, candidates, corpus, 3)
    expected = encoder.searcher(blocks, corpus).search(queries, 3, candidates)
    assert {query: list(scores) for query, scores in found.items()} == {
        query: list(scores) for query, scores in expected.items()
    }
    assert len(found["q01"]) == 3
    assert list(found["q02"]) == ["d02"]
    assert found["q03"] == found["q04"] == {}
    for query_id, scores in expected.items():
        assert found[query_id] == pytest.approx(scores, abs=1e-4)
    with pytest.raises(DataError, match="Document d99, a candidate, is not in the corpus"):
        encoder.rerank(queries, {"q01": {"d99": 1.0}}, corpus, 3)


def test_memory_running_out_halves_the_batch(tiny_encoder, monkeypatch):
    progress = RecordedProgress()
    config = settings_for(tiny_encoder, encode_batch_size=8)
    encoder = load_late_encoder(None, config, progress=progress)
    expected = encoder.encode_queries(QUERIES)
    real = encoder.model.encode

    def scarce(texts, *, batch_size, **settings):
        if batch_size > 2:
            torch.empty(2**52)  # raises what a processor's allocator says
        return real(texts, batch_size=batch_size, **settings)

    monkeypatch.setattr(encoder.model, "encode", scarce)
    np.testing.assert_allclose(encoder.encode_queries(QUERIES).vectors, expected.vectors, atol=1e-5)
    assert [message.split()[-4] for message in progress.messages] == ["4", "2"]
