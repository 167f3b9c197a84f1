"""Documents each second of the augmentation engine, beside the published algorithm.

    python benchmarks/augmentation.py --rounds 4 --documents 64 \
        --out benchmarks/results/augmentation.json
    python benchmarks/augmentation.py --model-shape 7B --device cuda --dtype bfloat16

All variants run in one process, one after the other in each round, so that what else the machine
does hits all of them. The published algorithm (one document at a time, the whole prompt, 128 new
tokens whatever they are) is so slow that each round gives it ``--slow-documents`` of the documents,
other ones each time; all documents go through it once with stopping, which gives the texts that
everything else is compared with.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import MatmulPeak, describe_machine, matmul_peak, seconds, spread
from random_model import (
    MAX_NEW_TOKENS,
    SHAPES,
    Workload,
    floor_tokens,
    set_stop_bias,
    tune_stop_bias,
    with_documents,
    workload,
)

import sptar.llm.engine.prefix
from sptar.tensors.products import PackedLayers
from sptar.types import Document

Texts = dict[str, str]
"""Document id → query."""


# The published algorithm and the library's own batching --------------------------------------


def library_generate(load: Workload, first: int, count: int, *, stop: bool) -> Texts:
    """``generate`` of transformers on whole prompts of some documents, padded on the left."""
    model, template = load.model, load.template
    documents = load.documents[first : first + count]
    prefix = template.prefix_ids([load.example])
    ids = [prefix + template.document_ids(document).ids for document in documents]
    longest = max(map(len, ids))
    soft = load.soft_prompt.embeddings(model)
    rows, masks = [], []
    for row in ids:
        padding = torch.zeros(longest - len(row), model.hidden_size, dtype=model.dtype)
        embedded = model.embed(torch.tensor(row))
        rows.append(torch.cat([padding.to(model.device), soft, embedded]))
        masks.append([0] * (longest - len(row)) + [1] * (len(soft) + len(row)))
    new = model.model.generate(
        inputs_embeds=torch.stack(rows),
        attention_mask=torch.tensor(masks, device=model.device),
        max_new_tokens=MAX_NEW_TOKENS,
        min_new_tokens=None if stop else MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=sorted(model.stop_token_ids) if stop else None,
        pad_token_id=0,
    ).tolist()
    return {
        document.doc_id: template.decode(row) for document, row in zip(documents, new, strict=True)
    }


def in_batches(load: Workload, size: int, *, stop: bool, documents: range | None = None) -> Texts:
    """All documents (or some) through the library, ``size`` at a time."""
    found: Texts = {}
    chosen = range(len(load.documents)) if documents is None else documents
    for first in range(chosen.start, chosen.stop, size):
        found |= library_generate(load, first, min(size, chosen.stop - first), stop=stop)
    return found


# The engine of this package, whole or without one of its parts ----------------------------------


@contextmanager
def one_prefix_for_each_row() -> Iterator[None]:
    """Without attention in two parts: the prefix is copied for each row."""
    never = mock.patch.object(sptar.llm.engine.prefix.Prefix, "_passes_trial", return_value=False)
    with never, mock.patch.object(sptar.llm.engine.prefix, "_two_part_models", {}):
        yield


@contextmanager
def weights_as_they_are() -> Iterator[None]:
    """Without a copy of the weights in oneDNN's layout."""
    with mock.patch.object(PackedLayers, "in_use", side_effect=nullcontext):
        yield


class Engine:
    """The generator, made once as in a long run; ``without`` leaves parts of it out."""

    def __init__(self, load: Workload, batch_size: int, *without: Callable[[], Any]) -> None:
        self._load = load
        self._without = without
        with self._parts():
            self._generator = load.generator(batch_size)

    @property
    def batch_size(self) -> int:
        """Rows in a batch, after what memory allowed."""
        return self._generator._limit.rows

    def _parts(self) -> ExitStack:
        stack = ExitStack()
        for part in self._without:
            stack.enter_context(part())
        return stack

    def __call__(self) -> Texts:
        with self._parts():
            answers = self._generator.generate(self._load.requests())
        return {
            document.doc_id: answer.raw
            for document, answer in zip(self._load.documents, answers, strict=True)
        }


