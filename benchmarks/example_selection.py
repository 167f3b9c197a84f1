"""Evaluation pairs each second of the example selection, beside the published loop.

    python benchmarks/example_selection.py --out benchmarks/results/example_selection.json
    python benchmarks/example_selection.py --agreement ../shared/models/doc2query-v0 \
        --collections ../shared/data/msmarco_mini ../shared/data/scifact \
        --groups 32 --pairs 100 --out benchmarks/results/halving_agreement.json

The published loop runs the whole prompt of one pair at a time (soft prompt, example, document,
query) and computes the logits of all its tokens. It is slow, so each round gives it one group; the
package's own selection does all groups in each round. Both are in one process, by turns.

With ``--agreement`` nothing is timed: a real model scores all groups on all pairs of real
collections, and the table tells how often successive halving chooses what the exhaustive search
chooses, and what it costs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import describe_machine, matmul_peak, seconds, spread
from random_model import (
    DOCUMENT_TOKENS,
    EXAMPLE_TOKENS,
    SHAPES,
    Texts,
    Workload,
    workload,
)

import sptar.llm.prefix
from sptar.config import LanguageModelConfig, PromptConfig, SelectConfig
from sptar.llm.packed_weights import PackedWeights
from sptar.llm.scoring import PromptedScorer
from sptar.llm.template import PromptTemplate
from sptar.types import Document, Pair, Query, QueryLoss
from sptar.weak.group_search import search_rounds
from sptar.weak.select import Selection, select_examples

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
def published_losses(load: Workload, example: Pair, pairs: Sequence[Pair]) -> list[QueryLoss]:
    """One pair at a time, the whole prompt, all logits, the model's own loss."""
    model, template = load.model, load.template
    soft = load.soft_prompt.embeddings(model)
    found = []
    for pair in pairs:
        query = template.query_ids(pair.query.text)
        ids = [
            *template.prefix_ids([example]),
            *template.document_ids(pair.document).ids,
            *query,
        ]
        embedded = torch.cat([soft, model.embed(torch.tensor(ids))])[None]
        labels = torch.full((1, len(soft) + len(ids)), -100, device=model.device)
        labels[0, -len(query) :] = torch.tensor(query)
        loss = model.model(inputs_embeds=embedded, labels=labels, use_cache=False).loss
        found.append(QueryLoss(float(loss) * len(query), len(query)))
    return found


# The selection of this package, whole or without one of its parts ---------------------------------


@contextmanager
def one_prefix_for_each_row() -> Iterator[None]:
    """Without attention in two parts: the prefix is copied for each row."""
    with mock.patch.object(sptar.llm.prefix.Prefix, "_passes_trial", return_value=False):
        sptar.llm.prefix._two_part_models.clear()
        try:
            yield
        finally:
            sptar.llm.prefix._two_part_models.clear()


@contextmanager
def weights_as_they_are() -> Iterator[None]:
    """Without a copy of the weights in oneDNN's layout."""
    with mock.patch.object(PackedWeights, "in_use", return_value=nullcontext()):
        yield


class Selecting:
    """The selection as the step runs it; ``without`` leaves parts of it out."""

    def __init__(
        self,
        load: Workload,
        groups: Sequence[Pair],
        pairs: Sequence[Pair],
        select: SelectConfig,
        *without: Any,
    ) -> None:
        self._groups, self._pairs, self._select, self._without = groups, pairs, select, without
        self._scorer = PromptedScorer(
            load.model, load.template, load.soft_prompt, select.batch_size
        )
        plan = search_rounds(select.search, len(groups), len(pairs), select.halving_pairs)
        self.losses = sum(part.query_losses for part in plan)

    def __call__(self) -> Selection:
        with ExitStack() as stack:
            for part in self._without:
                stack.enter_context(part())
            return select_examples(self._scorer, self._groups, self._pairs, self._select, 1, 0)


