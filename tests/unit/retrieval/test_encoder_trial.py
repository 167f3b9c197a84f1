"""Encoders are tried at loading: positions that are not all for tokens, padding that is seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from sptar.config import TrainConfig
from sptar.errors import ModelError
from sptar.positions import readable_tokens
from sptar.retrieval.families import load_corpus_encoder, load_reranker
from sptar.retrieval.specs import recipe
from sptar.retrieval.trial import try_encoder
from sptar.types import Document, Query
from tiny import encoder

POSITIONS = 66
"""Rows of the tables of positions; RoBERTa and its kin use the first two for padding."""

LONG = Document("long", "Rain falls on the hill and the water runs down to the town. " * 40)
SHORT = Document("short", "Bees dance on the comb.")


def architecture(kind: str, bert: Path, folder: Path, **more: object) -> Path:
    """A tiny encoder of this kind whose tokenizer states no length."""
    settings = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64}
    settings |= {"num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
    settings |= {"max_position_embeddings": POSITIONS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **settings | more)
        model = AutoModel.from_config(config)
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, 0, 0.2)
    model.save_pretrained(folder)
    for file in bert.glob("tokenizer*"):
        content = json.loads(file.read_text(encoding="utf-8"))
        content.pop("model_max_length", None)
        (folder / file.name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def start_at(folder: Path, retriever: str = "dpr", **more: object) -> TrainConfig:
    return recipe(TrainConfig(start=str(folder), device="cpu", **more), retriever)


@pytest.mark.parametrize(
    ("kind", "more", "tokens"),
    [
        ("roberta", {"pad_token_id": 1}, 64),
        ("xlm-roberta", {"pad_token_id": 1}, 64),
        ("camembert", {"pad_token_id": 1}, 64),
        ("mpnet", {"pad_token_id": 1}, 64),
        ("longformer", {"pad_token_id": 1, "attention_window": 8}, 64),
        # The first position behind the padding's row, wherever that is.
        ("roberta", {"pad_token_id": 3}, 62),
        ("bert", {}, 66),
        ("electra", {"embedding_size": 32}, 66),
    ],
)
def test_no_more_tokens_are_read_than_the_table_holds(
    tiny_encoder: Path, tmp_path: Path, kind: str, more: dict[str, object], tokens: int
) -> None:
    folder = architecture(kind, tiny_encoder, tmp_path / kind, **more)
    loaded = load_corpus_encoder(None, start_at(folder))
    assert loaded.max_tokens == tokens
    both = loaded.encode_documents([LONG, SHORT])
    alone = [loaded.encode_documents([document])[0] for document in (LONG, SHORT)]
    np.testing.assert_allclose(both, alone, atol=1e-5)


@pytest.mark.parametrize("retriever", ["colbert", "splade"])
def test_other_rows_are_bounded_too(tiny_encoder: Path, tmp_path: Path, retriever: str) -> None:
    folder = architecture("roberta", tiny_encoder, tmp_path / "roberta", pad_token_id=1)
    loaded = load_corpus_encoder(None, start_at(folder, retriever, max_query_tokens=100))
    loaded.encode_documents([LONG, SHORT])
    loaded.encode_queries([Query("q", LONG.text)])


def test_a_reranker_is_bounded_too(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = architecture("roberta", tiny_encoder, tmp_path / "roberta", pad_token_id=1)
    reranker = load_reranker(None, start_at(folder, "bm25ce"))
    assert np.isfinite(reranker.scores(["when does the ferry leave"], [LONG.text])).all()


def test_a_lower_bound_of_the_recipe_stays(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = architecture("roberta", tiny_encoder, tmp_path / "roberta", pad_token_id=1)
    assert load_corpus_encoder(None, start_at(folder, max_tokens=40)).max_tokens == 40


def test_a_model_whose_texts_see_the_padding_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    # ConvBERT's convolution reaches over a text's end.
    folder = architecture("convbert", tiny_encoder, tmp_path / "convbert")
    with pytest.raises(ModelError, match="depends on the other texts of its batch"):
        load_corpus_encoder(None, start_at(folder))


@pytest.mark.parametrize("retriever", ["dpr", "colbert", "splade", "bm25ce"])
def test_a_model_of_pictures_is_refused(tiny_encoder: Path, tmp_path: Path, retriever: str) -> None:
    sizes = {"image_size": 32, "patch_size": 8}
    folder = architecture("vit", tiny_encoder, tmp_path / "vit", **sizes)
    load = load_reranker if retriever == "bm25ce" else load_corpus_encoder
    with pytest.raises(ModelError) as refusal:
        load(None, start_at(folder, retriever))
    assert "vit" in str(refusal.value)
    assert "NoneType" not in str(refusal.value)
    assert "attribute" not in str(refusal.value)


def test_adapter_files_beside_an_encoder_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "merged")
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    for retriever in ("dpr", "colbert", "splade"):
        with pytest.raises(ModelError, match="on top of the model's own weights"):
            load_corpus_encoder(None, start_at(folder, retriever))


def test_the_verdict(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(encoder(tmp_path / "bert")), device="cpu").eval()
    (verdict,) = try_encoder(model, "bert")
    assert verdict.architecture == "bert"
    assert verdict.most_tokens == verdict.table_tokens == verdict.tried_tokens == 256


def test_tables_are_told_from_tables_of_distances() -> None:
    tokens, positions, distances = (torch.nn.Embedding(rows, 4) for rows in (99, 52, 32))

    def read(length: int) -> None:
        count = torch.arange(length)
        tokens(torch.full((1, length), 98))
        distances(count.clamp(max=31))
        positions(count + 2)

    assert readable_tokens(read) == 50
    assert readable_tokens(read, most=20) is None
    assert readable_tokens(lambda length: tokens(torch.full((1, length), 98))) is None
