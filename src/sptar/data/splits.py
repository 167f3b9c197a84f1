"""Which labelled query plays which role, and which documents may get a weak query.

A query's place in the draw is a hash of seed and query id, so a draw does not depend on the order
of the file, and a larger S_train contains the smaller one of the same seed. S_train is taken from
the front of the draw, S_eval and dev from its back: the size of one does not move the others. A
test of fixed size (``carve_test_queries``) is taken before them, nearest to the middle of the range
of hashes: their sizes do not move it, and its size moves them only where they reach it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection as AnyCollection
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sptar.config import SplitConfig
from sptar.data.collection import Collection
from sptar.data.roles import Provenance, Role, RoleLabels, Split
from sptar.data.unlabelled import documents_to_augment
from sptar.errors import ConfigError
from sptar.wording import normalise

__all__ = ["Split", "make_split"]


@dataclass(frozen=True)
class _Roles:
    train: AnyCollection[str]
    evaluation: AnyCollection[str]
    dev: AnyCollection[str]
    test: AnyCollection[str]
    left_out: AnyCollection[str] = ()
    candidates: int = 0
    without_positive: int = 0
    test_without_positive: int = 0
    same_text: int = 0
    repeated_text: int = 0
    also_in_test: int = 0


def make_split(collection: Collection, config: SplitConfig, seed: int) -> Split:
    """Deal out the roles and choose the documents to augment.

    With ``carve_from`` the queries of one split are dealt whole groups at a time (queries with
    equal text are always one group). A role gets exactly as many queries as asked for (the
    test, by default, all that remain); what is left of the last group it opened is used for
    nothing, so no group has two roles and the number of labels is the one that the config says.

    Labelled queries whose normalised text equals a test query's are leakage: they are left out of
    S_train, S_eval and dev, and counted.

    Raises:
        ConfigError: a split does not exist, or has too few queries; the message says what to set.
    """
    if config.carve_from is not None:
        roles = _carve(collection, config, config.carve_from, seed)
        in_test_split: Iterable[str] = roles.test
    else:
        roles = _draw(collection, config, seed)
        in_test_split = collection.qrels[config.test_from]
    dev = roles.dev if config.mode == "paper" else roles.evaluation
    kept_apart = {*in_test_split, *roles.test, *roles.evaluation, *dev}
    augment, judged = documents_to_augment(collection, config, kept_apart, seed)
    own_dev = roles.dev if config.mode == "paper" else ()
    left_out = {*roles.left_out, *roles.dev}.difference(own_dev)
    by_role: tuple[tuple[Role, AnyCollection[str]], ...] = (
        ("train", roles.train),
        ("evaluation", roles.evaluation),
        ("dev", own_dev),
        ("test", roles.test),
    )
    split = Split(
        mode=config.mode,
        train=tuple(sorted(roles.train)),
        evaluation=tuple(sorted(roles.evaluation)),
        dev=tuple(sorted(dev)),
        test=tuple(sorted(roles.test)),
        left_out=tuple(sorted(left_out)),
        augment=augment,
        labels=tuple(
            RoleLabels(role, len(ids), _positives(collection, ids)) for role, ids in by_role
        ),
        provenance=Provenance(
            seed=seed,
            candidates=roles.candidates,
            without_positive=roles.without_positive,
            test_without_positive=roles.test_without_positive,
            same_text_as_test=roles.same_text,
            repeated_text=roles.repeated_text,
            also_in_test=roles.also_in_test,
            left_out=len(left_out),
            documents=len(collection.corpus),
            documents_kept_apart=judged,
            documents_to_augment=len(augment),
        ),
    )
    _check(collection, split, kept_apart if config.augment_from != "all" else ())
    return split


def _check(collection: Collection, split: Split, kept_apart: Iterable[str]) -> None:
    """Prove what the split promises; a failure here is a bug in this package."""
    seen: dict[str, Role] = {}
    for row in split.ledger:
        if row.query_id in seen:
            raise AssertionError(f"{row.query_id} is both {seen[row.query_id]} and {row.role}")
        seen[row.query_id] = row.role
    if not seen.keys().isdisjoint(split.left_out):
        raise AssertionError("a query that is left out has a role")
    chosen = np.zeros(len(collection.corpus), dtype=bool)
    chosen[split.augment] = True
    for judged in collection.judgements(kept_apart).values():
        for doc_id in judged:
            if doc_id in collection.corpus and chosen[collection.corpus.position(doc_id)]:
                raise AssertionError(f"document {doc_id} is judged for test, dev or S_eval")


# Drawing -----------------------------------------------------------------------------------------


def _draw_key(seed: int, key: str) -> tuple[bytes, str]:
    text = f"{seed}\0{key}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest(), key


def _from_the_middle(seed: int, key: str) -> tuple[int, str]:
    """Distance of a draw key from the middle of all possible ones."""
    digest, _ = _draw_key(seed, key)
    return abs(int.from_bytes(digest, "big") - (1 << (8 * len(digest) - 1))), key


def _with_positive(collection: Collection, name: str) -> list[str]:
    """Queries of a split with a text and at least one positive document, by id."""
    return sorted(
        query_id
        for query_id, judged in collection.qrels[name].items()
        if collection.relevant(query_id, judged) and collection.queries[query_id].text.strip()
    )


def _positives(collection: Collection, query_ids: Iterable[str]) -> int:
    return sum(
        len(collection.relevant(query_id, judged))
        for query_id, judged in collection.judgements(query_ids).items()
    )


def _texts(collection: Collection, query_ids: Iterable[str]) -> set[str]:
    return {normalise(collection.queries[query_id].text) for query_id in query_ids}


def _distinct(
    collection: Collection, query_ids: Iterable[str], known: Iterable[str] = ()
) -> tuple[list[str], set[str]]:
    """Queries whose text is new, in their order, and those whose text is not."""
    seen, kept, repeated = set(known), [], set()
    for query_id in query_ids:
        text = normalise(collection.queries[query_id].text)
        if text in seen:
            repeated.add(query_id)
        else:
            seen.add(text)
            kept.append(query_id)
    return kept, repeated


def _draw(collection: Collection, config: SplitConfig, seed: int) -> _Roles:
    """Roles from the collection's own splits."""
    train_from = _existing(collection, "train_from", config.train_from)
    eval_from = config.eval_from or train_from
    _existing(collection, "eval_from", eval_from)
    test_from = _existing(collection, "test_from", config.test_from)
    sources = [train_from, eval_from]
    if config.mode == "paper":
        sources.append(_existing(collection, "dev_from", config.dev_from))
    for key, name in zip(("train_from", "eval_from", "dev_from"), sources, strict=False):
        if name == test_from:
            raise ConfigError(
                f"`split.{key}` and `split.test_from` are both '{name}': no label may be used "
                "for training and for the test.",
                hint=f"To deal one split out to all roles, set `split.carve_from: {name}`.",
            )
    test = _with_positive(collection, test_from)
    if not test:
        raise ConfigError(
            f"Split '{test_from}' has no query with a document of grade 1 or more: there is "
            "nothing to test on.",
            hint="Check its judgements, or name another split as `split.test_from` (there are: "
            f"{', '.join(sorted(collection.qrels))}).",
        )
    in_test = set(collection.qrels[test_from])
    test_texts = _texts(collection, in_test) - {""}
    same_text: set[str] = set()
    also_in_test: set[str] = set()

    def candidates(name: str) -> list[str]:
        usable: list[str] = []
        for query_id in _with_positive(collection, name):
            if query_id in in_test:
                also_in_test.add(query_id)
            elif normalise(collection.queries[query_id].text) in test_texts:
                same_text.add(query_id)
            else:
                usable.append(query_id)
        return sorted(usable, key=lambda query_id: _draw_key(seed, query_id))

    for_train, repeated = _distinct(collection, candidates(train_from))
    train = for_train[: config.train_queries]
    taken = set(train)
    free, repeated_in_eval = _distinct(collection, candidates(eval_from))
    behind = [query_id for query_id in reversed(free) if query_id not in taken]
    for_eval, known_in_train = _distinct(collection, behind, _texts(collection, train))
    evaluation = for_eval[: config.eval_queries]
    _enough(
        collection, config, (train_from, len(for_train), len(train)), (eval_from, len(evaluation))
    )
    taken.update(evaluation)
    dev: list[str] = []
    if config.mode == "paper":
        dev = [query_id for query_id in candidates(config.dev_from) if query_id not in taken]
        if not dev:
            raise ConfigError(
                f"Mode `paper` chooses its checkpoint on split '{config.dev_from}', where no "
                "query is left.",
                hint="Take fewer queries from it (`split.train_queries`, `split.eval_queries`), "
                "or set `split.mode: few_shot`.",
            )
    return _Roles(
        train=train,
        evaluation=evaluation,
        dev=dev,
        test=test,
        candidates=len({*for_train, *for_eval}),
        without_positive=sum(
            len(collection.qrels[name]) - len(_with_positive(collection, name))
            for name in dict.fromkeys(sources)
        ),
        test_without_positive=len(in_test) - len(test),
        same_text=len(same_text),
        repeated_text=len(repeated | repeated_in_eval | known_in_train),
        also_in_test=len(also_in_test),
    )


