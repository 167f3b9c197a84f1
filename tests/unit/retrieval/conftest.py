"""Models and recipes that several files of this folder test with, made when asked for."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def masked_lm(tiny_encoder, tmp_path_factory):
    """A tiny masked language model with a head of its own."""
    import torch
    import transformers
    from sparse_models import saved, small_config

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.BertForMaskedLM(small_config(transformers.BertConfig, tiny_encoder))
        torch.nn.init.normal_(model.cls.predictions.bias, std=0.1)
    return saved(model, tiny_encoder, tmp_path_factory.mktemp("masked") / "lm")


@pytest.fixture(scope="session")
def starts(tiny_encoder, tiny_models, masked_lm, tmp_path_factory):
    """Every kind of start of a sparse encoder by name."""
    import transformers
    from sentence_transformers import SentenceTransformer
    from sparse_models import load, saved

    folder = tmp_path_factory.mktemp("starts")
    packed = SentenceTransformer(str(tiny_encoder), prompts={"query": "ask: ", "passage": "tell: "})
    packed.max_seq_length = 40
    packed.save_pretrained(str(folder / "packed"))
    load(masked_lm, query_prompt="where: ").save(folder / "sparse")
    encoder_decoder = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=len(transformers.AutoTokenizer.from_pretrained(tiny_encoder)),
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


@pytest.fixture(scope="session")
def classifier(tiny_encoder, tmp_path_factory):
    """A trained cross-encoder as plain transformers saves one, its scores wide apart."""
    from crossencoder_models import classifier_with

    return classifier_with(1, tiny_encoder, tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def recipe(tiny_encoder):
    """Makes the recipe of a short training; every setting can be another one."""
    from sptar.config import TrainConfig

    def make(**settings):
        values = {"start": str(tiny_encoder), "batch_size": 4, "epochs": 3, "learning_rate": 1e-3}
        return TrainConfig(**(values | settings))

    return make