class Processes:
    """Some processes with one thread each that share the documents."""

    def __init__(self, load: Workload, options: argparse.Namespace, bias: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        for number in range(options.processes):
            here, there = context.Pipe()
            documents = load.documents[number :: options.processes]
            arguments = (there, options, load.model.dtype, bias, documents)
            context.Process(target=_serve, args=arguments, daemon=True).start()
            self._pipes.append(here)
        for pipe in self._pipes:
            pipe.recv()

    def __call__(self) -> Texts:
        for pipe in self._pipes:
            pipe.send("go")
        found: Texts = {}
        for pipe in self._pipes:
            found |= pipe.recv()
        return found


def _serve(
    pipe: Any,
    options: argparse.Namespace,
    dtype: torch.dtype,
    bias: float,
    documents: tuple[Document, ...],
) -> None:
    torch.set_num_threads(1)
    load = workload(options.model_shape, "cpu", dtype)
    set_stop_bias(load, bias)
    engine = Engine(replace(load, documents=documents), options.batch_size)
    engine()
    pipe.send("ready")
    with suppress(EOFError):  # the process that asks has ended
        while pipe.recv():
            pipe.send(engine())


# The measurement ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A way to write the queries. ``partial`` ones get other documents in each round."""

    name: str
    dtype: torch.dtype
    run: Callable[..., Texts]
    partial: bool = False


def variant(short: str, load: Workload, options: argparse.Namespace, bias: float) -> Variant:
    """One row of the table, by the name that the command line knows it under."""
    size = options.batch_size
    run: Callable[..., Texts]
    if short in ("published", "stopping"):
        stop = short == "stopping"
        name = "published, stopping" if stop else "published"
        run = partial(in_batches, load, 1, stop=stop)
    elif short == "generate":
        name, run = "generate, batch 16", partial(in_batches, load, 16, stop=True)
    elif short == "processes":
        name = f"engine, {options.processes} processes of one thread"
        run = Processes(load, options, bias)
    else:
        name, rows, *without = {
            "engine": ("engine", size),
            "small": ("engine, batch 16", 16),
            "copies": ("engine, prefix copied", size, one_prefix_for_each_row),
            "unpacked": ("engine, weights not packed", size, weights_as_they_are),
            "bare": ("engine, neither", 16, one_prefix_for_each_row, weights_as_they_are),
        }[short]
        run = Engine(load, rows, *without)
    dtype = load.model.dtype
    return Variant(f"{name}, {name_of(dtype)}", dtype, run, short in ("published", "stopping"))


def name_of(dtype: torch.dtype) -> str:
    """Its name without the module's."""
    return str(dtype).removeprefix("torch.")


def measure(
    options: argparse.Namespace, every: Sequence[Variant], documents: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, Texts], dict[torch.dtype, list[MatmulPeak]]]:
    """Documents each second of each variant in each round, its texts, and the peaks."""
    rates: dict[str, list[float]] = {variant.name: [] for variant in every}
    texts: dict[str, Texts] = {variant.name: {} for variant in every}
    peaks: dict[torch.dtype, list[MatmulPeak]] = {variant.dtype: [] for variant in every}
    for number in range(options.rounds):
        for dtype, found in peaks.items():
            found.append(matmul_peak(dtype, device))
        for variant in every:
            if variant.partial:
                first = number * options.slow_documents % documents
                some = range(first, min(first + options.slow_documents, documents))
                work, count = partial(variant.run, documents=some), len(some)
            else:
                work, count = variant.run, documents
                if number == 0:
                    work()  # the prefix, the packed copy, the allocator
            took = seconds(lambda w=work, found=texts[variant.name]: found.update(w()), device)
            rates[variant.name].append(count / took)
            print(f"round {number + 1}: {variant.name}: {count / took:.2f} documents/s", flush=True)
    return rates, texts, peaks


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    begin = time.perf_counter()
    device = torch.device(options.device)
    dtypes = [getattr(torch, name) for name in options.dtype]
    loads = [workload(options.model_shape, options.device, dtype) for dtype in dtypes]
    bias = tune_stop_bias(loads[0])
    for load in loads:
        set_stop_bias(load, bias)
    loads = with_documents(loads, options.documents)
    first = loads[0]
    print(f"ready after {time.perf_counter() - begin:.0f} s: {options.documents} documents")
    with torch.inference_mode():
        expected = in_batches(first, 1, stop=True)
        every = [
            variant(short, load, options, bias) for load in loads for short in options.variants
        ]
        rates, texts, peaks = measure(options, every, options.documents, device)
    answers = first.generator(options.batch_size).generate(first.requests())
    report(options, first, every, rates, texts, expected, peaks, [a.tokens for a in answers], bias)


