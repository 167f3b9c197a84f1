"""A test of fixed size, dealt out of one split: by hand, and what must hold for any sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptar.config import DataConfig, SplitConfig, parse_config, result_settings
from sptar.data import splits
from sptar.data.collection import Collection
from sptar.data.corpus import DiskCorpus
from sptar.data.sources import convert
from sptar.data.splits import Split, make_split
from sptar.errors import ConfigError
from sptar.types import Qrels, Query

DOCUMENTS = 60
GROUP = re.compile(r"^(g\d+)_")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DiskCorpus:
    folder = tmp_path_factory.mktemp("carving")
    (folder / "beir" / "qrels").mkdir(parents=True)
    (folder / "beir" / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{n}", "text": f"text {n}"}) + "\n" for n in range(DOCUMENTS))
    )
    (folder / "beir" / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n')
    (folder / "beir" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td0\t1\n")
    convert(DataConfig(source=str(folder / "beir")), folder / "converted")
    return Collection.open(folder / "converted").corpus


def judged(corpus: DiskCorpus, qrels: Qrels, texts: Mapping[str, str] | None = None) -> Collection:
    """A collection with judgements in one split; each query has a text of its own."""
    own = {query_id: f"about {query_id.replace('_', ' ')}" for query_id in qrels} | dict(
        texts or {}
    )
    queries = {query_id: Query(query_id, own[query_id]) for query_id in qrels}
    return Collection(corpus, queries, {"test": qrels})


def config(train: int, evaluation: int, test: int, **settings: Any) -> SplitConfig:
    return SplitConfig.model_validate(
        {
            "carve_from": "test",
            "train_queries": train,
            "eval_queries": evaluation,
            "carve_test_queries": test,
            "augment_from": "not_evaluated",
            **settings,
        }
    )


# By hand -----------------------------------------------------------------------------------------


@pytest.fixture
def even_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number behind an id (q7, g7_1) is its place in the draw: 0 at the front, 9 at the back.

    The places are 3/44, 7/44, … 39/44 of the range of hashes, so that 5 (23/44) is nearest to its
    middle, then come 4, 6, 3, 7. Within a group the members' numbers give the order.
    """

    def key(seed: int, query_id: str) -> tuple[bytes, str]:
        place, _, member = query_id[1:].partition("_")
        within = (1 << 128) * (4 * int(place) + 3) // 44 + int(member or 0)
        return within.to_bytes(16, "big"), query_id

    monkeypatch.setattr(splits, "_draw_key", key)


def own_documents(ids: list[str]) -> Qrels:
    return {query_id: {f"d{number}": 1} for number, query_id in enumerate(ids)}


@pytest.mark.usefixtures("even_places")
def test_the_test_stands_in_the_middle_of_the_draw(corpus: DiskCorpus) -> None:
    collection = judged(corpus, own_documents([f"q{number}" for number in range(10)]))
    split = make_split(collection, config(2, 2, 4), 0)
    assert split.test == ("q3", "q4", "q5", "q6")
    assert split.train == ("q0", "q1")
    assert split.evaluation == ("q8", "q9")
    assert split.left_out == ("q2", "q7")
    assert split.provenance.left_out == 2
    # A larger S_train steps over the test, a larger S_eval does too.
    wide = make_split(collection, config(5, 1, 4), 0)
    assert (wide.train, wide.evaluation, wide.test) == (
        ("q0", "q1", "q2", "q7", "q8"),
        ("q9",),
        split.test,
    )
    assert wide.left_out == ()
    assert make_split(collection, config(1, 5, 4), 0).evaluation == ("q1", "q2", "q7", "q8", "q9")
    # Without a size the test is all that is left, as ever.
    everything = make_split(collection, config(2, 2, 0), 0)
    assert (everything.train, everything.evaluation) == (split.train, split.evaluation)
    assert everything.test == ("q2", "q3", "q4", "q5", "q6", "q7")
    assert everything.provenance.left_out == 0


