"""How time and memory grow with the corpus: augment, filter, encode, search.

    python benchmarks/growth.py --sizes 1000 10000 100000 --out growth.json --plot growth.svg

Synthetic documents, a tiny language model and a tiny encoder with random weights: the question is
what grows with the corpus and how, not how fast a model is. Every stage of every size runs in a
process of its own, through the pipeline's own steps, so that its peak memory is its own. What 8.8
million documents would need is computed from it: time by the slope between the two largest sizes
(at least 1), memory in a straight line through both. ``--augment-rate`` and ``--encode-rate`` say
how fast a real model of yours is, for its own column.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

TARGET = 8_841_823
"""Passages of MS MARCO."""
STAGES = {
    "index": ("inpars", ("bm25_index",), ("collection", "bm25_index")),
    "augment": ("inpars", ("augment",), ("augment",)),
    "filter": ("inpars", ("filter",), ("rank", "filter")),
    "encode": ("zero_shot", ("encode",), ("encode",)),
    "search": ("zero_shot", ("search",), ("search",)),
}
"""Stage → method of the run, steps up to which it goes, steps whose time counts."""
DIMENSION = 64
TEST_QUERIES = 1000
LABELLED = 40


def write_collection(folder: Path, documents: int, seed: int) -> None:
    """A BEIR folder of random words; a word's frequency falls with its rank."""
    from random_model import random_words

    draw = random.Random(seed)
    words = random_words(20_000, seed=1)
    weights = np.cumsum([1 / (rank + 3) for rank in range(len(words))]).tolist()

    def text(count: int) -> str:
        return " ".join(draw.choices(words, cum_weights=weights, k=count))

    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w") as stream:
        for number in range(documents):
            row = {"_id": f"d{number}", "title": "", "text": text(draw.randint(40, 120))}
            stream.write(json.dumps(row) + "\n")
    queries = min(LABELLED + TEST_QUERIES, documents // 2)
    with (folder / "queries.jsonl").open("w") as stream:
        for number in range(queries):
            stream.write(json.dumps({"_id": f"q{number}", "text": text(5)}) + "\n")
    for split, numbers in (("train", range(LABELLED)), ("test", range(LABELLED, queries))):
        rows = [f"q{number}\td{number}\t1" for number in numbers]
        lines = "\n".join(["query-id\tcorpus-id\tscore", *rows])
        (folder / "qrels" / f"{split}.tsv").write_text(lines + "\n")


def settings(folder: Path, method: str) -> dict[str, Any]:
    """The config of a run."""
    return {
        "name": method,
        "methods": [method],
        "data": {"source": str(folder / "data")},
        "split": {"train_queries": 20, "eval_queries": 20},
        "llm": {"name": str(folder / "model"), "device": "cpu"},
        "prompt": {"max_document_tokens": 32, "max_query_tokens": 32},
        "augment": {"max_new_tokens": 8, "batch_size": 64, "block_size": 2048},
        "train": {"start": str(folder / "encoder"), "max_tokens": 64, "device": "cpu"},
    }


def run_stage(stage: str, folder: Path) -> None:
    """Make a stage's artefacts in this process; its figures go to standard output."""
    from encode_and_search import peak_bytes

    from sptar.config import parse_config
    from sptar.pipeline import run
    from sptar.progress import SilentProgress
    from sptar.steps.base import Context
    from sptar.workspace import Workspace

    method, until, counted = STAGES[stage]
    workspace = Workspace(folder / "work")
    context = Context(workspace, SilentProgress())
    _, record = run(parse_config(settings(folder, method)), context, until=until)
    made = [step for step in record.steps if step.name in counted]
    disk = sum(
        file.stat().st_size
        for step in made
        for file in workspace.folder(step.name, step.fingerprint).rglob("*")
        if file.is_file()
    )
    seconds = sum(step.seconds for step in made)
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes(), "disk_bytes": disk}))


