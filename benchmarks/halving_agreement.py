"""How often successive halving chooses the examples that the exhaustive search chooses.

    python benchmarks/halving_agreement.py --model ../shared/models/doc2query-v0 \
        --collections ../shared/data/msmarco_mini ../shared/data/scifact \
        --out benchmarks/results/halving_agreement.json

A real model scores examples on pairs of real collections, each on each, with a hand-written prompt.
Then both searches choose among half of the examples on half of the pairs, other halves for each
seed. Nothing is timed: the cost is the share of the losses that halving computes.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine

from sptar.config import LanguageModelConfig, PromptConfig, SelectConfig
from sptar.llm.engine.scoring import PromptedScorer
from sptar.llm.loading import load_language_model
from sptar.llm.template import PromptTemplate
from sptar.types import Document, Pair, Query, QueryLoss
from sptar.weak.select import select_examples


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
    settings = LanguageModelConfig(name=str(options.model), device=options.device)
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
    return {"model": options.model.name, "seeds": options.seeds, "agreement": found}


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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a language model")
    parser.add_argument("--collections", type=Path, nargs="+", required=True, help="BEIR folders")
    parser.add_argument("--groups", type=int, default=48, help="examples; half of them each time")
    parser.add_argument("--pairs", type=int, default=96, help="half of them each time")
    parser.add_argument("--halving-pairs", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = agreement(options)
    record = {"machine": describe_machine(), "command": " ".join(["python", *sys.argv]), **found}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