def report(
    options: argparse.Namespace,
    load: Workload,
    every: Sequence[Variant],
    rates: dict[str, list[float]],
    texts: dict[str, Texts],
    expected: Texts,
    peaks: dict[torch.dtype, list[MatmulPeak]],
    lengths: list[int],
    bias: float,
) -> None:
    """Print the table and write the record."""
    parameters = sum(weight.numel() for weight in load.model.model.parameters())
    work = 2 * parameters * floor_tokens(load, lengths) / len(load.documents)
    best = {
        dtype: {
            "torch": max(peak.torch for peak in found),
            "packed": max((peak.packed or 0.0) for peak in found) or None,
        }
        for dtype, found in peaks.items()
    }
    base = next((v.name for v in every if v.name.startswith("published, float32")), every[0].name)
    rows = {}
    for variant in every:
        found = spread(rates[variant.name])
        ratios = [a / b for a, b in zip(rates[variant.name], rates[base], strict=True)]
        same = texts[variant.name]
        different = sum(same[doc_id] != expected[doc_id] for doc_id in same)
        peak = best[variant.dtype]
        rows[variant.name] = {
            "documents_per_second": asdict(found),
            "times_base": asdict(spread(ratios)),
            "share_of_floor": found.median * work / peak["torch"],
            "share_of_floor_of_packed_products": (
                found.median * work / peak["packed"] if peak["packed"] else None
            ),
            "texts_that_differ": different,
            "texts": len(same),
            "rates": [round(rate, 3) for rate in rates[variant.name]],
        }
    record = {
        "machine": describe_machine(options.device),
        "command": " ".join(["python", *sys.argv]),
        "model": {
            "shape": options.model_shape,
            **asdict(SHAPES[options.model_shape]),
            "parameters": parameters,
            "stop_bias": bias,
        },
        "documents": len(load.documents),
        "batch_size": {
            variant.name: variant.run.batch_size
            for variant in every
            if isinstance(variant.run, Engine)
        },
        "prefix_tokens": load.generator(1).prefix_tokens,
        "document_tokens": spread_of(
            [len(load.template.document_ids(document).ids) for document in load.documents]
        ),
        "query_tokens": spread_of(lengths),
        "matmul_peak": {name_of(dtype): peak for dtype, peak in best.items()},
        "operations_per_document": work,
        "base": base,
        "variants": rows,
    }
    print(f"\n{'variant':46} {'docs/s':>8} {'range':>15} {'times':>7} {'floor':>6} {'differ':>7}")
    for name, row in rows.items():
        rate = row["documents_per_second"]
        print(
            f"{name:46} {rate['median']:8.2f} "
            f"{rate['smallest']:7.2f}-{rate['largest']:<7.2f} {row['times_base']['median']:7.1f} "
            f"{row['share_of_floor']:6.0%} {row['texts_that_differ']:3}/{row['texts']:<3}"
        )
    print(f"matmul peak: {record['matmul_peak']}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=2) + "\n")


def spread_of(values: Sequence[int]) -> dict[str, float]:
    """Mean and range."""
    return {
        "mean": round(sum(values) / len(values), 2),
        "smallest": min(values),
        "largest": max(values),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--slow-documents", type=int, default=4)
    parser.add_argument(
        "--batch-size", type=int, help="64, on a GPU 512; halved when memory runs out"
    )
    parser.add_argument("--model-shape", choices=sorted(SHAPES), default="30M")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", type=lambda text: text.split(","), default=["float32", "bfloat16"]
    )
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--variants",
        type=lambda text: text.split(","),
        default=["published", "stopping", "generate", "bare", "copies", "unpacked", "engine"],
        help="of published, stopping, generate, bare, copies, unpacked, small, engine, processes",
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.batch_size = options.batch_size or (64 if options.device == "cpu" else 512)
    return options


if __name__ == "__main__":
    main()
