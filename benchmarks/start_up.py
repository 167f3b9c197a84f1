"""How long until something is seen: the help, the status, the first line after a model is loaded.

    python benchmarks/start_up.py --out start_up.json

The status is that of a work folder with one finished run (BM25 on the toy collection). The lines
come from ``sptar run`` with a language model and an encoder of random weights, or with models of
yours: from the moment a model is loaded to the next line of the run on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

LIMITS = {"help": 0.3, "status": 0.3, "language_model": 3.0, "encoder": 3.0}
"""Seconds that are allowed."""
MARK = "@loaded"
LOADERS = {
    "language_model": ("sptar.llm.loading", "load_language_model", "inpars"),
    "encoder": ("sptar.retrieval.families", "load_corpus_encoder", "zero_shot"),
}
"""What is loaded → the function that loads it, and a method that needs it."""
WATCHED = """
import importlib, sys
from sptar.cli.app import run_application

module, name, mark = sys.argv[1:4]
home = importlib.import_module(module)
load = getattr(home, name)

def watched(*arguments, **settings):
    found = load(*arguments, **settings)
    print(mark, file=sys.stderr, flush=True)
    return found

setattr(home, name, watched)
sys.exit(run_application(sys.argv[4:]))
"""


def sptar(*arguments: str) -> list[str]:
    """The command line of this environment."""
    script = Path(sys.executable).parent / "sptar"
    own = [str(script)] if script.exists() else [sys.executable, "-m", "sptar"]
    return [*own, *arguments]


def seconds_of(command: Sequence[str]) -> float:
    """Wall-clock time of a command that succeeds."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def first_line_after(what: str, config: Path, work: Path) -> tuple[float, str]:
    """Seconds from a loaded model to the next line, and the line; the run is stopped there."""
    module, name, _ = LOADERS[what]
    command = [sys.executable, "-c", WATCHED, module, name, MARK]
    command += ["run", str(config), "--work", str(work)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = []
        loaded = None
        try:
            for line in process.stderr:
                if loaded is not None:
                    return time.perf_counter() - loaded, line.strip()
                lines.append(line)
                if line.strip() == MARK:
                    loaded = time.perf_counter()
        finally:
            process.kill()
    raise SystemExit("".join(lines) + "\nno line came after the model was loaded")


def write_configs(folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """A config for each method, with models of random weights unless others are given."""
    from encode_and_search import random_encoder, texts_of_mixed_lengths
    from memory_at_scale import write_model

    from sptar.starter.collection import copy_toy_collection

    copy_toy_collection(folder / "data")
    if options.model is None:
        write_model(folder / "model")
    if options.encoder is None:
        texts = texts_of_mixed_lengths(100, 0)
        random_encoder(folder / "encoder", texts, width=64, layers=2, vocabulary=2000)
    settings: dict[str, Any] = {
        "data": {"source": str(folder / "data")},
        "split": {"train_queries": 10, "eval_queries": 10, "eval_from": "dev"},
        "llm": {"name": options.model or str(folder / "model")},
        "prompt": {"max_document_tokens": 64, "max_query_tokens": 32},
        "augment": {"max_new_tokens": 16},
        "train": {"start": options.encoder or str(folder / "encoder")},
    }
    found = {}
    for method in ("bm25", *(method for *_, method in LOADERS.values())):
        found[method] = folder / f"{method}.yaml"
        found[method].write_text(yaml.safe_dump({"name": method, "methods": [method], **settings}))
    return found


def main() -> None:
    """Measure in turns and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--model", default=None, help="a language model; default: random")
    parser.add_argument("--encoder", default=None, help="an encoder; default: random")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)
    from machine import as_record, describe_machine, spread

    from sptar.io import write_json

    seen: dict[str, list[float]] = {name: [] for name in LIMITS}
    lines: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configs = write_configs(folder, options)
        work = str(folder / "work")
        seconds_of(sptar("run", str(configs["bm25"]), "--work", work))
        for number in range(options.rounds):
            seen["help"].append(seconds_of(sptar("--help")))
            seen["status"].append(seconds_of(sptar("status", "--work", work)))
            # A few of these are enough: each loads torch and a model first.
            if number >= max(3, options.rounds // 3):
                continue
            for what, (*_, method) in LOADERS.items():
                empty = folder / f"work-{what}-{number}"
                seconds, lines[what] = first_line_after(what, configs[method], empty)
                seen[what].append(seconds)
    result = {
        "benchmark": "start-up",
        "machine": describe_machine(),
        "models": {"language_model": options.model or "random", "encoder": options.encoder},
        "rows": [
            {
                "what": name,
                "line": lines.get(name),
                "seconds": as_record(spread(values)),
                "limit_seconds": LIMITS[name],
                "within": spread(values).median <= LIMITS[name],
            }
            for name, values in seen.items()
        ],
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
