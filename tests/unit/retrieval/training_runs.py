"""Short trainings for tests: a dev set, measures with and without a script, saved weights."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from sptar.training.loop import DevSet
from tiny import DOCUMENTS, PAIRS, QUERIES

QRELS = {pair.query.query_id: {pair.document.doc_id: 1} for pair in PAIRS}
DEV = DevSet(QUERIES, DOCUMENTS, QRELS)


def reciprocal_rank(run, qrels):
    total = 0.0
    for query_id, judged in qrels.items():
        order = sorted(run.get(query_id, {}).items(), key=lambda item: (-item[1], item[0]))
        ranks = [rank for rank, (doc_id, _) in enumerate(order, 1) if judged.get(doc_id, 0) > 0]
        total += 1 / ranks[0] if ranks else 0.0
    return total / len(qrels)


class Scripted:
    """A dev measure that follows a script; an exception in it stands for a kill."""

    def __init__(self, *scores):
        self.scores = list(scores)
        self.calls = 0

    def __call__(self, run, qrels):
        self.calls += 1
        score = self.scores.pop(0)
        if isinstance(score, BaseException):
            raise score
        return score


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