# The measurement ----------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time both by turns and compare what they find."""
    device = torch.device(options.device)
    load = workload(options.model_shape, options.device, getattr(torch, options.dtype))
    groups = random_pairs(load, options.groups, (EXAMPLE_TOKENS - 30, EXAMPLE_TOKENS - 10), 20)
    pairs = random_pairs(load, options.pairs, DOCUMENT_TOKENS, 21)
    config = SelectConfig(batch_size=options.batch_size)
    halving = SelectConfig(batch_size=options.batch_size, search="halving")
    variants = {
        "select": Selecting(load, groups, pairs, config),
        "select, batch 1": Selecting(load, groups, pairs, SelectConfig(batch_size=1)),
        "select, prefix copied": Selecting(load, groups, pairs, config, one_prefix_for_each_row),
        "select, weights not packed": Selecting(load, groups, pairs, config, weights_as_they_are),
        "select, neither": Selecting(
            load, groups, pairs, config, one_prefix_for_each_row, weights_as_they_are
        ),
        "select, halving": Selecting(load, groups, pairs, halving),
    }
    variants = {name: found for name, found in variants.items() if name in options.variants}
    rates: dict[str, list[float]] = {"published": [], **{name: [] for name in variants}}
    selections: dict[str, Selection] = {}
    published: dict[int, list[QueryLoss]] = {}
    peaks = []
    published_losses(load, groups[0], pairs[:1])
    for number in range(options.rounds):
        peaks.append(matmul_peak(load.model.dtype, device))
        group = number % len(groups)
        found: list[QueryLoss] = []
        took = seconds(
            lambda g=group, f=found: f.extend(published_losses(load, groups[g], pairs)), device
        )
        published[group] = found
        rates["published"].append(len(pairs) / took)
        for name, selecting in variants.items():
            took = seconds(lambda n=name, s=selecting: selections.update({n: s()}), device)
            # By the losses that an exhaustive search has to find, whatever was computed.
            rates[name].append(len(groups) * len(pairs) / took)
        for name, found_rates in rates.items():
            print(f"round {number + 1}: {name}: {found_rates[-1]:.2f} pairs/s", flush=True)

    slow = {group: statistics.fmean(q.mean for q in found) for group, found in published.items()}
    rows: dict[str, Any] = {}
    for name, found_rates in rates.items():
        ratios = [a / b for a, b in zip(found_rates, rates["published"], strict=True)]
        rows[name] = {
            "pairs_per_second": asdict(spread(found_rates)),
            "times_published": asdict(spread(ratios)),
            "rates": [round(rate, 3) for rate in found_rates],
        }
        if name == "published":
            continue
        mine = {row.pair_indices[0]: row.loss for row in selections[name].groups if row.loss}
        rows[name] |= {
            "losses_computed": variants[name].losses,
            "chosen": selections[name].chosen.pair_indices[0],
        }
        if selections[name].exhaustive:
            rows[name] |= {
                "largest_difference": max(abs(mine[group] - loss) for group, loss in slow.items()),
                "same_ranking": sorted(slow, key=slow.__getitem__)
                == sorted(slow, key=mine.__getitem__),
            }
    print(f"\n{'variant':28} {'pairs/s':>9} {'range':>16} {'times':>7}  largest difference")
    for name, row in rows.items():
        rate = row["pairs_per_second"]
        print(
            f"{name:28} {rate['median']:9.2f} "
            f"{rate['smallest']:8.2f}-{rate['largest']:<8.2f}"
            f"{row['times_published']['median']:7.1f}  {row.get('largest_difference', '')}"
        )
    return {
        "model": {"shape": options.model_shape, **asdict(SHAPES[options.model_shape])},
        "dtype": options.dtype,
        "groups": len(groups),
        "pairs": len(pairs),
        "batch_size": options.batch_size,
        "virtual_tokens": load.soft_prompt.virtual_tokens,
        "example_tokens": mean_tokens([load.template.prefix_ids([pair]) for pair in groups]),
        "document_tokens": mean_tokens(
            [load.template.document_ids(pair.document).ids for pair in pairs]
        ),
        "query_tokens": mean_tokens([load.template.query_ids(pair.query.text) for pair in pairs]),
        "groups_compared": sorted(slow),
        "matmul_peak": {
            "torch": max(peak.torch for peak in peaks),
            "packed": max((peak.packed or 0.0) for peak in peaks) or None,
        },
        "variants": rows,
    }


def mean_tokens(rows: Sequence[Sequence[int]]) -> float:
    """Mean number of tokens."""
    return round(statistics.fmean(len(row) for row in rows), 1)


# The agreement of halving with the exhaustive search ----------------------------------------------


class Remembered:
    """Losses that were computed once, for all searches over them."""

    def __init__(self, scorer: PromptedScorer, pairs: Sequence[Pair]) -> None:
        self._scorer, self._pairs = scorer, pairs
        self._losses: dict[Pair, dict[Pair, QueryLoss]] = {}

    def query_losses(self, examples: Sequence[Pair], pairs: Sequence[Pair]) -> list[QueryLoss]:
        """As a scorer does it; all pairs of an example at its first call."""
        (example,) = examples
        if example not in self._losses:
            found = self._scorer.query_losses(examples, self._pairs)
            self._losses[example] = dict(zip(self._pairs, found, strict=True))
            print(f"{len(self._losses)} examples scored", flush=True)
        return [self._losses[example][pair] for pair in pairs]


