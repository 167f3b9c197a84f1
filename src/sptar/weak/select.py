"""Soft prompt filter: which group of M example pairs gives the smallest loss on S_eval."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sptar.config import SelectConfig
from sptar.errors import ConfigError, DataError, ModelError
from sptar.io import read_json, write_json
from sptar.progress import silent
from sptar.types import Document, Pair, Progress, Query, QueryScorer
from sptar.weak.group_search import RoundLosses, pair_order, search_groups, search_rounds

__all__ = [
    "Group",
    "GroupLosses",
    "Selection",
    "SelectionRow",
    "candidate_groups",
    "load_selection",
    "save_selection",
    "select_examples",
]

Group = tuple[int, ...]
"""Positions of M pairs in the list of training pairs, in the order in which the prompt shows
them."""


@dataclass(frozen=True, slots=True)
class SelectionRow:
    """A candidate group and its mean loss on S_eval; ``None`` when it was never scored.

    ``pairs`` tells how many pairs of S_eval the loss is a mean over: halving drops most groups
    before it has used all. ``None`` when none was, and in files of versions without halving.
    """

    pair_indices: Group
    loss: float | None
    pairs: int | None = None


@dataclass(frozen=True, slots=True)
class GroupLosses:
    """Losses of a group's queries on pairs of S_eval, for a search that is broken off.

    ``first`` is the place of the first of these pairs in the order of the search, which is the
    same in each run of it.
    """

    pair_indices: Group
    first: int
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """The outcome: every candidate from best to worst, and the one that prompts use.

    Groups with a loss on more pairs come first: they were better when the others were dropped.
    ``pairs`` are the training pairs that ``pair_indices`` point into.
    """

    pairs: tuple[Pair, ...]
    groups: tuple[SelectionRow, ...]
    chosen: SelectionRow

    @property
    def best(self) -> SelectionRow:
        """The group with the smallest loss (of equal ones, the first candidate)."""
        return self.groups[0]

    @property
    def worst(self) -> SelectionRow:
        """The group with the largest loss, for the ablation; after halving, the first dropped."""
        return self.groups[-1]

    @property
    def exhaustive(self) -> bool:
        """Whether all groups were scored, and on the same pairs, so that losses compare."""
        return len({row.pairs for row in self.groups}) == 1 and self.best.loss is not None

    def pairs_of(self, row: SelectionRow) -> list[Pair]:
        """The pairs of a group, in the order of the prompt."""
        return [self.pairs[index] for index in row.pair_indices]

    @property
    def examples(self) -> list[Pair]:
        """The pairs of the chosen group."""
        return self.pairs_of(self.chosen)


def candidate_groups(
    pairs: Sequence[Pair], examples: int, groups: int | Literal["all"], seed: int
) -> list[Group]:
    """The groups of M example pairs to compare, in a fixed order.

    ``examples`` = 0 gives one empty group. For 1, every pair is a candidate (a query with several
    positive documents gives several), in the order of ``pairs``; a number of groups smaller than
    that takes a seeded sample. From 2 on, ``groups`` distinct ordered groups are sampled by seed
    among all whose queries differ from one another; when there are no more than ``groups``, all
    of them.

    Raises:
        ConfigError: M is larger than the number of distinct queries, or ``groups`` is ``"all"``
            with M above 1.
    """
    if examples == 0:
        return [()]
    query_of = [pair.query.query_id for pair in pairs]
    distinct = len(set(query_of))
    if examples > distinct:
        raise ConfigError(
            f"`prompt.examples` is {examples}, but S_train has only {distinct} distinct queries.",
            hint="Lower `prompt.examples` or raise `split.train_queries`.",
        )
    if groups != "all" and groups < 1:
        raise ConfigError("`select.groups` must be at least 1.")
    stream = random.Random(f"sptar example groups {seed}")
    if examples == 1:
        singles: list[Group] = [(index,) for index in range(len(pairs))]
        if groups == "all" or groups >= len(singles):
            return singles
        return stream.sample(singles, groups)
    if groups == "all":
        raise ConfigError(
            "`select.groups: all` works only with `prompt.examples: 1`.",
            hint="Give the number of groups to sample, e.g. --set select.groups=50",
        )

    possible = _count_groups(query_of, examples)
    if groups * 2 >= possible:
        everything = [
            group
            for group in itertools.permutations(range(len(pairs)), examples)
            if len({query_of[index] for index in group}) == examples
        ]
        return stream.sample(everything, min(groups, possible))
    found: dict[Group, None] = {}
    while len(found) < groups:
        group = tuple(stream.sample(range(len(pairs)), examples))
        if len({query_of[index] for index in group}) == examples:
            found[group] = None
    return list(found)


def _count_groups(query_of: Sequence[str], examples: int) -> int:
    """Number of ordered groups of ``examples`` pairs with distinct queries.

    >>> _count_groups(["a", "a", "b"], 2)
    4
    """
    unordered = [1] + [0] * examples
    for query_id in dict.fromkeys(query_of):
        positives = query_of.count(query_id)
        for size in range(examples, 0, -1):
            unordered[size] += unordered[size - 1] * positives
    return unordered[examples] * math.factorial(examples)


def select_examples(
    scorer: QueryScorer,
    train_pairs: Sequence[Pair],
    evaluation_pairs: Sequence[Pair],
    select: SelectConfig,
    examples: int,
    seed: int,
    *,
    progress: Progress = silent,
    done: Sequence[GroupLosses] = (),
    on_scored: Callable[[GroupLosses], None] | None = None,
) -> Selection:
    """Score candidate groups on S_eval and choose one (paper, "soft prompt filter").

    The loss of a group is the mean over the evaluation pairs of each query's mean token loss, as
    in tuning. Groups with equal losses keep the order of the candidates. ``select.choice`` =
    ``first`` takes the first candidate and scores nothing. ``select.search`` = ``halving`` scores
    bad groups on some of the pairs only (:mod:`sptar.weak.group_search`).

    Args:
        scorer: computes losses with the learned soft prompt.
        train_pairs: where examples come from.
        evaluation_pairs: S_eval.
        examples: M.
        seed: names the sample of candidates, and halving's order of the pairs.
        progress: told about each loss of a query.
        done: losses that an earlier, broken-off search of the same kind gave to ``on_scored``.
        on_scored: given new losses at once, so that the caller can keep them.

    Raises:
        ConfigError: there are not enough pairs for M examples, or nothing to score on.
        ModelError: a loss is not a finite number.
    """
    candidates = candidate_groups(train_pairs, examples, select.groups, seed)
    pairs = tuple(train_pairs)
    if select.choice == "first":
        row = SelectionRow(candidates[0], None)
        return Selection(pairs, (row,), row)
    if not evaluation_pairs:
        raise ConfigError(
            "There is no evaluation pair to compare example groups on.",
            hint="Raise `split.eval_queries`, or set `select.choice: first`.",
        )
    count = len(evaluation_pairs)
    order = pair_order(select.search, count, seed)

    def score(group: int, first: int, last: int) -> list[float]:
        shown = [pairs[index] for index in candidates[group]]
        asked = [evaluation_pairs[place] for place in order[first:last]]
        losses = [loss.mean for loss in scorer.query_losses(shown, asked)]
        _refuse_non_finite(losses, candidates[group], pairs)
        return losses

    def keep(found: RoundLosses) -> None:
        if on_scored is not None:
            on_scored(GroupLosses(candidates[found.group], found.first, found.losses))

    rounds = search_rounds(select.search, len(candidates), count, select.halving_pairs)
    progress.start("Selecting examples", sum(part.query_losses for part in rounds), "losses")
    try:
        searched = search_groups(
            len(candidates),
            count,
            select,
            score,
            done=_known_losses(done, candidates),
            on_round=keep,
            on_losses=progress.advance,
        )
    finally:
        progress.finish()
    rows = tuple(SelectionRow(candidates[row.group], row.loss, row.pairs) for row in searched)
    return Selection(pairs, rows, rows[0] if select.choice == "best" else rows[-1])


def _known_losses(
    done: Sequence[GroupLosses], candidates: Sequence[Group]
) -> dict[int, list[float]]:
    """Losses of each candidate from the first pair on, as far as they go without a gap."""
    number_of = {group: number for number, group in enumerate(candidates)}
    known: dict[int, list[float]] = {}
    for entry in sorted(done, key=lambda entry: entry.first):
        if entry.pair_indices not in number_of:
            continue
        losses = known.setdefault(number_of[entry.pair_indices], [])
        if len(losses) == entry.first:
            losses += entry.losses
    return known


def _refuse_non_finite(losses: Sequence[float], group: Group, pairs: Sequence[Pair]) -> None:
    for loss in losses:
        if math.isfinite(loss):
            continue
        named = ", ".join(f"{pairs[i].query.query_id}/{pairs[i].document.doc_id}" for i in group)
        raise ModelError(
            f"A query's loss behind the example group [{named}] is {loss}, not a number to "
            "compare.",
            hint="Try `llm.dtype: float32`; a soft prompt that diverged needs a smaller "
            "`tune.learning_rate`.",
        )


def save_selection(path: str | Path, selection: Selection) -> None:
    """Write a selection as JSON, whole or not at all, with the ids and texts of its pairs."""
    write_json(
        path,
        {
            "chosen": asdict(selection.chosen),
            "examples": [_pair_to_json(pair) for pair in selection.examples],
            "groups": [asdict(row) for row in selection.groups],
            "pairs": [_pair_to_json(pair) for pair in selection.pairs],
        },
    )


def load_selection(path: str | Path) -> Selection:
    """Read what :func:`save_selection` wrote.

    Raises:
        DataError: the file is no selection.
    """
    value = read_json(path)
    try:
        pairs = tuple(_pair_from_json(item) for item in value["pairs"])
        groups = tuple(_row_from_json(item, len(pairs)) for item in value["groups"])
        chosen = _row_from_json(value["chosen"], len(pairs))
        if chosen not in groups:
            raise ValueError("the chosen group is not among the groups")
        return Selection(pairs, groups, chosen)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"not a saved selection of examples ({error!r}).",
            path=path,
            hint="Delete it and run the step again.",
        ) from None


def _pair_to_json(pair: Pair) -> dict[str, str]:
    return {
        "query_id": pair.query.query_id,
        "query": pair.query.text,
        "doc_id": pair.document.doc_id,
        "title": pair.document.title,
        "text": pair.document.text,
    }


def _pair_from_json(item: Mapping[str, Any]) -> Pair:
    return Pair(
        Query(str(item["query_id"]), str(item["query"])),
        Document(str(item["doc_id"]), str(item["text"]), str(item["title"])),
    )


def _row_from_json(item: Mapping[str, Any], pair_count: int) -> SelectionRow:
    indices = tuple(int(index) for index in item["pair_indices"])
    if any(not 0 <= index < pair_count for index in indices):
        raise ValueError(f"a group points outside the {pair_count} pairs")
    loss, scored_on = item["loss"], item.get("pairs")
    return SelectionRow(
        indices,
        None if loss is None else float(loss),
        None if scored_on is None else int(scored_on),
    )
