"""Finished runs written by hand: the artefacts that reports and comparisons read, no training."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from sptar.config import DataConfig, dump_config, parse_config
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.family import compare_systems
from sptar.evaluation.measures import parse_measures
from sptar.evaluation.systems import parse_system
from sptar.io import write_json, write_jsonl
from sptar.types import Decision
from sptar.weak.filters import decision_to_row
from sptar.workspace import Workspace

MEASURES = ("nDCG@10", "RR@10")
TOY = resources.files("sptar.starter") / "toy_collection"


def drawn_scores(seed: int, shift: float = 0.0, queries: int = 24, **changes: Any) -> Scores:
    """Made-up scores; the same queries have the same difficulty whatever the seed."""
    easy = np.random.default_rng(0).uniform(0.2, 0.6, (2, queries))
    values = easy + shift + np.random.default_rng(seed).normal(0, 0.05, easy.shape)
    return Scores(
        measures=parse_measures(changes.get("measures", MEASURES)),
        query_ids=tuple(f"q{number:02d}" for number in range(queries)),
        values=tuple(tuple(map(float, row)) for row in np.clip(values, 0, 1)),
    )


class MadeRun:
    """Writes artefacts into a work folder, then the record that names them."""

    def __init__(self, work: Path, name: str, **settings: Any) -> None:
        self.workspace = Workspace(work)
        self.name = name
        self.config = parse_config(
            {"name": name, "data": {"source": str(TOY)}, "llm": {"name": "llm"}, **settings}
        )
        self.methods: dict[str, dict[str, str]] = {}
        self.steps: list[dict[str, Any]] = []

    def artefact(
        self,
        step: str,
        identity: str,
        summary: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        files: Mapping[str, Any] | None = None,
    ) -> str:
        """A finished artefact; ``files`` are JSON values, or lists of rows for ``.jsonl``."""
        folder = self.workspace.folder(step, identity)
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in (files or {}).items():
            if name.endswith(".jsonl"):
                write_jsonl(folder / name, value)
            else:
                write_json(folder / name, value)
        return self.finish(step, identity, summary, settings)

    def finish(
        self,
        step: str,
        identity: str,
        summary: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> str:
        """Write the manifest of an artefact whose files are there."""
        self.workspace.finish(
            step,
            1,
            identity,
            settings=settings or {},
            inputs=inputs or {},
            summary=summary or {},
            seconds=12.5,
            resumed=False,
            versions={"sptar": "0"},
        )
        if (step, identity) not in [(item["name"], item["fingerprint"]) for item in self.steps]:
            self.steps.append(
                {"name": step, "fingerprint": identity, "reused": False, "seconds": 12.5}
            )
        return identity

    def scores(self, method: str, scores: Scores, identity: str) -> None:
        """The step ``evaluate`` of a system."""
        folder = self.workspace.folder("evaluate", identity)
        folder.mkdir(parents=True, exist_ok=True)
        scores.save(folder / "scores.json")
        self.methods.setdefault(method, {"collection": "toy0"})["evaluate"] = self.finish(
            "evaluate", identity
        )

    def save(self, *, finished: bool = True, **changes: Any) -> None:
        """The record, as a run leaves it."""
        names = {name: parse_system(name) for name in self.methods}
        alone = self.config.train.retriever
        parts = {
            name: {
                "method": system.method,
                "retriever": None if name == "bm25" else system.retriever or alone,
            }
            for name, system in names.items()
        }
        write_json(
            self.workspace.run_folder(self.name) / "run.json",
            {
                "name": self.name,
                "finished": finished,
                "config": dump_config(self.config),
                "methods": self.methods,
                "parts": parts,
                "steps": self.steps,
                **changes,
            },
        )


def simple_run(
    work: Path,
    name: str,
    systems: Mapping[str, Scores],
    *,
    collection: str = "toy0",
    finished: bool = True,
    **settings: Any,
) -> None:
    """A run of which only the scores are there."""
    made = MadeRun(work, name, **settings)
    for number, (method, scores) in enumerate(systems.items()):
        made.scores(method, scores, f"{name}-{number}")
        made.methods[method]["collection"] = collection
    made.save(finished=finished)


def whole_run(work: Path, retrievers: tuple[str, ...]) -> MadeRun:
    """A run with all that a page shows; without retrievers its methods have plain names."""
    from sptar.config import SplitConfig
    from sptar.data.collection import Collection
    from sptar.data.sources import convert
    from sptar.data.splits import make_split

    settings = {"retrievers": list(retrievers)} if retrievers else {}
    made = MadeRun(work, "whole", note="Made by hand.", **settings)
    folder = made.workspace.folder("collection", "toy0")
    convert(DataConfig(source=str(TOY)), folder / "collection")
    made.finish("collection", "toy0")
    roles = {role: {"queries": 3, "pairs": 4} for role in ("train", "evaluation", "dev", "test")}
    collection = Collection.open(folder / "collection")
    sizes = SplitConfig(train_queries=3, eval_queries=3)
    dealt = make_split(collection, sizes, 1)
    dealt.save(made.workspace.folder("split", "split0") / "split")
    made.artefact("split", "split0", {"roles": roles})
    shared = {"collection": "toy0", "split": "split0"}
    scores: dict[str, Scores] = {}

    def add(name: str, seed: int, shift: float, **steps: str) -> None:
        scores[name] = drawn_scores(seed, shift)
        made.methods[name] = {**shared, **steps}
        made.scores(name, scores[name], f"scores{len(scores)}")

    add("bm25", 1, 0.0)
    for place, retriever in enumerate(retrievers or ("",)):
        for number, method in enumerate(("zero_shot", "inpars", "sptar")):
            name = f"{method}/{retriever}" if retriever else method
            steps = {} if method == "zero_shot" else _weak_steps(made, method)
            if steps:
                steps["train"] = _training(made, f"train-{method}-{retriever}", retriever or "dpr")
            add(name, 10 * place + number, 0.05 * number, **steps)
    target = made.workspace.folder("compare", "family0")
    target.mkdir(parents=True)
    compare_systems(scores, bootstrap_samples=100).save(target / "comparison.json")
    made.finish("compare", "family0")
    made.save(left_out={"zero_shot/bm25ce": "bm25ce gives no sensible ranking"})
    return made


def _weak_steps(made: MadeRun, method: str) -> dict[str, str]:
    decisions = [
        Decision(f"{method}-{number}", str(number), "a weak query", kept, reason, 1, 1.0)
        for number, (kept, reason) in enumerate([(True, "kept"), (False, "empty")])
    ]
    overlap = {"exact": 0, "near": 1}
    steps = {
        "augment": made.artefact("augment", f"aug-{method}", {"documents_cut": 1, "documents": 2}),
        "filter": made.artefact(
            "filter", f"f-{method}", files={"decisions.jsonl": map(decision_to_row, decisions)}
        ),
        "pairs": made.artefact(
            "pairs",
            f"pairs-{method}",
            {
                "weak": 1,
                "weak_available": 2,
                "labels": 4,
                "overlap_with_test": {"weak": overlap, "label": overlap},
            },
        ),
    }
    if method == "sptar":
        history = [{"epoch": 1, "training_loss": 2.0, "evaluation_loss": 2.5}]
        steps["tune"] = made.artefact(
            "tune",
            "tune0",
            {"evaluation_loss_before": 3.0, "best_epoch": 1},
            files={"history.json": history},
        )
    return steps


def _training(made: MadeRun, identity: str, retriever: str) -> str:
    return made.artefact(
        "train",
        identity,
        {
            "start_dev_score": 0.1,
            "best_dev_score": 0.3,
            "best_epoch": 1,
            "epochs": 1,
            "steps": 1234,
            "parameters": 66_000_000,
            "peak_memory_bytes": 2**30,
        },
        {"train": {"retriever": retriever}},
        {"history.json": [{"epoch": 1, "dev_score": 0.3}]},
    )