def measure(size: int, folder: Path, seed: int, threads: int) -> dict[str, dict[str, float]]:
    """Seconds, peak memory and disk of every stage at one size."""
    write_collection(folder / "data", size, seed)
    variables = {f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL")}
    environment = {**os.environ, **dict.fromkeys(variables, str(threads)), "HF_HUB_OFFLINE": "1"}
    found = {}
    for stage in STAGES:
        command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        found[stage] = json.loads(done.stdout.splitlines()[-1])
        print(f"{size:>9,} {stage:8}", found[stage], flush=True)
    return found


def slope(sizes: list[int], values: list[float]) -> float:
    """Exponent of the power law that fits best: least squares on logarithms."""
    if len(sizes) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-3)), 1)[0])


def at_target(sizes: list[int], values: list[float], *, linear: bool) -> float:
    """The value at ``TARGET`` documents, from the two largest sizes."""
    if linear:
        gain = (values[-1] - values[-2]) / (sizes[-1] - sizes[-2])
        return values[-1] + max(0.0, gain) * (TARGET - sizes[-1])
    exponent = max(1.0, slope(sizes[-2:], values[-2:]))
    return float(values[-1] * (TARGET / sizes[-1]) ** exponent)


def summarise(
    sizes: list[int], seen: dict[int, dict[str, dict[str, float]]], rates: dict[str, float | None]
) -> list[dict[str, Any]]:
    """A row for each stage: what was seen, how it grows, what the target would need."""
    rows = []
    for stage in STAGES:
        columns = {
            name: [seen[size][stage][name] for size in sizes]
            for name in ("seconds", "peak_bytes", "disk_bytes")
        }
        row: dict[str, Any] = {"stage": stage, **columns}
        row["slope"] = slope(sizes, columns["seconds"])
        if len(sizes) > 1:
            row["slope_of_the_two_largest"] = slope(sizes[-2:], columns["seconds"][-2:])
            row["target"] = {
                "seconds": at_target(sizes, columns["seconds"], linear=False),
                "peak_bytes": at_target(sizes, columns["peak_bytes"], linear=True),
                "disk_bytes": at_target(sizes, columns["disk_bytes"], linear=True),
            }
            rate = rates.get(stage)
            if rate:
                row["target"]["seconds_with_the_real_model"] = TARGET / rate
        rows.append(row)
    return rows


def draw(sizes: list[int], rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory against size, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "sptar"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for row in rows:
        label = f"{row['stage']}, slope {row['slope']:.2f}"
        left.loglog(sizes, np.maximum(row["seconds"], 1e-3), marker="o", label=label)
        mib = [value / 2**20 for value in row["peak_bytes"]]
        right.loglog(sizes, mib, marker="o", label=row["stage"])
    left.set(xlabel="documents", ylabel="seconds", title="Time")
    right.set(xlabel="documents", ylabel="MiB", title="Peak memory of the process")
    for axes in (left, right):
        axes.grid(which="both", alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Measure all sizes, write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--augment-rate", type=float, help="weak queries/s of a real model")
    parser.add_argument("--encode-rate", type=float, help="documents/s of a real encoder")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--plot", type=Path, default=None, help="an SVG file")
    parser.add_argument("--folder", type=Path, default=None, help="where all is kept meanwhile")
    parser.add_argument("--stage", choices=tuple(STAGES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage is not None:
        run_stage(options.stage, options.folder)
        return
    from encode_and_search import random_encoder, texts_of_mixed_lengths
    from machine import describe_machine
    from memory_at_scale import write_model

    from sptar.io import write_json

    sizes = sorted(options.sizes)
    seen = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        texts = texts_of_mixed_lengths(200, options.seed)
        for size in sizes:
            folder = Path(name) / str(size)
            folder.mkdir()
            write_model(folder / "model")
            random_encoder(folder / "encoder", texts, width=DIMENSION, layers=2, vocabulary=2000)
            seen[size] = measure(size, folder, options.seed, options.threads)
    rates = {"augment": options.augment_rate, "encode": options.encode_rate}
    rows = summarise(sizes, seen, rates)
    result = {
        "benchmark": "growth",
        "machine": describe_machine(),
        "threads": options.threads,
        "sizes": sizes,
        "target": TARGET,
        "dimension": DIMENSION,
        "search_queries": TEST_QUERIES,
        "rates_of_a_real_model": rates,
        "rows": rows,
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        write_json(options.out, result)
    if options.plot is not None:
        draw(sizes, rows, options.plot)


if __name__ == "__main__":
    main()
