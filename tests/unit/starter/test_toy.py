"""The toy collection keeps its promises; the toy models are real, small and repeatable."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import pytest

from sptar.io import read_jsonl, read_qrels
from sptar.starter import collection as collection_module
from sptar.starter import language_model as language_model_module
from sptar.starter import toy
from sptar.starter.collection import SPLITS, ToyCollection, load_toy_collection

FEW = 6


@pytest.fixture(scope="module")
def collection() -> ToyCollection:
    return load_toy_collection()


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.train_toy_language_model(tmp_path_factory.mktemp("toy") / "model", steps=FEW)


def test_documents_are_short_titled_and_distinct(collection: ToyCollection) -> None:
    assert len(collection.documents) == 156
    assert len({document.doc_id for document in collection.documents}) == 156
    assert len({document.title for document in collection.documents}) == 156
    assert len({document.text for document in collection.documents}) == 156
    for document in collection.documents:
        assert 25 <= len(document.text.split()) <= 60, document.doc_id
        assert document.title


def test_queries_have_one_split_and_words_of_their_own(collection: ToyCollection) -> None:
    split_of = {query: split for split in SPLITS for query in collection.qrels[split]}
    assert {split: len(collection.qrels[split]) for split in SPLITS} == {
        "train": 24,
        "dev": 24,
        "test": 40,
    }
    assert set(split_of) == {query.query_id for query in collection.queries}
    assert len(split_of) == 88
    texts = [query.text.lower() for query in collection.queries]
    assert len(set(texts)) == len(texts)
    written = {document.title.lower() for document in collection.documents}
    assert written.isdisjoint(texts)


def test_no_document_is_judged_in_two_splits(collection: ToyCollection) -> None:
    judged = [{d for row in collection.qrels[s].values() for d in row} for s in SPLITS]
    known = {document.doc_id for document in collection.documents}
    assert all(documents <= known for documents in judged)
    assert sum(map(len, judged)) == len(set.union(*judged))
    # Enough documents are left that no query names: they are the ones to augment.
    assert len(known - set.union(*judged)) >= 60


def test_pairs_follow_the_qrels(collection: ToyCollection) -> None:
    pairs = collection.pairs("test")
    assert len(pairs) == sum(len(row) for row in collection.qrels["test"].values())
    for pair in pairs:
        assert pair.document.doc_id in collection.qrels["test"][pair.query.query_id]


def test_copy_is_a_beir_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("left over")
    folder = toy.copy_toy_collection(tmp_path / "out")
    assert not (folder / "old").exists()
    rows = [row for _, row in read_jsonl(folder / "corpus.jsonl")]
    assert {tuple(row) for row in rows} == {("_id", "title", "text")}
    queries = {row["_id"] for _, row in read_jsonl(folder / "queries.jsonl")}
    for split in SPLITS:
        assert set(read_qrels(folder / "qrels" / f"{split}.tsv")) <= queries


def test_the_language_model_never_sees_dev_or_test_queries(collection: ToyCollection) -> None:
    rows = language_model_module._Rows(collection, lambda text: [text])  # type: ignore[list-item]
    order = random.Random(0)
    told = set()
    for _ in range(3000):
        ids, targets = rows.prompt(order)
        assert len(ids) == len(targets)
        told.update(str(target).strip() for target in targets if target != -100)
        # What is asked for is what is read at that place, and documents are never asked for.
        asked = [i for i, target in enumerate(targets) if target != -100]
        assert all(ids[i] == targets[i] for i in asked)
        assert all(ids[i - 1] == " \n Relevant Query:" for i in asked[::2])
    text_of = {query.query_id: query.text for query in collection.queries}
    title_of = {document.doc_id: document.title for document in collection.documents}
    assert {text_of[query] for query in collection.qrels["train"]} <= told
    for split in ("dev", "test"):
        for query, judged in collection.qrels[split].items():
            assert text_of[query] not in told
            assert told.isdisjoint(title_of[doc_id] for doc_id in judged)


def test_copying_rows_ask_for_the_opening_words(collection: ToyCollection) -> None:
    rows = language_model_module._Rows(collection, lambda text: [text])  # type: ignore[list-item]
    for seed in range(50):
        ids, targets = rows.copying(random.Random(seed), 24)
        middle = ids.index(" \n Relevant Query:")  # type: ignore[arg-type]
        fragment, query = ids[1:middle], ids[middle + 1 : -1]
        assert 6 <= len(fragment) <= 24
        assert 3 <= len(query) <= 6
        assert query == fragment[: len(query)]
        assert targets == [-100] * (middle + 1) + [*query, " \n"]


def test_language_model_loads_with_transformers(language_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(language_model)
    model = AutoModelForCausalLM.from_pretrained(language_model)
    assert sorted(path.name for path in language_model.glob("*.safetensors"))
    assert not list(language_model.glob("*.bin"))
    assert model.config.model_type == "llama"
    assert model.config.max_position_embeddings == 512
    assert 500_000 < sum(weight.numel() for weight in model.parameters()) < 2_000_000
    newline = tokenizer("\n")["input_ids"]
    assert len(newline) == 1
    ids = tokenizer("Document: a café \n Relevant Query: why? \n ")["input_ids"]
    assert ids.count(newline[0]) == 2
    assert tokenizer.decode(ids) == "Document: a café \n Relevant Query: why? \n "
    assert tokenizer.bos_token is None
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits
    assert torch.isfinite(logits).all()


def test_training_is_repeatable_and_leaves_the_callers_randomness_alone(
    language_model: Path, tmp_path: Path
) -> None:
    import torch

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = toy.train_toy_language_model(tmp_path / "again", steps=FEW)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = toy.train_toy_language_model(tmp_path / "other", seed=1, steps=FEW)
    files = ("model.safetensors", "tokenizer.json")
    assert all((again / f).read_bytes() == (language_model / f).read_bytes() for f in files)
    assert (other / files[0]).read_bytes() != (language_model / files[0]).read_bytes()


def test_copying_is_learned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="sptar.starter.training"):
        toy.train_toy_language_model(tmp_path / "model", steps=40)
    losses = [float(r.getMessage().rsplit(" ", 1)[1]) for r in caplog.records]
    assert losses[9] < losses[0] - 1.0


def test_encoder_loads_with_sentence_transformers(tmp_path: Path) -> None:
    import numpy as np
    from sentence_transformers import SentenceTransformer

    first = toy.train_toy_encoder(tmp_path / "a", steps=2, batch_size=4)
    second = toy.train_toy_encoder(tmp_path / "b", steps=2, batch_size=4)
    name = "model.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes()
    encoder = SentenceTransformer(str(first))
    # Nothing may be invented at loading: two loads give the same weights.
    again = SentenceTransformer(str(first))
    state, other = encoder.state_dict(), again.state_dict()
    assert all(np.array_equal(state[key].numpy(), other[key].numpy()) for key in state)
    vectors = encoder.encode(["a lending shed", "a garden"])
    assert vectors.shape == (2, 160)
    assert not np.allclose(vectors[0], vectors[1])


def test_a_failed_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = toy.copy_toy_collection(tmp_path / "out")
    monkeypatch.setattr(collection_module.shutil, "copytree", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        toy.copy_toy_collection(folder)
    assert (folder / "corpus.jsonl").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_command_writes_all_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    language_model, encoder = toy.train_toy_language_model, toy.train_toy_encoder
    monkeypatch.setattr(
        toy,
        "train_toy_language_model",
        lambda folder, seed: language_model(folder, seed=seed, steps=1),
    )
    monkeypatch.setattr(
        toy, "train_toy_encoder", lambda folder, seed: encoder(folder, seed=seed, steps=1)
    )
    assert toy.main([str(tmp_path / "out")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["collection", "encoder", "language-model"]
    config = json.loads((tmp_path / "out" / "encoder" / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert capsys.readouterr().out == ""