def _carve(collection: Collection, config: SplitConfig, name: str, seed: int) -> _Roles:
    """Roles dealt out of one split, whole groups at a time."""
    _existing(collection, "carve_from", name)
    usable = _with_positive(collection, name)
    groups = _groups(collection, usable, config.group_pattern)
    groups.sort(key=lambda group: _draw_key(seed, group[0]))
    from_the_middle = sorted(groups, key=lambda group: _from_the_middle(seed, group[0]))
    wanted = (
        ("test", config.carve_test_queries, from_the_middle),
        ("S_train", config.train_queries, groups),
        ("S_eval", config.eval_queries, groups[::-1]),
        ("dev", config.carve_dev_queries, groups[::-1]),
    )
    dealt: dict[str, list[str]] = {}
    left_out: list[str] = []
    opened: set[str] = set()
    for role, size, order in wanted:
        taken = dealt[role] = []
        for group in order:
            if len(taken) < size and group[0] not in opened:
                opened.add(group[0])
                taken.extend(sorted(group, key=lambda query_id: _draw_key(seed, query_id)))
        left_out.extend(taken[size:])
        del taken[size:]
    unopened = [query_id for group in groups if group[0] not in opened for query_id in group]
    (left_out if config.carve_test_queries else dealt["test"]).extend(unopened)
    asked = sum(size for _, size, _ in wanted)
    for role, size, _ in wanted:
        if len(dealt[role]) < (size or role == "test"):
            raise ConfigError(
                f"Split '{name}' has {len(usable)} queries with a positive document in "
                f"{len(groups)} groups; {asked} are asked for, {len(dealt[role])} left for {role}.",
                hint="Lower `split.train_queries`, `split.eval_queries`, `split.carve_dev_queries` "
                "or `split.carve_test_queries`; what is left of an opened group is not used.",
            )
    return _Roles(
        train=dealt["S_train"],
        evaluation=dealt["S_eval"],
        dev=dealt["dev"],
        test=dealt["test"],
        left_out=left_out,
        candidates=len(usable),
        without_positive=len(collection.qrels[name]) - len(usable),
    )


