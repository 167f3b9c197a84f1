"""Evaluation pairs each second of the example selection, beside the published loop.

    python benchmarks/example_selection.py --out benchmarks/results/example_selection.json

The published loop runs the whole prompt of one pair at a time (soft prompt, example, document,
query) and computes the logits of all its tokens. It is slow, so it gets some of the pairs; the
package's own selection does all pairs of the same groups. All are in one process, by turns, with
other groups in each round. Rates by processor time stand beside those by the wall, for machines
with other work.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import describe_machine, seconds, spread
from random_model import (
    DOCUMENT_TOKENS,
    EXAMPLE_TOKENS,
    SHAPES,
    Texts,
    Workload,
    workload,
)

import sptar.llm.engine.prefix
import sptar.llm.engine.scoring
from sptar.config import SelectConfig
from sptar.llm.engine.scoring import PromptedScorer
from sptar.tensors.products import PackedLayers
from sptar.types import Document, Pair, Query, QueryLoss
from sptar.weak.select import candidate_groups, select_examples

QUERY_WORDS = (4, 12)
"""About 12 tokens."""


def random_pairs(load: Workload, count: int, tokens: tuple[int, int], seed: int) -> list[Pair]:
    """Pairs of a document of so many tokens and a query."""
    texts, stream = Texts(seed), random.Random(seed)
    return [
        Pair(
            Query(f"q{seed}-{number}", texts.words(stream.randint(*QUERY_WORDS))),
            Document(f"d{seed}-{number}", texts.of_tokens(load.model, stream.randint(*tokens))),
        )
        for number in range(count)
    ]


# The published loop -------------------------------------------------------------------------------


@torch.inference_mode()
def published_losses(
    load: Workload, examples: Sequence[Pair], pairs: Sequence[Pair]
) -> list[QueryLoss]:
    """One pair at a time, the whole prompt, all logits, the model's own loss."""
    model, template = load.model, load.template
    soft = load.soft_prompt.embeddings(model)
    found = []
    for pair in pairs:
        query = template.target_ids(pair.query.text)
        document = template.document_ids(pair.document).ids
        ids = torch.tensor([*template.prefix_ids(examples), *document, *query])
        embedded = torch.cat([soft, model.embed(ids)])[None]
        labels = torch.full((1, len(soft) + len(ids)), -100, device=model.device)
        labels[0, -len(query) :] = torch.tensor(query)
        loss = model.model(inputs_embeds=embedded, labels=labels, use_cache=False).loss
        found.append(QueryLoss(float(loss) * len(query), len(query)))
    return found


# The selection of this package, whole or without one of its parts ---------------------------------


@contextmanager
def one_prefix_for_each_row() -> Iterator[None]:
    """Without attention in two parts: the prefix is copied for each row."""
    with mock.patch.object(sptar.llm.engine.prefix.Prefix, "_passes_trial", return_value=False):
        sptar.llm.engine.prefix._two_part_models.clear()
        try:
            yield
        finally:
            sptar.llm.engine.prefix._two_part_models.clear()


@contextmanager
def weights_as_they_are() -> Iterator[None]:
    """Without a copy of the weights in oneDNN's layout."""
    with mock.patch.object(PackedLayers, "in_use", return_value=nullcontext()):
        yield


@contextmanager
def batches_by_rows_alone() -> Iterator[None]:
    """Without a limit on the tokens of a batch."""
    with mock.patch.object(sptar.llm.engine.scoring, "most_tokens_on", return_value=None):
        yield


PARTS = {
    "whole": (),
    "whole, bfloat16": (),
    "prefix copied": (one_prefix_for_each_row,),
    "weights not packed": (weights_as_they_are,),
    "batches by rows alone": (batches_by_rows_alone,),
    "none of these": (
        one_prefix_for_each_row,
        weights_as_they_are,
        batches_by_rows_alone,
    ),
}


class Recording:
    """A scorer that keeps what it finds."""

    def __init__(self, scorer: PromptedScorer) -> None:
        self._scorer = scorer
        self.found: dict[tuple[Pair, ...], dict[Pair, float]] = {}

    def query_losses(self, examples: Sequence[Pair], pairs: Sequence[Pair]) -> list[QueryLoss]:
        """As the scorer inside does it."""
        losses = self._scorer.query_losses(examples, pairs)
        means = [loss.mean for loss in losses]
        self.found[tuple(examples)] = dict(zip(pairs, means, strict=True))
        return losses


