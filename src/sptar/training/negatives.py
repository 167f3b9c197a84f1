"""Hard negatives of training pairs: documents that look like answers and are none, as far as known.

They are drawn at random from what a ranking leaves after its filters, not taken from its top: the
top holds most of the answers that nobody labelled (Qu et al., RocketQA, arXiv 2010.08191), and a
draw gives the pairs of one query different negatives of different difficulty. The filter against
unlabelled answers compares with the pair's own document, as in Moreira et al., NV-Retriever (arXiv
2407.15831).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from sptar.config import TrainConfig
from sptar.errors import DataError
from sptar.io import read_jsonl, to_json, write_jsonl
from sptar.progress import silent
from sptar.types import Corpus, Pair, Progress, Run, Searcher

__all__ = [
    "MinedNegatives",
    "MiningTotals",
    "load_negatives",
    "mine_negatives",
    "save_negatives",
]

_QUERIES_AT_ONCE = 1024
"""Queries searched together, so that a large index is read seldom; their rankings are in memory."""


@dataclass(frozen=True, slots=True)
class MinedNegatives:
    """The hard negatives of one pair, and what was left out on the way.

    The first ``mined`` of ``doc_ids`` come from the ranking, the others were drawn from the whole
    corpus. The counts tell why documents of the ranking were left out: ``known`` answer the query,
    ``skipped`` are among the best ``mine_skip``, ``above_margin`` score too near to the pair's own
    document or above it. ``equal_text`` have the text of an answer under another id (counted where
    the draw met them). ``own_unranked`` is 1 when the pair's own document is not in the ranking.
    ``readmitted`` of the drawn ones had been skipped or above the margin: the corpus had no others.
    """

    doc_ids: tuple[str, ...]
    mined: int = 0
    known: int = 0
    skipped: int = 0
    above_margin: int = 0
    equal_text: int = 0
    own_unranked: int = 0
    readmitted: int = 0


@dataclass(frozen=True, slots=True)
class MiningTotals:
    """Sums over all pairs: where negatives came from, what was left out and why.

    ``mined`` and ``random`` count negatives, the other fields are those of
    :class:`MinedNegatives`.
    """

    pairs: int
    mined: int
    random: int
    known: int
    skipped: int
    above_margin: int
    equal_text: int
    own_unranked: int
    readmitted: int

    @classmethod
    def of(cls, found: Sequence[MinedNegatives]) -> MiningTotals:
        """The sums over these pairs."""
        return cls(
            pairs=len(found),
            mined=sum(item.mined for item in found),
            random=sum(len(item.doc_ids) - item.mined for item in found),
            known=sum(item.known for item in found),
            skipped=sum(item.skipped for item in found),
            above_margin=sum(item.above_margin for item in found),
            equal_text=sum(item.equal_text for item in found),
            own_unranked=sum(item.own_unranked for item in found),
            readmitted=sum(item.readmitted for item in found),
        )


def mine_negatives(
    pairs: Sequence[Pair],
    corpus: Corpus,
    config: TrainConfig,
    seed: int,
    *,
    searcher: Searcher | None,
    known: Mapping[str, AbstractSet[str]] = {},
    progress: Progress = silent,
) -> list[MinedNegatives]:
    """``negatives_per_pair`` documents for each pair that are not known to answer its query.

    With ``negatives: random`` all are drawn from the corpus. Otherwise they are drawn from the best
    ``mine_depth`` documents of the query, without the best ``mine_skip`` of them and without those
    whose score is above ``own - mine_margin * |own|``, where ``own`` is the score of the pair's own
    document: for positive scores that is (1 - margin) times its score, and for negative ones (dot
    products can be) it still lies below. A document of its own that is not in the ranking scores
    below all of it, so that none of these may be taken. Where too few remain, the rest is drawn
    from the corpus; documents that were skipped or above the margin come last there.

    A pair's draws are named by (seed, query text, document id): neither the order of the pairs nor
    the batches of the search matter. Memory does not grow with the corpus.

    Args:
        pairs: the whole training set, as documents paired with one query text count as its answers.
            Equal query texts (white space around them aside) are one query.
        corpus: where negatives come from; it holds all that the searcher finds.
        config: resolved recipe.
        seed: of the draws.
        searcher: finds documents for queries; only ``negatives: random`` needs none.
        known: query text → ids of further documents that are known to answer it.

    Returns:
        The negatives of each pair, in the order of the pairs. None is a known answer, has the text
        of one, or is the query itself.

    Raises:
        DataError: the corpus has too few other documents.
    """
    if config.negatives == "none":
        raise ValueError("the recipe asks for no hard negatives")
    if config.negatives == "random":
        searcher = None
    elif searcher is None:
        raise ValueError(f"negatives from {config.negatives} need a searcher")
    miner = _Miner(pairs, corpus, config, seed, known)
    found: dict[int, MinedNegatives] = {}
    progress.start("Hard negatives", len(pairs), "pairs")
    for part in _search_batches(pairs):
        run: Run = {}
        if searcher is not None:
            queries = {pairs[number].query.query_id: pairs[number].query for number in part}
            run = searcher.search(
                [replace(query, text=query.text.strip()) for query in queries.values()],
                config.mine_depth,
            )
        for number in part:
            pair = pairs[number]
            ranking = None if searcher is None else run.get(pair.query.query_id, {})
            found[number] = miner.negatives_of(pair, ranking)
        progress.advance(len(part))
    progress.finish()
    return [found[number] for number in range(len(pairs))]


def _search_batches(pairs: Sequence[Pair]) -> Iterator[list[int]]:
    """Positions of the pairs, by query text, cut into searches that name no query id twice."""
    keys = [(pair.query.text.strip(), pair.query.query_id, pair.document.doc_id) for pair in pairs]
    part: list[int] = []
    asked: dict[str, str] = {}
    for number in sorted(range(len(pairs)), key=keys.__getitem__):
        text, query_id, _ = keys[number]
        full = len(asked) == _QUERIES_AT_ONCE and query_id not in asked
        if full or asked.get(query_id, text) != text:
            yield part
            part, asked = [], {}
        asked[query_id] = text
        part.append(number)
    if part:
        yield part


class _Miner:
    """Draws the negatives of one pair after the other."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        corpus: Corpus,
        config: TrainConfig,
        seed: int,
        known: Mapping[str, AbstractSet[str]],
    ) -> None:
        self._corpus = corpus
        self._config = config
        self._seed = seed
        self._answers: dict[str, set[str]] = {}
        self._texts: dict[str, set[str]] = {}
        for pair in pairs:
            text = pair.query.text.strip()
            self._answers.setdefault(text, set()).add(pair.document.doc_id)
            self._texts.setdefault(text, set()).add(pair.document.full_text)
        for query, doc_ids in known.items():
            text = query.strip()
            if text in self._answers:
                others = doc_ids - self._answers[text]
                self._answers[text] |= others
                self._texts[text] |= {
                    corpus.get(doc_id).full_text for doc_id in others if doc_id in corpus
                }

    def negatives_of(self, pair: Pair, ranking: Mapping[str, float] | None) -> MinedNegatives:
        """Negatives from the ranking of the pair's query (``None``: there is none), then others."""
        text, own_id = pair.query.text.strip(), pair.document.doc_id
        own_doc_id = pair.query.own_doc_id
        answers = self._answers[text] | ({own_doc_id} if own_doc_id is not None else set())
        texts = self._texts[text]
        wanted = self._config.negatives_per_pair
        allowed, left_out = self._filtered(ranking or {}, own_id, answers)
        # Named apart: what the corpus gives does not hang on what the ranking gave.
        name = to_json([self._seed, text, own_id])
        random.Random(f"mined negatives:{name}").shuffle(allowed)
        chosen: list[str] = []
        same = 0
        for doc_id in allowed:
            if len(chosen) == wanted:
                break
            if self._corpus.get(doc_id).full_text in texts:
                same += 1
            else:
                chosen.append(doc_id)
        mined = len(chosen)
        barred = set(left_out["skipped"]) | set(left_out["above_margin"])
        last: list[str] = []
        tried = set(allowed)
        generator = random.Random(f"random negatives:{name}")
        for position in _in_random_order(len(self._corpus), generator):
            if len(chosen) == wanted:
                break
            doc_id = self._corpus.doc_id(position)
            if doc_id in answers or doc_id in tried:
                continue
            if self._corpus[position].full_text in texts:
                same += 1
            elif doc_id in barred:
                last.append(doc_id)
            else:
                chosen.append(doc_id)
        readmitted = last[: wanted - len(chosen)]
        chosen += readmitted
        if len(chosen) < wanted:
            raise DataError(
                f"Query {pair.query.query_id} and its document {own_id} need {wanted} negatives, "
                f"and the corpus has only {len(chosen)} documents that are not known to answer "
                "this query.",
                hint="Lower train.negatives_per_pair.",
            )
        return MinedNegatives(
            doc_ids=tuple(chosen),
            mined=mined,
            known=len(left_out["known"]),
            skipped=len(left_out["skipped"]),
            above_margin=len(left_out["above_margin"]),
            equal_text=same,
            own_unranked=int(ranking is not None and own_id not in ranking),
            readmitted=len(readmitted),
        )

    def _filtered(
        self, ranking: Mapping[str, float], own_id: str, answers: AbstractSet[str]
    ) -> tuple[list[str], dict[str, list[str]]]:
        """Ids of a ranking that may be negatives, by id, and the others by reason."""
        own = ranking.get(own_id)
        limit = float("-inf") if own is None else own - self._config.mine_margin * abs(own)
        allowed: list[str] = []
        left_out: dict[str, list[str]] = {"known": [], "skipped": [], "above_margin": []}
        best_first = sorted(ranking.items(), key=lambda item: (-item[1], item[0]))
        for rank, (doc_id, score) in enumerate(best_first[: self._config.mine_depth], start=1):
            if doc_id in answers:
                left_out["known"].append(doc_id)
            elif rank <= self._config.mine_skip:
                left_out["skipped"].append(doc_id)
            elif score > limit:
                left_out["above_margin"].append(doc_id)
            else:
                allowed.append(doc_id)
        return sorted(allowed), left_out


