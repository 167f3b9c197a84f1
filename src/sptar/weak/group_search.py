"""The rounds in which example groups are compared: all pairs at once, or successive halving.

Successive halving (Jamieson and Talwalkar, 2016) spends little on what is clearly worse: all
groups are scored on a few pairs, the better half also on as many more, and so on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from sptar.config import SelectConfig

__all__ = ["Round", "RoundLosses", "SearchedGroup", "pair_order", "search_groups", "search_rounds"]


@dataclass(frozen=True, slots=True)
class Round:
    """The best ``groups`` so far are scored on the pairs from ``first`` up to before ``last``."""

    groups: int
    first: int
    last: int

    @property
    def query_losses(self) -> int:
        """Losses that this round computes."""
        return self.groups * (self.last - self.first)


@dataclass(frozen=True, slots=True)
class RoundLosses:
    """A group (by its number among the candidates) and its losses on the pairs of one round."""

    group: int
    first: int
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SearchedGroup:
    """A group by its number, and its mean loss on the first ``pairs`` of the order."""

    group: int
    loss: float
    pairs: int


def search_rounds(
    search: Literal["exhaustive", "halving"], groups: int, pairs: int, halving_pairs: int
) -> list[Round]:
    """The plan of a search; it depends on the counts alone.

    Halving ends when one group is left, which is then scored on all pairs, or when all pairs have
    been used. Losses of earlier rounds are kept, so no group meets a pair twice.

    >>> search_rounds("halving", 5, 12, 4)
    [Round(groups=5, first=0, last=4), Round(groups=3, first=4, last=8), \
Round(groups=2, first=8, last=12)]
    """
    if search == "exhaustive":
        return [Round(groups, 0, pairs)]
    rounds = [Round(groups, 0, pairs if groups == 1 else min(halving_pairs, pairs))]
    while (before := rounds[-1]).last < pairs:
        left = -(-before.groups // 2)
        last = pairs if left == 1 else min(2 * before.last, pairs)
        rounds.append(Round(left, before.last, last))
    return rounds


def pair_order(search: Literal["exhaustive", "halving"], pairs: int, seed: int) -> list[int]:
    """Which pair comes when: a seeded order for halving, whose first rounds see only some."""
    order = list(range(pairs))
    if search == "halving":
        random.Random(f"sptar halving {seed}").shuffle(order)
    return order


def search_groups(
    groups: int,
    pairs: int,
    select: SelectConfig,
    score: Callable[[int, int, int], Sequence[float]],
    *,
    done: Mapping[int, Sequence[float]],
    on_round: Callable[[RoundLosses], None],
    on_losses: Callable[[int], None],
) -> list[SearchedGroup]:
    """All groups from best to worst.

    First those that were scored on the most pairs, among them the smaller loss first, of equal
    ones the first candidate. A loss is a mean rounded to 6 decimals: the last bits of its parts
    depend on which queries shared a batch.

    Args:
        groups: number of candidates.
        pairs: number of evaluation pairs, at least 1.
        select: which search, and how it begins.
        score: given a group and the bounds of the pairs, returns their losses.
        done: losses that an earlier, broken-off search has computed, from the first pair on.
        on_round: given the new losses of a group at once.
        on_losses: told how many losses there are in addition, computed or from ``done``.
    """
    losses: list[list[float]] = [[] for _ in range(groups)]
    alive = list(range(groups))

    def standing(group: int) -> tuple[int, float, int]:
        return -len(losses[group]), round(fmean(losses[group]), 6), group

    for part in search_rounds(select.search, groups, pairs, select.halving_pairs):
        if len(alive) > part.groups:
            alive = sorted(sorted(alive, key=standing)[: part.groups])
        for group in alive:
            known = list(done.get(group, ()))[part.first : part.last]
            if len(known) < part.last - part.first:
                known = list(score(group, part.first, part.last))
                on_round(RoundLosses(group, part.first, tuple(known)))
            losses[group] += known
            on_losses(len(known))
    ordered = sorted(range(groups), key=standing)
    return [SearchedGroup(group, standing(group)[1], len(losses[group])) for group in ordered]
