"""sptar: soft prompt tuning to augment dense retrieval.

The names below are loaded when they are first used, so ``import sptar`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sptar.config import RunConfig, load_config
    from sptar.data.collection import Collection
    from sptar.errors import SptarError
    from sptar.evaluation.evaluate import Scores, evaluate
    from sptar.evaluation.significance import Comparison, compare
    from sptar.pipeline import run
    from sptar.serve.answer import answer
    from sptar.steps.base import Context
    from sptar.types import Document, Pair, Query
    from sptar.workspace import Workspace

__all__ = [
    "Collection",
    "Comparison",
    "Context",
    "Document",
    "Pair",
    "Query",
    "RunConfig",
    "Scores",
    "SptarError",
    "Workspace",
    "answer",
    "compare",
    "evaluate",
    "load_config",
    "run",
]

_HOMES = {
    "Collection": "sptar.data.collection",
    "Comparison": "sptar.evaluation.significance",
    "Context": "sptar.steps.base",
    "Document": "sptar.types",
    "Pair": "sptar.types",
    "Query": "sptar.types",
    "RunConfig": "sptar.config",
    "Scores": "sptar.evaluation.evaluate",
    "SptarError": "sptar.errors",
    "Workspace": "sptar.workspace",
    "answer": "sptar.serve.answer",
    "compare": "sptar.evaluation.significance",
    "evaluate": "sptar.evaluation.evaluate",
    "load_config": "sptar.config",
    "run": "sptar.pipeline",
}

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sptar' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
