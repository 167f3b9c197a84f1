"""Step ``split``: one role for each labelled query, and the documents to augment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from sptar.config import SplitConfig, result_settings
from sptar.steps.base import Context, Output, Step
from sptar.steps.resources import labelled_pairs, open_collection
from sptar.workspace import Artefact

__all__ = ["SplitStep"]


@dataclass(frozen=True, kw_only=True)
class SplitStep(Step):
    """Deals the labels out by seed."""

    name: ClassVar[str] = "split"
    version: ClassVar[int] = 2
    collection: Step
    split: SplitConfig
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """Sizes, sources of the roles, and the seed."""
        return {**result_settings(self.split, leave_out=["seed"]), "seed": self.seed}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Split, save, and count the labels of each role."""
        from sptar.data.splits import make_split

        collection = open_collection(inputs, context)
        split = make_split(collection, self.split, self.seed)
        split.save(output.path("split"))
        roles = {
            "train": split.train,
            "evaluation": split.evaluation,
            "dev": split.dev,
            "test": split.test,
        }
        return {
            "mode": split.mode,
            "documents_to_augment": len(split.augment),
            "separate_ids": collection.separate_ids,
            "test_queries_with_a_document": sum(
                query_id in collection.corpus for query_id in split.test
            ),
            "provenance": asdict(split.provenance),
            "roles": {
                role: {"queries": len(ids), "pairs": len(labelled_pairs(collection, ids))}
                for role, ids in roles.items()
            },
        }
