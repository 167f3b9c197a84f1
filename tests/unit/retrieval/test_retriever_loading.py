"""From a row of the table to the right class, or to a sentence that says why not."""

from __future__ import annotations

import pytest

from sptar.config import TrainConfig
from sptar.errors import ConfigError
from sptar.retrieval.families import load_corpus_encoder, load_reranker
from sptar.retrieval.specs import RETRIEVERS, recipe
from sptar.training.dev_set import DevSet
from sptar.training.students import load_trainable
from tiny import QUERIES

NO_DEV = DevSet((), (), {})


@pytest.mark.parametrize("row", [*RETRIEVERS])
def test_every_row_loads_as_what_it_is(row, tiny_encoder):
    config = recipe(TrainConfig(start=str(tiny_encoder)), row)
    spec = RETRIEVERS[row]
    if spec.family == "cross_encoder":
        assert load_reranker(None, config).rerank([], {}, None, 10) == {}
        with pytest.raises(ConfigError, match=f"{row} reranks"):
            load_corpus_encoder(None, config)
    else:
        encoder = load_corpus_encoder(None, config)
        assert encoder.block_suffix.startswith(".")
        assert encoder.dimension > 0
        with pytest.raises(ConfigError, match=f"{row} is no cross-encoder"):
            load_reranker(None, config)
    if spec.reranks is None:
        trainable = load_trainable(config, NO_DEV)
        assert trainable.spec == spec
        assert any(parameter.requires_grad for parameter in trainable.module.parameters())
    else:
        with pytest.raises(ConfigError, match="trains nothing of its own") as caught:
            load_trainable(config, NO_DEV)
        assert "Train dpr" in str(caught.value)


def test_a_name_wins_over_the_start_of_the_config(tiny_encoder):
    config = recipe(TrainConfig(start="./nowhere"))
    assert load_corpus_encoder(tiny_encoder, config).encode_queries(QUERIES).shape == (8, 32)