def _in_random_order(count: int, generator: random.Random) -> Iterator[int]:
    """0 … count-1, shuffled as they are asked for: a few of millions cost a few draws.

    >>> sorted(_in_random_order(4, random.Random(1)))
    [0, 1, 2, 3]
    """
    moved: dict[int, int] = {}
    for place in range(count):
        other = generator.randrange(place, count)
        yield moved.get(other, other)
        moved[other] = moved.get(place, place)


def save_negatives(
    path: str | Path, pairs: Sequence[Pair], found: Sequence[MinedNegatives]
) -> None:
    """Write a JSON line for each pair, in order: its ids, its ``negatives``, and the counts."""
    write_jsonl(path, (_row(pair, item) for pair, item in zip(pairs, found, strict=True)))


def _row(pair: Pair, item: MinedNegatives) -> dict[str, Any]:
    counts = asdict(item)
    negatives = list(counts.pop("doc_ids"))
    return {
        "query_id": pair.query.query_id,
        "doc_id": pair.document.doc_id,
        "negatives": negatives,
        **counts,
    }


def load_negatives(path: str | Path, pairs: Sequence[Pair] | None = None) -> list[MinedNegatives]:
    """Read what :func:`save_negatives` wrote.

    Args:
        path: JSONL file.
        pairs: where given, the rows must be theirs, in this order.

    Raises:
        DataError: a row is broken, or does not belong to its pair.
    """
    counts = [field.name for field in fields(MinedNegatives) if field.name != "doc_ids"]
    found: list[MinedNegatives] = []
    for line, row in read_jsonl(path):
        negatives = row.get("negatives")
        if not isinstance(negatives, list) or not all(isinstance(i, str) for i in negatives):
            raise DataError("'negatives' is no list of document ids.", path=path, line=line)
        for name in counts:
            if type(row.get(name)) is not int:
                raise DataError(f"'{name}' is no whole number.", path=path, line=line)
        if pairs is not None:
            pair = pairs[len(found)] if len(found) < len(pairs) else None
            ids = None if pair is None else (pair.query.query_id, pair.document.doc_id)
            if ids != (row.get("query_id"), row.get("doc_id")):
                raise DataError(
                    "these negatives belong to another pair than the one in this place.",
                    path=path,
                    line=line,
                    hint="Mine the negatives of these pairs again.",
                )
        found.append(MinedNegatives(tuple(negatives), **{name: int(row[name]) for name in counts}))
    if pairs is not None and len(found) != len(pairs):
        raise DataError(
            f"negatives of {len(found)} pairs, and {len(pairs)} pairs.",
            path=path,
            hint="Mine the negatives of these pairs again.",
        )
    return found