def labelled_pairs(folder: Path, documents: int, seed: int) -> list[Pair]:
    """One pair for each of so many queries of a BEIR folder, drawn by seed."""
    judged: dict[str, list[str]] = {}
    for path in sorted(folder.glob("qrels/*.tsv")):
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            query_id, doc_id, value = line.split("\t")[:3]
            if int(value) > 0:
                judged.setdefault(query_id, []).append(doc_id)

    def rows(name: str) -> Iterator[dict[str, str]]:
        with (folder / name).open(encoding="utf-8") as file:
            yield from map(json.loads, file)

    texts = {row["_id"]: row["text"] for row in rows("queries.jsonl")}
    corpus = {row["_id"]: row for row in rows("corpus.jsonl")}
    chosen = random.Random(seed).sample(sorted(judged.keys() & texts.keys()), documents)
    return [
        Pair(
            Query(query_id, texts[query_id]),
            Document(row["_id"], row["text"], row.get("title", "")),
        )
        for query_id in chosen
        if (row := corpus[judged[query_id][0]])
    ]


def agreement(options: argparse.Namespace) -> dict[str, Any]:
    """Search by both ways on real pairs with a real model and a hand-written prompt."""
    from sptar.llm.loading import load_language_model

    settings = LanguageModelConfig(name=str(options.agreement), device=options.device)
    model = load_language_model(settings)
    prompt = PromptConfig(max_document_tokens=100)
    template = PromptTemplate(model, prompt, virtual_tokens=0, max_new_tokens=32)
    found = []
    for folder in options.collections:
        drawn = labelled_pairs(folder, options.groups + options.pairs, seed=0)
        every, pairs = drawn[: options.groups], drawn[options.groups :]
        scorer = Remembered(PromptedScorer(model, template, None, options.batch_size), pairs)
        for first_pairs in options.halving_pairs:
            tries = [
                one_agreement(scorer, every, pairs, first_pairs, seed)
                for seed in range(options.seeds)
            ]
            row = {
                "collection": folder.name,
                "halving_pairs": first_pairs,
                "groups": len(every) // 2,
                "pairs": len(pairs) // 2,
                "same_choice": sum(attempt["rank"] == 1 for attempt in tries),
                "among_best_three": sum(attempt["rank"] <= 3 for attempt in tries),
                "mean_rank": statistics.fmean(attempt["rank"] for attempt in tries),
                "largest_rank": max(attempt["rank"] for attempt in tries),
                "share_of_losses": tries[0]["cost"],
                "loss_above_best": statistics.fmean(attempt["above"] for attempt in tries),
                "range_of_losses": statistics.fmean(attempt["range"] for attempt in tries),
                "tries": tries,
            }
            found.append(row)
            print({name: value for name, value in row.items() if name != "tries"}, flush=True)
    return {"model": options.agreement.name, "seeds": options.seeds, "agreement": found}


def one_agreement(
    scorer: Remembered,
    every: Sequence[Pair],
    pairs: Sequence[Pair],
    halving_pairs: int,
    seed: int,
) -> dict[str, Any]:
    """Both searches among half of the groups, on half of the pairs, drawn by seed.

    ``rank`` is that of halving's choice in the exhaustive order, from 1; ``cost`` the share of the
    losses that it computes; ``above`` how much larger its choice's loss is than the smallest, and
    ``range`` that of the largest.
    """
    stream = random.Random(seed)
    groups = stream.sample(every, len(every) // 2)
    judged = stream.sample(pairs, len(pairs) // 2)
    exhaustive = select_examples(scorer, groups, judged, SelectConfig(), 1, seed)
    config = SelectConfig(search="halving", halving_pairs=halving_pairs)
    halved = select_examples(scorer, groups, judged, config, 1, seed)
    order = [row.pair_indices for row in exhaustive.groups]
    rank = order.index(halved.chosen.pair_indices)
    best = exhaustive.best.loss or 0.0
    computed = sum(row.pairs or 0 for row in halved.groups)
    return {
        "seed": seed,
        "rank": rank + 1,
        "cost": computed / (len(groups) * len(judged)),
        "above": (exhaustive.groups[rank].loss or 0.0) - best,
        "range": (exhaustive.worst.loss or 0.0) - best,
    }


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = agreement(options) if options.agreement else measure(options)
    record = {"machine": describe_machine(), "command": " ".join(["python", *sys.argv]), **found}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--model-shape", choices=sorted(SHAPES), default="30M")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument(
        "--variants",
        type=lambda text: text.split(","),
        default=["select", "select, prefix copied", "select, weights not packed"],
    )
    parser.add_argument("--agreement", type=Path, help="folder of a language model")
    parser.add_argument("--collections", type=Path, nargs="+", default=[])
    parser.add_argument("--halving-pairs", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