@pytest.mark.usefixtures("even_places")
def test_groups_of_two_by_hand(corpus: DiskCorpus) -> None:
    ids = [f"g{group}_{member}" for group in range(10) for member in range(2)]
    settings = {"group_pattern": GROUP.pattern, "mode": "paper", "carve_dev_queries": 1}
    split = make_split(judged(corpus, own_documents(ids)), config(3, 2, 3, **settings), 0)
    assert split.test == ("g4_0", "g5_0", "g5_1")
    assert split.train == ("g0_0", "g0_1", "g1_0")
    assert split.evaluation == ("g9_0", "g9_1")
    assert split.dev == ("g8_0",)
    rests = {"g4_1", "g1_1", "g8_1"}
    unopened = {f"g{group}_{member}" for group in (2, 3, 6, 7) for member in range(2)}
    assert set(split.left_out) == rests | unopened
    assert split.provenance.left_out == 11
    assert split.provenance.candidates == 20


@pytest.mark.usefixtures("even_places")
def test_documents_of_queries_without_a_role_may_be_augmented(corpus: DiskCorpus) -> None:
    qrels = own_documents([f"q{number}" for number in range(10)])
    qrels["q2"] = {"d2": 1, "d4": 1, "d50": 0}  # left out, and shares d4 with a test query
    collection = judged(corpus, qrels)
    free = make_split(collection, config(2, 2, 4), 0)
    forbidden = {3, 4, 5, 6, 8, 9}
    assert set(free.augment.tolist()) == set(range(DOCUMENTS)) - forbidden
    assert free.provenance.documents_kept_apart == len(forbidden)
    unjudged = make_split(collection, config(2, 2, 4, augment_from="unjudged"), 0)
    assert set(unjudged.augment.tolist()) == set(range(10, DOCUMENTS)) - {50}


def test_a_test_of_fixed_size_leaves_documents_where_all_are_judged(corpus: DiskCorpus) -> None:
    collection = judged(corpus, own_documents([f"q{number}" for number in range(DOCUMENTS)]))
    # 60 judged documents: all but those of S_train are evaluated when the test takes the rest.
    assert len(make_split(collection, config(10, 10, 0), 0).augment) == 10
    assert len(make_split(collection, config(10, 10, 20), 0).augment) == 60 - 10 - 20


def test_a_dev_share_that_the_mode_does_not_use_is_counted(corpus: DiskCorpus) -> None:
    collection = judged(corpus, own_documents([f"q{number}" for number in range(12)]))
    split = make_split(collection, config(2, 2, 0, carve_dev_queries=3), 0)
    assert len(split.left_out) == split.provenance.left_out == 3
    assert len(split.ledger) == 9


# Whatever the sizes ------------------------------------------------------------------------------

_QUERIES = st.lists(
    st.tuples(st.integers(0, 11), st.integers(0, 14), st.integers(0, DOCUMENTS - 11)),
    min_size=12,
    max_size=40,
)
"""Group, number of the text (equal ones join groups) and document of each query."""

_SIZES = st.tuples(*[st.integers(1, 6)] * 3, st.integers(0, 3))


def collection_of(
    corpus: DiskCorpus, rows: list[tuple[int, int, int]], *, equal_texts: bool
) -> Collection:
    ids = [f"g{group}_{number}" for number, (group, _, _) in enumerate(rows)]
    qrels = {
        query_id: {f"d{row[2]}": 1, f"d{row[2] + 3}": 0}
        for query_id, row in zip(ids, rows, strict=True)
    }
    texts = {
        query_id: f"text {row[1]}" if equal_texts and row[1] < 3 else f"text of {number}"
        for number, (query_id, row) in enumerate(zip(ids, rows, strict=True))
    }
    return judged(corpus, qrels, texts)


def dealt(collection: Collection, settings: SplitConfig, seed: int) -> Split | None:
    """The split, or nothing where the collection has too few queries."""
    try:
        return make_split(collection, settings, seed)
    except ConfigError as error:
        if "asked for" not in error.message:
            raise
        return None


def in_mode(dev: int) -> dict[str, Any]:
    mode = {"mode": "paper", "carve_dev_queries": dev} if dev else {}
    return {"group_pattern": GROUP.pattern, **mode}


def linked_groups(collection: Collection) -> dict[str, int]:
    """Query id → number of its group, by joining whatever shares a name or text until it holds."""
    number = {query_id: place for place, query_id in enumerate(collection.qrels["test"])}
    changed = True
    while changed:
        changed = False
        for one in number:
            for other in number:
                same = GROUP.match(one)[1] == GROUP.match(other)[1]  # type: ignore[index]
                same |= collection.queries[one].text == collection.queries[other].text
                if same and number[one] < number[other]:
                    number[other] = number[one]
                    changed = True
    return number