def _groups(
    collection: Collection, query_ids: Sequence[str], pattern: str | None
) -> list[list[str]]:
    """Queries that must share a role: one group name, or one normalised text, in chains.

    Each group is sorted; its first query id stands for it in the draw.
    """
    parent = {query_id: query_id for query_id in query_ids}

    def root(query_id: str) -> str:
        while parent[query_id] != query_id:
            parent[query_id] = parent[parent[query_id]]
            query_id = parent[query_id]
        return query_id

    first: dict[tuple[str, str], str] = {}
    for query_id in query_ids:
        keys = [("text", normalise(collection.queries[query_id].text))]
        if pattern is not None:
            match = re.search(pattern, query_id)
            if match is None or match.group(1) is None:
                raise ConfigError(
                    f"`split.group_pattern` {pattern!r} names no group for query {query_id!r}.",
                    hint="Its first pair of parentheses must match in every query id.",
                )
            keys.append(("group", match.group(1)))
        for key in keys:
            one, other = root(first.setdefault(key, query_id)), root(query_id)
            # The smaller id becomes the root, so the group's name does not depend on the order.
            parent[max(one, other)] = min(one, other)
    groups: dict[str, list[str]] = {}
    for query_id in query_ids:
        groups.setdefault(root(query_id), []).append(query_id)
    return [sorted(group) for group in groups.values()]


# Errors ------------------------------------------------------------------------------------------


def _existing(collection: Collection, key: str, name: str) -> str:
    if name in collection.qrels:
        return name
    there = sorted(collection.qrels)
    raise ConfigError(
        f"`split.{key}` is '{name}', but the collection has no such split; it has: "
        f"{', '.join(there)}.",
        hint=_suggestion(key, there),
    )


def _suggestion(key: str, there: Sequence[str]) -> str:
    if key == "dev_from":
        return f"Set `split.dev_from: {there[0]}`, or `split.mode: few_shot`, which needs none."
    if key in ("eval_from", "carve_from"):
        return f"Set `split.{key}: {there[0]}`" + (
            ", or leave it out." if key != "carve_from" else "."
        )
    others = [name for name in there if name != "test"]
    if len(there) == 1:
        return f"Deal it out to all roles: set `split.carve_from: {there[0]}`."
    labels = next((name for name in ("train", "dev", "validation") if name in others), others[0])
    test = "test" if "test" in there else next(name for name in there if name != labels)
    return f"Set `split.train_from: {labels}` and `split.test_from: {test}`" + (
        ", or deal one split out to all roles with `split.carve_from: " + test + "`."
    )


def _enough(
    collection: Collection,
    config: SplitConfig,
    train: tuple[str, int, int],
    evaluation: tuple[str, int],
) -> None:
    train_from, usable, got = train
    # S_eval needs its share when both are drawn from one split.
    room = usable // 3 if evaluation[0] == train_from else usable
    if got < config.train_queries:
        raise ConfigError(
            f"S_train needs {config.train_queries} queries and split '{train_from}' has {usable} "
            "that can be used (with a positive document, not among the test queries).",
            hint=f"Set `split.train_queries: {max(1, room)}` or another "
            f"`split.train_from` (there are: {', '.join(sorted(collection.qrels))}).",
        )
    eval_from, left = evaluation
    if left < config.eval_queries:
        other = [
            name for name in sorted(collection.qrels) if name not in (eval_from, config.test_from)
        ]
        raise ConfigError(
            f"S_eval needs {config.eval_queries} queries and split '{eval_from}' has {left} left "
            f"beside the {got} of S_train.",
            hint=(f"Set `split.eval_queries: {left}`" if left else "Lower `split.train_queries`")
            + (f" or `split.eval_from: {other[0]}`." if other else "."),
        )
