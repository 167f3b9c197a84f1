"""A small but whole experiment: the toy collection, a tiny language model, a tiny encoder."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

MakeConfig = Callable[..., Path]


@pytest.fixture(scope="session")
def make_config(
    tiny_models: dict[str, Path], tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> MakeConfig:
    """Write a config file; sections given replace single settings of the standard ones."""
    source = resources.files("sptar.starter") / "toy_collection"

    def write(name: str = "toy", shape: str = "llama", **sections: Any) -> Path:
        values: dict[str, Any] = {
            "name": name,
            "seed": 7,
            "methods": ["bm25", "zero_shot", "no_augmentation", "inpars", "inpars_gbq", "sptar"],
            "data": {"source": str(source)},
            "split": {"train_queries": 6, "eval_queries": 5, "max_documents": 24},
            "llm": {"name": str(tiny_models[shape])},
            "prompt": {"examples": 1, "max_document_tokens": 40, "max_query_tokens": 16},
            "tune": {"virtual_tokens": 4, "epochs": 2},
            "augment": {"max_new_tokens": 6, "block_size": 7, "batch_size": 4},
            # A model of two layers that has seen nothing hardly ever ends its answer.
            "filter": {"k": 100, "block_size": 10, "drop_unfinished": False},
            "train": {
                "start": str(tiny_encoder),
                "epochs": 2,
                "batch_size": 4,
                "max_tokens": 40,
                "encode_block_size": 50,
            },
            "evaluate": {"bootstrap_samples": 200, "top_k": 100},
        }
        for section, settings in sections.items():
            if isinstance(settings, dict) and isinstance(values.get(section), dict):
                values[section] = {**values[section], **settings}
            else:
                values[section] = settings
        path = tmp_path_factory.mktemp("config") / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write