@given(rows=_QUERIES, sizes=_SIZES, equal_texts=st.booleans(), seed=st.integers(0, 5))
def test_roles_are_exact_disjoint_and_of_whole_groups(
    corpus: DiskCorpus,
    rows: list[tuple[int, int, int]],
    sizes: tuple[int, int, int, int],
    equal_texts: bool,
    seed: int,
) -> None:
    collection = collection_of(corpus, rows, equal_texts=equal_texts)
    train, evaluation, test, dev = sizes
    group = linked_groups(collection)
    split = dealt(collection, config(train, evaluation, test, **in_mode(dev)), seed)
    if split is None:
        # Every group opened brings a query at least, so more groups would have been enough.
        assert len(set(group.values())) < sum(sizes)
        return
    assert [len(split.train), len(split.evaluation), len(split.test)] == [train, evaluation, test]
    assert len(split.dev) == (dev or evaluation)
    roles: dict[int, set[str]] = {}
    for row in split.ledger:
        roles.setdefault(group[row.query_id], set()).add(row.role)
    assert all(len(found) == 1 for found in roles.values())
    # Nobody is lost: a query has a role or is left out, never both.
    everyone = [*(row.query_id for row in split.ledger), *split.left_out]
    assert sorted(everyone) == sorted(collection.qrels["test"])
    assert split.provenance.left_out == len(split.left_out)
    # Only the last group that a role opened can have a rest.
    with_rest = {group[query_id] for query_id in split.left_out} & set(roles)
    for role in ("train", "evaluation", "dev", "test"):
        assert sum(roles[name] == {role} for name in with_rest) <= 1
    evaluated = {*split.test, *split.evaluation, *split.dev}
    forbidden = {int(doc[1:]) for key in evaluated for doc in collection.qrels["test"][key]}
    assert set(split.augment.tolist()) == set(range(DOCUMENTS)) - forbidden


@given(
    rows=_QUERIES,
    test=st.integers(1, 8),
    one=_SIZES,
    other=_SIZES,
    equal_texts=st.booleans(),
    seed=st.integers(0, 5),
)
def test_the_test_stays_while_other_sizes_change(
    corpus: DiskCorpus,
    rows: list[tuple[int, int, int]],
    test: int,
    one: tuple[int, int, int, int],
    other: tuple[int, int, int, int],
    equal_texts: bool,
    seed: int,
) -> None:
    collection = collection_of(corpus, rows, equal_texts=equal_texts)
    found = [
        dealt(collection, config(train, evaluation, test, **in_mode(dev)), seed)
        for train, evaluation, _, dev in (one, other)
    ]
    first, second = found
    if first is None or second is None:
        return
    assert first.test == second.test
    # The two ends of the draw do not move each other either, and a larger one has the smaller.
    for before, after in ((first, second), (second, first)):
        if len(before.train) <= len(after.train):
            assert set(before.train) <= set(after.train)
        if len(before.evaluation) <= len(after.evaluation):
            assert set(before.evaluation) <= set(after.evaluation)


@given(rows=_QUERIES, sizes=_SIZES, more=st.integers(0, 4), seed=st.integers(0, 5))
def test_a_larger_test_has_the_smaller(
    corpus: DiskCorpus,
    rows: list[tuple[int, int, int]],
    sizes: tuple[int, int, int, int],
    more: int,
    seed: int,
) -> None:
    collection = collection_of(corpus, rows, equal_texts=True)
    train, evaluation, test, dev = sizes
    small = dealt(collection, config(train, evaluation, test, **in_mode(dev)), seed)
    large = dealt(collection, config(train, evaluation, test + more, **in_mode(dev)), seed)
    if small is not None and large is not None:
        assert set(small.test) <= set(large.test)


