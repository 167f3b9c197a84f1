"""Every row of the table of retrievers, with and without weak queries, on real collections.

    python benchmarks/retrievers.py --work WORK [--collections msmarco_mini scifact mlquestions]
    python benchmarks/retrievers.py --work WORK --seeds 42 43 44 --out FILE.json

Needs ../shared/data and ../shared/models. All rows begin at the same encoder, never trained for
retrieval: the language model's token table and its first two layers, attending both ways (see
full_runs.py). ReContriever is not among them: from the same start it is Contriever. The weak
queries of msmarco_mini are the published ones of LLaMA-7B (X = 500), those of the other collections
our own language model's. Artefacts that are in WORK already are reused.

With several seeds everything but the data is made anew for each, and the runs are joined as
`sptar compare --runs` does it: means over the seeds query by query, tests over queries. The joined
page lies beside FILE.json, in a folder of its name.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from full_runs import COLLECTIONS, GENERATOR, IMPORTED, SHARED, first_layers, settings
from machine import describe_machine

RETRIEVERS = [
    "dpr",
    "colbert",
    "tas_b",
    "contriever",
    "dragon",
    "splade",
    "static",
    "lora",
    "bm25ce",
    "bm25dpr",
    "bm25+dpr",
]
EPOCHS = 2
RECIPES: dict[str, dict[str, Any]] = {
    # A token table alone learns at another rate and in seconds.
    "static": {"learning_rate": 1e-2, "epochs": 5},
    # This start was never shown a [CLS]: its first vector says nothing at first.
    "tas_b": {"pooling": "mean"},
    "dragon": {"pooling": "mean"},
    # Logits over 30,000 words for each token: half the tokens to keep its time in bounds.
    "splade": {"max_tokens": 32},
    "lora": {"learning_rate": 1e-3, "pooling": "mean"},
}


def experiment(collection: str, start: Path, retrievers: list[str], seed: int) -> dict[str, Any]:
    """The config of one collection's table."""
    imported = collection == "msmarco_mini"
    values = settings(collection, "untrained", start, imported=imported)
    values["name"] = f"retrievers_{collection}_{seed}"
    values["seed"] = seed
    values["methods"] = ["bm25", "zero_shot", "no_augmentation", "llama7b"]
    if not imported:
        # One encoding of the corpus less for each row.
        values["methods"] = ["bm25", "no_augmentation", "sptar"]
    values["retrievers"] = retrievers
    values["recipes"] = {name: RECIPES[name] for name in RECIPES if name in retrievers}
    values["train"] = {
        "start": str(start),
        "max_tokens": 64,
        "epochs": EPOCHS,
        "learning_rate": 2e-4,
        "dev_negatives": 5,
        "dtype": "bfloat16",
    }
    values["search"] = {"rerank_depth": 20}
    values["evaluate"] = {"top_k": 100, "measures": ["nDCG@10", "RR@10", "R@100"]}
    return values


def main() -> None:
    """Run, print the tables, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--untrained", type=Path, help="where the start is kept")
    parser.add_argument("--collections", nargs="+", default=list(COLLECTIONS))
    parser.add_argument("--retrievers", nargs="+", default=RETRIEVERS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()

    from sptar.workspace import Workspace

    assert SHARED.is_dir(), f"{SHARED} is not there"
    assert IMPORTED.is_file()
    start = first_layers(GENERATOR, options.untrained or options.work / "untrained")
    workspace = Workspace(options.work)
    seeds = list(dict.fromkeys(options.seeds))
    kept: dict[str, Any] = {"machine": describe_machine(), "collections": {}}
    names = []
    for collection in options.collections:
        for seed in seeds:
            values = experiment(collection, start, options.retrievers, seed)
            names.append(values["name"])
            key = collection if len(seeds) == 1 else values["name"]
            kept["collections"][key] = one_run(values, workspace)
    if len(seeds) > 1:
        kept["over_seeds"] = over_seeds(names, options.work, options.out)
    if options.out is not None:
        options.out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def one_run(values: dict[str, Any], workspace: Any) -> dict[str, Any]:
    """Run a config to its end, print its table and return its figures."""
    from sptar.cli.output import TerminalProgress
    from sptar.config import parse_config
    from sptar.pipeline import run
    from sptar.report.collect import write_report
    from sptar.steps.base import Context

    graph, record = run(parse_config(values), Context(workspace, TerminalProgress()))
    written = write_report(workspace, record)
    print(f"\n{record.name}\n| {' | '.join(written.table.columns)} |")
    for row in written.table.rows:
        print(f"| {' | '.join(row)} |")
    for sentence in written.verdict:
        print(f"- {sentence}")
    costs = {}
    for method in graph.methods:
        if method.train is None:
            continue
        trained = workspace.find(method.train.name, method.train.fingerprint)
        assert trained is not None
        costs[method.name] = {**trained.manifest.summary, "seconds": trained.manifest.seconds}
    found = {**written.to_json(), "training": costs}
    found.pop("report")
    return found


def over_seeds(names: list[str], work: Path, out: Path | None) -> dict[str, Any]:
    """Join finished runs, print their tables and return their figures, the tests included."""
    from sptar.cli.output import print_table
    from sptar.evaluation.across import join_runs
    from sptar.evaluation.verdict import family_verdict
    from sptar.report.joint import joint_json, printed_tables, write_joint
    from sptar.report.runs import RunPlace, read_run

    # Without a target each collection has its own: the published queries' method, or sptar.
    joint = join_runs([read_run(RunPlace(work, name, name)) for name in names])
    for title, table in printed_tables(joint).items():
        print_table(title, table.columns, table.rows)
    for item in joint.collections:
        for sentence in (*item.notes, *family_verdict(item.family)):
            print(f"- {item.title}: {sentence}")
    if out is not None:
        print(write_joint(joint, out.with_suffix("")))
    return joint_json(joint)


if __name__ == "__main__":
    main()
