"""What training costs: seconds and peak memory of every row of the table of retrievers.

    python benchmarks/retriever_costs.py --work WORK --collection msmarco_mini --out costs.json

Rows, recipes and settings are those of retrievers.py, and WORK is its work folder: pairs, mined
negatives and teachers come from there, and are made there where they are missing. Every row is
trained on the same pairs for the same number of epochs, by the function that the step `train`
calls, in a process of its own that holds the training data and nothing else of the run. The
trained models are thrown away.

Seconds go from the first step (the model is loaded and its start has been scored on dev) to the
last checkpoint. Peak memory is that of the process: libraries, weights, gradients, moments of the
optimiser, activations.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from full_runs import GENERATOR, first_layers
from machine import describe_machine
from retrievers import EPOCHS, RETRIEVERS, experiment

EPOCH = "Training, epoch "
JOB = "job"
MEASURED = "measured.json"


def peak_bytes() -> int:
    """Largest resident size of this process so far.

    Linux counts the process that started this one into ``ru_maxrss``, not into ``VmHWM``.
    """
    told = _status("VmHWM")
    if told is not None:
        return told
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int | None:
    """Resident size of this process now, where the system tells it."""
    return _status("VmRSS")


def _status(field_name: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field_name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


@dataclass
class Clock:
    """Told about a training's progress, it keeps the times and the memory at the turning points."""

    began: float = field(default_factory=time.perf_counter)
    first_step: float | None = None
    resident_before: int | None = None
    peak_before: int | None = None
    last_checkpoint: float = 0.0
    stepping: float = 0.0
    _epoch_began: float | None = None

    def start(self, description: str, total: int | None, unit: str = "") -> None:
        """The batches of an epoch begin, or something else of no interest."""
        if not description.startswith(EPOCH):
            return
        if self.first_step is None:
            self.resident_before, self.peak_before = resident_bytes(), peak_bytes()
            self.first_step = time.perf_counter()
        self._epoch_began = time.perf_counter()

    def advance(self, amount: int = 1) -> None:
        """A step is done."""

    def finish(self) -> None:
        """The batches of an epoch are through; dev evaluation and checkpoint follow."""
        if self._epoch_began is not None:
            self.stepping += time.perf_counter() - self._epoch_began
            self._epoch_began = None

    def message(self, text: str) -> None:
        """The loop speaks when an epoch's checkpoint is written."""
        if text.startswith("Epoch "):
            self.last_checkpoint = time.perf_counter()


def measure(folder: Path, threads: int) -> dict[str, Any]:
    """Train the job that lies in a folder, in this process, and say what it took."""
    import torch

    torch.set_num_threads(threads)
    from sptar.steps.train_job import TrainingJob
    from sptar.steps.train_worker import train

    job = TrainingJob.read(folder / JOB)
    clock = Clock()
    result = train(job, folder / "processes", clock)
    peak = peak_bytes()
    assert clock.first_step is not None
    seconds = clock.last_checkpoint - clock.first_step
    trained = _pairs_trained(job, len(result.history))
    return {
        "seconds": round(seconds, 3),
        "seconds_of_steps": round(clock.stepping, 3),
        # The rest is dev evaluation, the checkpoints, and drawing the batches of later epochs.
        "seconds_beside_steps": round(seconds - clock.stepping, 3),
        "seconds_before": round(clock.first_step - clock.began, 3),
        "peak_bytes": peak,
        "peak_bytes_before": clock.peak_before,
        "resident_bytes_before": clock.resident_before,
        "device_peak_bytes": result.peak_memory_bytes if torch.cuda.is_available() else None,
        "parameters": result.parameters,
        "epochs": len(result.history),
        "steps": result.steps,
        "pairs": result.pairs,
        "pairs_trained": trained,
        "pairs_per_second": round(trained / clock.stepping, 2),
        "batch_size": job.recipe.batch_size,
        "max_tokens": job.recipe.max_tokens,
        "negatives_per_pair": len(job.data.negatives[0]) if job.data.negatives else 0,
        "dev_queries": len(job.dev.queries),
        "dev_documents": len(job.dev.documents),
        "threads": torch.get_num_threads(),
    }


def _pairs_trained(job: Any, epochs: int) -> int:
    """Pairs in the batches of all epochs, passes that were joined counted each time.

    The batches are named by the seed alone, so they can be made again after the measurement.
    """
    from sptar.training.batches import TrainingBatches
    from sptar.training.students import load_trainable
    from sptar.training.texts import TrainingTexts

    batches = TrainingBatches(
        TrainingTexts.of(job.data.pairs, job.data.negatives),
        job.data.teacher_scores,
        job.recipe,
        job.seed,
        load_trainable(job.recipe, job.dev),
    )
    return sum(len(batch) for epoch in range(epochs) for batch in batches.of_epoch(epoch + 1)[0])


@dataclass(frozen=True)
class Row:
    """A training that is to be measured, or why it is none."""

    title: str
    step: Any = None
    note: str | None = None


def rows_of(graph: Any, retrievers: list[str], method: str) -> Iterator[Row]:
    """The trainings behind the rows of the table, those of their teachers where they are extra."""
    from sptar.retrieval.specs import RETRIEVERS as TABLE
    from sptar.steps.train import TrainStep

    graphed = {item.retriever: item for item in graph.methods if item.method == method}
    measured: dict[str, str] = {}
    students = []
    for name in retrievers:
        parts = [part for part in name.split("+") if part != "bm25"]
        models = [TABLE[part].reranks or part for part in parts]
        if models != [name]:
            whose = " and ".join(models)
            yield Row(name, note=f"trains nothing of its own: it uses {whose} as trained")
            continue
        step = graphed[name].train
        if not isinstance(step, TrainStep):
            raise SystemExit(f"{name}: one cut-off k is needed, not a choice among several.")
        measured[step.fingerprint] = name
        students.append((name, step))
        yield Row(name, step)
    for name, step in students:
        if step.taught is None:
            continue
        teachers = {"cross-encoder": step.taught.cross, "late-interaction": step.taught.late}
        for kind, teacher in teachers.items():
            if teacher is None:
                continue
            title = f"{name}'s {kind} teacher"
            if teacher.fingerprint in measured:
                yield Row(title, note=f"is the row {measured[teacher.fingerprint]}")
            else:
                title += f" ({teacher.recipe.retriever})"
                measured[teacher.fingerprint] = title
                yield Row(title, teacher)


