"""Starts of sparse encoders for tests, made small and loaded as the row `splade` loads them."""

from __future__ import annotations

from transformers import AutoTokenizer

from sptar.config import TrainConfig
from sptar.retrieval.sparse.encoder import load_sparse_encoder
from sptar.retrieval.specs import recipe
from tiny import DOCUMENTS

TEXTS = [document.full_text for document in DOCUMENTS]


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