# The measurement ----------------------------------------------------------------------------------


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Seconds by the wall and by the processor."""
    before = time.process_time()
    took = seconds(work, device)
    return took, time.process_time() - before


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time all by turns and compare what they find."""
    device = torch.device(options.device)
    load = workload(options.model_shape, options.device, torch.float32)
    example_tokens = (EXAMPLE_TOKENS - 30, EXAMPLE_TOKENS - 10)
    pairs = random_pairs(load, options.pairs, DOCUMENT_TOKENS, 21)
    config = SelectConfig(batch_size=options.batch_size, groups=options.groups)
    # The same weights, rounded: `llm.dtype: bfloat16`.
    loads = dict.fromkeys(options.variants, load)
    if "whole, bfloat16" in loads:
        rounded = workload(options.model_shape, options.device, torch.bfloat16)
        loads["whole, bfloat16"] = rounded
    scorers = {
        name: Recording(PromptedScorer(of.model, of.template, of.soft_prompt, options.batch_size))
        for name, of in loads.items()
    }
    # Pairs each second, by the wall and by the processor.
    rates: dict[str, list[tuple[float, float]]] = {"published": [], **{v: [] for v in scorers}}
    slow: dict[tuple[Pair, ...], dict[Pair, float]] = {}
    slow_pairs = pairs[:: max(1, len(pairs) // options.slow_pairs)][: options.slow_pairs]
    prefixes = []

    def published(groups: Sequence[tuple[Pair, ...]]) -> None:
        for group in groups:
            losses = published_losses(load, group, slow_pairs)
            found = (loss.mean for loss in losses)
            slow[group] = dict(zip(slow_pairs, found, strict=True))

    for number in range(options.rounds):
        train = random_pairs(load, options.groups + options.examples - 1, example_tokens, number)
        candidates = candidate_groups(train, options.examples, options.groups, 0)
        groups = [tuple(train[index] for index in group) for group in candidates]
        prefixes += [load.template.prefix_ids(group) for group in groups]
        took = timed(lambda g=groups: published(g), device)
        rates["published"].append(
            (len(groups) * len(slow_pairs) / took[0], len(groups) * len(slow_pairs) / took[1])
        )
        for name, scorer in scorers.items():
            with ExitStack() as stack:
                for part in PARTS[name]:
                    stack.enter_context(part())
                took = timed(
                    lambda s=scorer, t=train: select_examples(
                        s, t, pairs, config, options.examples, 0
                    ),
                    device,
                )
            done = len(groups) * len(pairs)
            rates[name].append((done / took[0], done / took[1]))
        for name, found in rates.items():
            print(f"round {number + 1}: {name}: {found[-1][0]:.2f} pairs/s", flush=True)

    rows = {}
    for name, found in rates.items():
        beside = list(zip(found, rates["published"], strict=True))
        rows[name] = {
            "pairs_per_second": asdict(spread([wall for wall, _ in found])),
            "pairs_per_processor_second": asdict(spread([cpu for _, cpu in found])),
            "times_published": asdict(spread([a[0] / b[0] for a, b in beside])),
            "times_published_by_processor_time": asdict(spread([a[1] / b[1] for a, b in beside])),
            **(agreeing(slow, scorers[name].found) if name in scorers else {}),
        }
        row = rows[name]
        print(
            f"{name:28} {row['pairs_per_second']['median']:8.2f} pairs/s, "
            f"{row['times_published']['median']:.1f} times, by processor time "
            f"{row['times_published_by_processor_time']['median']:.1f}; "
            f"largest difference {row.get('largest_difference', 0.0):.1e}"
        )
    return {
        "model": {"shape": options.model_shape, **asdict(SHAPES[options.model_shape])},
        "groups_each_round": options.groups,
        "examples": options.examples,
        "pairs": len(pairs),
        "pairs_of_published_loop": len(slow_pairs),
        "batch_size": options.batch_size,
        "virtual_tokens": load.soft_prompt.virtual_tokens,
        "example_tokens": mean_tokens(prefixes),
        "document_tokens": mean_tokens(
            [load.template.document_ids(pair.document).ids for pair in pairs]
        ),
        "query_tokens": mean_tokens([load.template.target_ids(pair.query.text) for pair in pairs]),
        "variants": rows,
    }


def agreeing(
    slow: dict[tuple[Pair, ...], dict[Pair, float]],
    found: dict[tuple[Pair, ...], dict[Pair, float]],
) -> dict[str, Any]:
    """Compare losses on the pairs that both have scored, and the rankings of the groups there."""

    def mean(losses: dict[tuple[Pair, ...], dict[Pair, float]], group: tuple[Pair, ...]) -> float:
        return statistics.fmean(losses[group][pair] for pair in slow[group])

    return {
        "losses_compared": sum(map(len, slow.values())),
        "largest_difference": max(
            abs(found[group][pair] - loss)
            for group, losses in slow.items()
            for pair, loss in losses.items()
        ),
        "groups_ranked": len(slow),
        "same_ranking": sorted(slow, key=lambda group: mean(slow, group))
        == sorted(slow, key=lambda group: mean(found, group)),
    }


def mean_tokens(rows: Sequence[Sequence[int]]) -> float:
    """Mean number of tokens."""
    return round(statistics.fmean(len(row) for row in rows), 1)


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = measure(options)
    record = {
        "machine": describe_machine(options.device),
        "command": " ".join(["python", *sys.argv]),
        **found,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--groups", type=int, default=2, help="other ones in each round")
    parser.add_argument("--examples", type=int, default=1, help="M")
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--slow-pairs", type=int, default=6, help="of them, the published loop's")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--model-shape", choices=sorted(SHAPES), default="30M")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument(
        "--variants",
        type=lambda text: text.split(";"),
        default=["whole", "whole, bfloat16", "weights not packed"],
        help=f"separated by semicolons, of: {'; '.join(PARTS)}",
    )
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
