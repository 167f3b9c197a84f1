"""Step ``pairs``: the training set of a retriever, labels and kept weak pairs together."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sptar.io import read_jsonl, write_jsonl
from sptar.steps.base import Context, Output, Step
from sptar.steps.resources import labelled_pairs, open_collection, open_split, queries_of
from sptar.workspace import Artefact

__all__ = ["PairsStep"]


def _kept(decisions: Artefact) -> Iterator[dict[str, Any]]:
    for _, row in read_jsonl(decisions.path("decisions.jsonl")):
        if row["kept"]:
            yield row


@dataclass(frozen=True, kw_only=True)
class PairsStep(Step):
    """Joins labels and weak pairs. ``equal_to`` names other methods' filters: with any, the number
    of weak pairs is the smallest that one of them (or this one) kept, sampled by seed.
    """

    name: ClassVar[str] = "pairs"
    collection: Step
    split: Step
    filter: Step | None
    equal_to: tuple[Step, ...]
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """The seed of the sample, when there is one."""
        return {"seed": self.seed} if self.equal_to else {}

    @property
    def inputs(self) -> Mapping[str, Step]:
        """Collection, split, and the decisions about the weak queries."""
        inputs = dict(super().inputs)
        for step in sorted(self.equal_to, key=lambda step: step.fingerprint):
            inputs[f"equal_to_{step.fingerprint}"] = step
        return inputs

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Write the pairs and count overlap with the test queries."""
        from sptar.data.overlap import find_overlap

        collection = open_collection(inputs, context)
        split = open_split(inputs, context)
        label_ids = [*split.train, *(split.evaluation if split.mode == "paper" else ())]
        rows = [
            {
                "query_id": pair.query.query_id,
                "doc_id": pair.document.doc_id,
                "text": pair.query.text,
                "source": "label",
            }
            for pair in labelled_pairs(collection, label_ids)
        ]
        labels = len(rows)
        weak: list[dict[str, Any]] = []
        available = 0
        if self.filter is not None:
            weak = [
                {key: row[key] for key in ("query_id", "doc_id", "text")} | {"source": "weak"}
                for row in _kept(inputs["filter"])
            ]
            available = len(weak)
            if self.equal_to:
                counts = [
                    artefact.manifest.summary["funnel"].get("kept", 0)
                    for name, artefact in inputs.items()
                    if name.startswith("equal_to_")
                ]
                size = min(available, *counts)
                chosen = sorted(random.Random(self.seed).sample(range(available), size))
                weak = [weak[index] for index in chosen]
        rows.extend(weak)
        write_jsonl(output.path("pairs.jsonl"), rows)
        test = queries_of(collection, split.test)
        found = {
            source: find_overlap(
                [row["text"] for row in rows if row["source"] == source], test
            ).to_json()
            for source in ("label", "weak")
        }
        return {
            "labels": labels,
            "label_queries": len(label_ids),
            "weak": len(weak),
            "weak_available": available,
            "overlap_with_test": found,
        }
