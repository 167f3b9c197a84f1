"""The starter models on five real collections: labels only, InPars and SPTAR, several seeds.

    python benchmarks/starter_collections.py --minilm FOLDER --work WORK

Needs ../shared/data. Every method writes with `starter:language-model` (another one with
`--language-model`), and its retriever begins at `starter:encoder`, which has never been trained to
search, or at all-MiniLM-L6-v2 (FOLDER), which has: a table for each. InPars and SPTAR train on
equally many weak pairs (with `--all-pairs` on all that each one's filter kept) and choose from
equally many documents. Figures are means over the seeds; tests are paired over queries and
corrected by Holm over each collection's family. What is in WORK already is reused, so `--methods
bm25 no_augmentation` can be run ahead of the rest.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from machine import describe_machine
from retrievers import over_seeds

SHARED = Path(__file__).resolve().parents[2] / "shared"
METHODS = ("bm25", "zero_shot", "no_augmentation", "inpars", "sptar")
COLLECTIONS: dict[str, dict[str, Any]] = {
    "mlquestions": {"train_from": "dev", "eval_from": "dev"},
    "scifact": {"train_from": "train", "eval_from": "train"},
    # All labels lie in one file and every document has some: the queries of half of the threads
    # play no role, and their documents get the weak queries. The test must not move with the seed.
    "stackfaq": {
        "carve_from": "test",
        "carve_test_queries": 500,
        "group_pattern": "^(.+)_",
        "augment_from": "not_evaluated",
        "seed": 42,
    },
    "cosqa": {"train_from": "dev", "eval_from": "dev"},
    "msmarco_mini": {"train_queries": 49, "train_from": "train", "eval_from": "dev"},
}
RECIPES: dict[str, dict[str, Any]] = {
    "starter": {"epochs": 2, "learning_rate": 2e-4},
    "minilm": {"epochs": 1},
}


def settings(
    collection: str,
    start: str,
    seed: int,
    *,
    methods: list[str],
    language_model: str,
    encoder: str,
    documents: int,
    temperature: float,
    equal_pairs: bool,
) -> dict[str, Any]:
    """One experiment's config."""
    split = {"train_queries": 50, "eval_queries": 50, "test_from": "test"}
    values: dict[str, Any] = {
        "name": f"{collection}_{start}_{seed}",
        "seed": seed,
        "methods": methods,
        "equal_pairs": equal_pairs,
        "data": {"source": str(SHARED / "data" / collection)},
        "split": {**split, **COLLECTIONS[collection], "max_documents": documents},
        "train": {
            "start": encoder,
            "max_tokens": 64,
            "dtype": "bfloat16",
            "encode_dtype": "bfloat16",
            "dev_negatives": 5,
            **RECIPES[start],
        },
        "llm": {"name": language_model, "device": "cpu", "dtype": "bfloat16"},
        "prompt": {"examples": 1, "max_document_tokens": 160, "max_query_tokens": 40},
        # Learning rate and temperature as in configs/starter.yaml, where dev chose them.
        "tune": {
            "virtual_tokens": 50,
            "learning_rate": 0.01,
            # There a query has about four documents: as many steps in a quarter of the epochs.
            "epochs": 2 if collection == "stackfaq" else 8,
            "patience": 2,
        },
        "select": {"groups": 12},
        "augment": {"temperature": temperature, "max_new_tokens": 32},
        "filter": {"k": 30},
    }
    return values


def main() -> None:
    """Run everything, print tables, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--language-model", default="starter:language-model")
    parser.add_argument("--encoder", default="starter:encoder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--collections", nargs="+", choices=COLLECTIONS, default=list(COLLECTIONS))
    parser.add_argument("--starts", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--documents", type=int, default=2000, help="to augment, at most")
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--all-pairs", action="store_true", help="not as many for each method")
    parser.add_argument("--out", type=Path, help="folder for the joined tables and the figures")
    options = parser.parse_args()

    from sptar.cli.output import TerminalProgress
    from sptar.config import parse_config
    from sptar.pipeline import run
    from sptar.report.collect import write_report
    from sptar.steps.base import Context
    from sptar.workspace import Workspace

    encoders = {"starter": options.encoder, "minilm": str(options.minilm)}
    workspace = Workspace(options.work)
    names: dict[str, list[str]] = {start: [] for start in options.starts}
    kept: dict[str, Any] = {}
    for seed in options.seeds:
        for collection in options.collections:
            for start in options.starts:
                values = settings(
                    collection,
                    start,
                    seed,
                    methods=options.methods,
                    language_model=options.language_model,
                    encoder=encoders[start],
                    documents=options.documents,
                    temperature=options.temperature,
                    equal_pairs=not options.all_pairs,
                )
                graph, record = run(parse_config(values), Context(workspace, TerminalProgress()))
                write_report(workspace, record)
                names[start].append(record.name)
                kept[record.name] = {
                    method.name: {
                        step.name: artefact.manifest.summary
                        for step in (method.tune, method.select, method.weak, method.filter)
                        if step is not None
                        and (artefact := workspace.find(step.name, step.fingerprint)) is not None
                    }
                    for method in graph.methods
                }
                print(f"{record.name} is finished", flush=True)
    if options.out is None:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    joined = {
        start: over_seeds(names[start], options.work, options.out / f"{start}.json")
        for start in options.starts
    }
    (options.out / "starter_collections.json").write_text(
        json.dumps(
            {"machine": describe_machine(), "joined": joined, "steps": kept},
            indent=1,
            ensure_ascii=False,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
