"""The order in which a run takes its steps, and walks over what they stand on."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from sptar.steps.base import Step

__all__ = ["STEP_ORDER", "everything_below", "in_order", "nearest", "title_of", "users_of"]

STEP_ORDER = (
    "collection",
    "split",
    "bm25_index",
    "import_weak",
    "tune",
    "select",
    "augment",
    "rank",
    "filter",
    "pairs",
    "mine",
    "teach",
    "train",
    "choose",
    "encode",
    "bm25_search",
    "search",
    "rerank",
    "fuse",
    "evaluate",
    "compare",
)
"""Every step's name, in the order in which a run takes them as far as their inputs allow: rank by
rank rather than method by method, so that the language model is loaded once, does all its work, and
is gone before the first retriever trains. What is read from outside comes first: its faults must
not come up after hours of writing."""

_Key = tuple[str, str]
_SHOWN = 3
"""Methods that are named where a step belongs to several."""


def everything_below(ends: Iterable[Step]) -> list[Step]:
    """These steps and all that they stand on. No fingerprint is asked, so twins may be there."""
    found: dict[int, Step] = {}
    waiting = list(ends)
    while waiting:
        step = waiting.pop()
        if id(step) not in found:
            found[id(step)] = step
            waiting.extend(step.inputs.values())
    return list(found.values())


def nearest(end: Step) -> dict[str, Step]:
    """For each name the step that is the fewest inputs away."""
    found: dict[str, Step] = {}
    level = [end]
    while level:
        below: dict[int, Step] = {}
        for step in level:
            found.setdefault(step.name, step)
            below.update((id(other), other) for other in step.inputs.values())
        level = list(below.values())
    return found


def users_of(steps: Iterable[Step], ends: Mapping[str, Step]) -> dict[_Key, list[str]]:
    """For each of these steps the names of the ends that stand on it."""
    names = {step.name for step in steps}
    users: dict[_Key, list[str]] = {}
    for name, end in ends.items():
        # Fingerprints are asked of the wanted steps alone.
        below = [step for step in everything_below([end]) if step.name in names]
        for key in dict.fromkeys((step.name, step.fingerprint) for step in below):
            users.setdefault(key, []).append(name)
    return users


def title_of(step: Step, users: Sequence[str], everybody: int) -> str:
    """A step as people know it: its retriever, and whose it is unless it is everybody's."""
    recipe = getattr(step, "recipe", None)
    title = step.name if recipe is None else f"{step.name} {recipe.retriever}"
    if not users or len(users) == everybody:
        return title
    more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
    return f"{title} ({', '.join(users[:_SHOWN])}{more})"


def in_order(ends: Iterable[Step], ranks: Sequence[str]) -> list[Step]:
    """Every step once and after its inputs; of those that could be next, the first in ``ranks``."""
    found: dict[_Key, Step] = {}
    for end in ends:
        for step in end.upstream():
            found.setdefault((step.name, step.fingerprint), step)
    numbers = {key: number for number, key in enumerate(found)}
    missing: dict[_Key, int] = {}
    needed_by: dict[_Key, list[_Key]] = {key: [] for key in found}
    ready: list[tuple[int, int, _Key]] = []

    def now_ready(key: _Key) -> None:
        heapq.heappush(ready, (ranks.index(key[0]), numbers[key], key))

    for key, step in found.items():
        inputs = {(below.name, below.fingerprint) for below in step.inputs.values()}
        missing[key] = len(inputs)
        for below in inputs:
            needed_by[below].append(key)
        if not inputs:
            now_ready(key)
    ordered = []
    while ready:
        key = heapq.heappop(ready)[2]
        ordered.append(found[key])
        for above in needed_by[key]:
            missing[above] -= 1
            if not missing[above]:
                now_ready(above)
    return ordered