@given(rows=_QUERIES, sizes=_SIZES, equal_texts=st.booleans(), seed=st.integers(0, 5))
def test_without_a_size_the_roles_are_those_of_a_plain_deal(
    corpus: DiskCorpus,
    rows: list[tuple[int, int, int]],
    sizes: tuple[int, int, int, int],
    equal_texts: bool,
    seed: int,
) -> None:
    """S_train from the front of the draw, S_eval and dev from its back, test all the rest."""
    collection = collection_of(corpus, rows, equal_texts=equal_texts)
    train, evaluation, _, dev = sizes
    split = dealt(collection, config(train, evaluation, 0, **in_mode(dev)), seed)
    number = linked_groups(collection)
    groups: dict[int, list[str]] = {}
    for query_id, group in number.items():
        groups.setdefault(group, []).append(query_id)
    line = sorted(groups.values(), key=lambda group: splits._draw_key(seed, min(group)))
    roles: list[set[str]] = []
    for size, back in ((train, False), (evaluation, True), (dev, True)):
        role: set[str] = set()
        while line and len(role) < size:
            group_of_role = line.pop(-1 if back else 0)
            for query_id in sorted(group_of_role, key=lambda key: splits._draw_key(seed, key)):
                if len(role) < size:
                    role.add(query_id)
        roles.append(role)
    if not line:
        assert split is None
        return
    assert split is not None
    assert [set(split.train), set(split.evaluation)] == roles[:2]
    assert set(split.dev) == (roles[2] or roles[1])
    assert set(split.test) == {query_id for group in line for query_id in group}


def test_the_draw_of_a_seed_is_what_it_was(corpus: DiskCorpus) -> None:
    """Roles dealt before a test could have a size; runs made then must find them again."""
    ids = [f"g{group}_{member}" for group in range(6) for member in range(2)]
    split = make_split(
        judged(corpus, own_documents(ids)), config(3, 2, 0, group_pattern=GROUP.pattern), 42
    )
    assert split.train == ("g4_0", "g5_0", "g5_1")
    assert split.evaluation == ("g2_0", "g2_1")
    assert split.test == ("g0_0", "g0_1", "g1_0", "g1_1", "g3_0", "g3_1")


def test_the_order_of_the_file_does_not_matter(corpus: DiskCorpus) -> None:
    qrels = own_documents([f"g{number % 7}_{number}" for number in range(21)])
    settings = config(4, 4, 5, group_pattern=GROUP.pattern)
    turned = judged(corpus, dict(reversed(qrels.items())))
    assert make_split(turned, settings, 3) == make_split(judged(corpus, qrels), settings, 3)
    assert make_split(turned, settings, 4).test != make_split(turned, settings, 3).test


# Errors, records ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((2, 2, 30), "12 groups; 34 are asked for, 24 left for test."),
        ((9, 2, 13), "12 groups; 24 are asked for, 0 left for S_eval."),
        ((11, 2, 14), "12 groups; 27 are asked for, 10 left for S_train."),
        ((2, 23, 0), "12 groups; 25 are asked for, 0 left for test."),
    ],
)
def test_too_few_queries(corpus: DiskCorpus, sizes: tuple[int, int, int], message: str) -> None:
    ids = [f"g{group}_{member}" for group in range(12) for member in range(2)]
    collection = judged(corpus, own_documents(ids))
    with pytest.raises(ConfigError) as caught:
        make_split(collection, config(*sizes, group_pattern=GROUP.pattern), 0)
    assert message in caught.value.message
    assert "Split 'test' has 24 queries" in caught.value.message
    assert "`split.carve_test_queries`" in str(caught.value.hint)


def test_a_size_without_a_split_to_deal_out() -> None:
    values = {"data": {"source": "x"}, "split": {"carve_test_queries": 5}, "methods": ["bm25"]}
    with pytest.raises(ConfigError, match="`carve_test_queries` works only with") as caught:
        parse_config(values)
    assert "leave `carve_test_queries` out" in caught.value.message


def test_artefacts_of_configs_without_the_setting_stay_valid() -> None:
    assert "carve_test_queries" not in result_settings(SplitConfig())
    assert result_settings(config(1, 1, 7))["carve_test_queries"] == 7


def test_a_record_from_before_the_count(corpus: DiskCorpus, tmp_path: Path) -> None:
    collection = judged(corpus, own_documents([f"q{number}" for number in range(12)]))
    split = make_split(collection, config(2, 2, 3), 0)
    split.save(tmp_path)
    assert Split.load(tmp_path) == split
    record = json.loads((tmp_path / "split.json").read_text())
    assert record["provenance"].pop("left_out") == 5
    (tmp_path / "split.json").write_text(json.dumps(record))
    assert Split.load(tmp_path) == split