def write_job(step: Any, context: Any, epochs: int, limit: int | None, folder: Path) -> dict:
    """Write what a training needs to a folder; what is missing in the work folder is made there.

    Returns:
        what its inputs took when they were made, by step: seconds of that machine and that day.
    """
    from sptar.steps.base import make
    from sptar.steps.train_job import TrainingJob

    for below in step.upstream():
        if below is not step:
            make(below, context)
    inputs = {name: below.artefact(context.workspace) for name, below in step.inputs.items()}
    data = step.data(inputs, context)
    if limit is not None:
        scores = data.teacher_scores
        # The in-batch teacher is asked by position, and these stay what they are.
        data = replace(
            data,
            pairs=data.pairs[:limit],
            negatives=data.negatives[:limit],
            teacher_scores=None if scores is None else scores[:limit],
        )
    TrainingJob(
        data,
        step.dev_set(inputs, context),
        step.recipe.model_copy(update={"epochs": epochs, "patience": epochs}),
        step.seed,
        step.measure,
        step.relevance_level,
        folder / "model",
        folder / "checkpoints",
    ).write(folder / JOB)
    kept = ("mine", "teach")
    return {name: inputs[name].manifest.seconds for name in kept if name in inputs}


def in_own_process(folder: Path, threads: int) -> dict[str, Any]:
    """Measure the job of a folder in a fresh process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, "--child", str(folder), "--threads", str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return {"failed": f"exit code {done.returncode}: {last[0]}"}
    found: dict[str, Any] = json.loads((folder / MEASURED).read_text())
    return found


COLUMNS = {
    "trained parameters": lambda row: f"{row['parameters']:,}",
    "steps": lambda row: f"{row['steps']:,}",
    "seconds": lambda row: f"{row['seconds']:,.1f}",
    "of these beside the steps": lambda row: f"{row['seconds_beside_steps']:,.1f}",
    "pairs/s": lambda row: f"{row['pairs_per_second']:,.1f}",
    "MB before": lambda row: _megabytes(row["resident_bytes_before"]),
    "peak MB": lambda row: _megabytes(row["peak_bytes"]),
    "peak MB of the GPU": lambda row: _megabytes(row["device_peak_bytes"]),
}


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:,.0f}"


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The table, and below it the rows that have no numbers."""
    numbered = {name: row for name, row in rows.items() if "seconds" in row}
    columns = dict(COLUMNS)
    if all(row["device_peak_bytes"] is None for row in numbered.values()):
        del columns["peak MB of the GPU"]
    lines = [f"| retriever | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for name, row in numbered.items():
        lines.append(f"| {name} | {' | '.join(show(row) for show in columns.values())} |")
    for name, row in rows.items():
        if name not in numbered:
            lines.append(f"\n{name}: {row.get('note') or row.get('failed')}.")
    return "\n".join(lines)


def main() -> None:
    """Measure every row, print the table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="work folder of retrievers.py")
    parser.add_argument("--untrained", type=Path, help="where the start is kept")
    parser.add_argument("--collection", default="msmarco_mini")
    parser.add_argument("--retrievers", nargs="+", default=RETRIEVERS)
    parser.add_argument("--pairs", help="method whose pairs are trained on; by default the last")
    parser.add_argument("--limit-pairs", type=int, help="only the first so many")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of every row")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        measured = measure(options.child, options.threads)
        (options.child / MEASURED).write_text(json.dumps(measured))
        return
    if options.work is None:
        parser.error("--work is needed")

    from sptar.cli.output import TerminalProgress
    from sptar.config import parse_config
    from sptar.graph.methods import build_graph
    from sptar.steps.base import Context
    from sptar.workspace import Workspace

    start = first_layers(GENERATOR, options.untrained or options.work / "untrained")
    values = experiment(options.collection, start, options.retrievers, options.seed)
    method = options.pairs or values["methods"][-1]
    values["methods"] = [method]
    workspace = Workspace(options.work)
    graph = build_graph(parse_config(values), workspace)
    kept: dict[str, Any] = {
        "machine": describe_machine(threads=options.threads),
        "collection": options.collection,
        "pairs_of": method,
        "limit_pairs": options.limit_pairs,
        "seed": options.seed,
        "rows": {},
    }
    for row in rows_of(graph, options.retrievers, method):
        if row.step is None:
            kept["rows"][row.title] = {"note": row.note}
            continue
        with tempfile.TemporaryDirectory() as name:
            # One context for each row: what it has read is gone before the row is measured.
            inputs = write_job(
                row.step,
                Context(workspace, TerminalProgress()),
                options.epochs,
                options.limit_pairs,
                Path(name),
            )
            found = in_own_process(Path(name), options.threads)
        found["epochs_of_its_recipe"] = row.step.recipe.epochs
        if inputs:
            found["seconds_of_inputs_when_made"] = inputs
        kept["rows"][row.title] = found
        print(f"{row.title}: {found.get('seconds', found.get('failed'))}", file=sys.stderr)
        if options.out is not None:
            options.out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    if options.out is not None:
        options.out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(markdown(kept["rows"]))


if __name__ == "__main__":
    main()
