"""Cross-encoders for tests: a tiny one with spread scores, and pairs of texts to score."""

from __future__ import annotations

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from sptar.config import TrainConfig
from sptar.retrieval.specs import recipe
from tiny import DOCUMENTS, QUERIES

TEXTS = [document.full_text for document in DOCUMENTS]
ASKED = [query.text for query in QUERIES for _ in TEXTS]
ANSWERS = TEXTS * len(QUERIES)


def config_of(start, **settings):
    values = {"start": str(start), "max_tokens": 64, "device": "cpu"} | settings
    return recipe(TrainConfig(**values), "bm25ce")


def classifier_with(labels, tiny_encoder, folder):
    settings = BertConfig.from_pretrained(
        tiny_encoder, num_labels=labels, initializer_range=0.3, classifier_dropout=0.2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        BertForSequenceClassification(settings).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder)
    return folder
