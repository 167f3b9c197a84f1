from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sptar.config import SplitConfig
from sptar.data.collection import Collection
from sptar.data.labelled import pairs
from sptar.data.splits import Split, make_split
from sptar.data.unlabelled import refuse_none
from sptar.errors import ConfigError, WorkspaceError

TRAIN, DEV, TEST = 40, 20, 15


def rows_of(split: str, size: int, start: int) -> list[tuple[str, str, int]]:
    """Each query has a positive document, every third a second one and a 0-judged one."""
    rows = []
    for number in range(size):
        first = start + 3 * number
        rows.append((f"{split}{number}", f"d{first}", 1))
        if number % 3 == 0:
            rows.append((f"{split}{number}", f"d{first + 1}", 2))
            rows.append((f"{split}{number}", f"d{first + 2}", 0))
    return rows


@pytest.fixture
def collection(build) -> Collection:
    sizes = {"train": TRAIN, "dev": DEV, "test": TEST}
    queries = {
        f"{split}{n}": f"{split} question {n}" for split, size in sizes.items() for n in range(size)
    }
    qrels = {
        "train": rows_of("train", TRAIN, 0),
        "dev": rows_of("dev", DEV, 3 * TRAIN),
        "test": rows_of("test", TEST, 3 * (TRAIN + DEV)),
    }
    return build(400, queries, qrels)


def config(**settings: object) -> SplitConfig:
    return SplitConfig.model_validate({"train_queries": 10, "eval_queries": 12, **settings})


def judged_positions(collection: Collection, query_ids) -> set[int]:
    return {
        collection.corpus.position(doc_id)
        for qrels in collection.qrels.values()
        for query_id, judged in qrels.items()
        if query_id in set(query_ids)
        for doc_id in judged
    }


def test_few_shot_touches_no_other_label(collection: Collection) -> None:
    split = make_split(collection, config(), 7)
    assert len(split.train) == 10
    assert len(split.evaluation) == 12
    assert split.dev == split.evaluation
    assert len(split.test) == TEST
    assert all(query_id.startswith("train") for query_id in split.train + split.evaluation)
    assert not set(split.train) & set(split.evaluation)
    used = split.labels_used()
    assert used.queries == 22
    assert used.positive_pairs == len(pairs(collection, split.train + split.evaluation))
    assert [role.queries for role in used.roles] == [10, 12, 0]
    assert split.test_labels.queries == TEST
    assert split.test_labels.positive_pairs == TEST + 5
    assert len(split.ledger) == len({row.query_id for row in split.ledger}) == 22 + TEST


def test_paper_mode_chooses_on_the_rest_of_dev(collection: Collection) -> None:
    split = make_split(collection, config(mode="paper", eval_from="dev"), 7)
    assert len(split.dev) == DEV - 12
    assert not set(split.dev) & set(split.evaluation)
    assert set(split.dev) | set(split.evaluation) == set(collection.qrels["dev"])
    assert split.labels_used().queries == 10 + DEV
    assert {row.role for row in split.ledger} == {"train", "evaluation", "dev", "test"}


def test_the_draw_is_nested_and_its_parts_do_not_move_each_other(collection: Collection) -> None:
    small = make_split(collection, config(train_queries=5), 7)
    large = make_split(collection, config(train_queries=25), 7)
    assert set(small.train) < set(large.train)
    assert small.evaluation == large.evaluation
    more = make_split(collection, config(train_queries=5, eval_queries=20), 7)
    assert more.train == small.train
    assert set(small.evaluation) < set(more.evaluation)
    assert make_split(collection, config(train_queries=5), 8).train != small.train
    assert make_split(collection, config(train_queries=5), 7) == small


def test_the_order_of_the_files_does_not_matter(collection: Collection) -> None:
    turned = Collection(
        collection.corpus,
        dict(reversed(collection.queries.items())),
        {name: dict(reversed(qrels.items())) for name, qrels in collection.qrels.items()},
    )
    for settings in ({}, {"mode": "paper"}, {"carve_from": "train", "eval_queries": 5}):
        assert make_split(turned, config(**settings), 1) == make_split(
            collection, config(**settings), 1
        )


def test_sampling_is_even() -> None:
    """Over many seeds each query is drawn about equally often."""
    from sptar.data.splits import _draw_key

    counts = np.zeros(20)
    for seed in range(2000):
        order = sorted(range(20), key=lambda number: _draw_key(seed, f"q{number}"))
        counts[order[:5]] += 1
    assert abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


@pytest.mark.parametrize("mode", ["few_shot", "paper"])
@pytest.mark.parametrize("augment_from", ["unjudged", "not_evaluated"])
@pytest.mark.parametrize("carve", [False, True])
def test_no_document_judged_for_test_is_augmented(
    collection: Collection, mode: str, augment_from: str, carve: bool
) -> None:
    settings: dict[str, object] = {"mode": mode, "augment_from": augment_from, "eval_queries": 8}
    if carve:
        settings.update(carve_from="train", carve_dev_queries=6)
    split = make_split(collection, config(**settings), 3)
    chosen = set(split.augment.tolist())
    forbidden = judged_positions(collection, [*split.test, *split.evaluation, *split.dev])
    assert not chosen & forbidden
    train = judged_positions(collection, split.train)
    if augment_from == "unjudged":
        assert chosen == set(range(400)) - judged_positions(collection, collection.queries)
    else:
        assert chosen == set(range(400)) - forbidden
        assert train <= chosen
    # A grade of 0 forbids as well: such documents exist in this collection.
    zero = {
        collection.corpus.position(doc_id)
        for query_id in split.test
        for doc_id, grade in collection.judgements([query_id])[query_id].items()
        if grade == 0
    }
    assert zero
    assert not zero & chosen


def test_a_document_of_train_and_test_is_never_augmented(build) -> None:
    queries = {f"{name}{n}": f"{name} {n}" for name in ("train", "test") for n in range(4)}
    train = [(f"train{n}", f"d{n}", 1) for n in range(4)]
    test = [(f"test{n}", f"d{n}", 1) for n in range(3)] + [("test3", "d9", 0)]
    collection = build(12, queries, {"train": train, "test": test})
    split = make_split(
        collection, config(train_queries=2, eval_queries=1, augment_from="not_evaluated"), 0
    )
    assert split.test == ("test0", "test1", "test2")
    assert split.provenance.test_without_positive == 1
    # d9 is judged 0 for a test query that cannot be scored; it stays out all the same.
    assert not set(split.augment.tolist()) & {0, 1, 2, 9}


def test_documents_are_sampled_by_seed_nested_and_sorted(collection: Collection) -> None:
    everything = make_split(collection, config(), 7).augment
    large = make_split(collection, config(max_documents=50), 7).augment
    small = make_split(collection, config(max_documents=20), 7).augment
    assert large.dtype == np.int64
    assert len(large) == 50
    assert set(small.tolist()) < set(large.tolist()) < set(everything.tolist())
    assert (np.diff(large) > 0).all()
    assert (np.diff(everything) > 0).all()
    other = make_split(collection, config(max_documents=50), 8).augment
    assert not np.array_equal(other, large)
    assert np.array_equal(
        make_split(collection, config(max_documents=10_000), 7).augment, everything
    )


def test_queries_without_positive_or_text_are_no_candidates(build) -> None:
    queries = {"a": "one", "b": "two", "c": "three", "d": " ", "t": "test"}
    train = [("a", "d0", 1), ("b", "d1", 0), ("c", "d2", 1), ("d", "d3", 1)]
    collection = build(8, queries, {"train": train, "test": [("t", "d4", 1)]})
    split = make_split(collection, config(train_queries=1, eval_queries=1), 0)
    assert {*split.train, *split.evaluation} == {"a", "c"}
    assert split.provenance.candidates == 2
    assert split.provenance.without_positive == 2


def test_leakage_by_id_and_by_text_is_left_out_and_counted(build) -> None:
    queries = {
        "a": "One?",
        "b": " two  words",
        "c": "three",
        "d": "four",
        "e": "Three!",
        "t1": "one",
        "t2": "Two words.",
    }
    train = [(key, f"d{n}", 1) for n, key in enumerate(["a", "b", "c", "d", "e", "t1"])]
    test = [("t1", "d7", 1), ("t2", "d8", 1)]
    collection = build(12, queries, {"train": train, "test": test})
    split = make_split(collection, config(train_queries=1, eval_queries=1), 0)
    used = {*split.train, *split.evaluation}
    assert "d" in used
    assert len(used & {"c", "e"}) == 1  # equal texts are one query
    assert split.provenance.same_text_as_test == 2
    assert split.provenance.also_in_test == 1
    assert split.provenance.repeated_text == 1
    assert split.test == ("t1", "t2")


def groups_collection(build, groups: int = 20, size: int = 3) -> Collection:
    queries, rows = {}, []
    for group in range(groups):
        for member in range(size):
            queries[f"q{group}_{member}"] = f"group {group} member {member}"
            rows.append((f"q{group}_{member}", f"d{group}", 1))
    return build(40, queries, {"test": rows})


@pytest.mark.parametrize("seed", range(5))
def test_carving_keeps_groups_together_and_sizes_exact(build, seed: int) -> None:
    collection = groups_collection(build)
    split = make_split(
        collection,
        config(
            carve_from="test",
            group_pattern=r"^(q\d+)_",
            carve_dev_queries=4,
            mode="paper",
            augment_from="not_evaluated",
        ),
        seed,
    )
    assert [len(split.train), len(split.evaluation), len(split.dev)] == [10, 12, 4]
    roles: dict[str, set[str]] = {}
    for row in split.ledger:
        roles.setdefault(row.query_id.split("_")[0], set()).add(row.role)
    assert all(len(found) == 1 for found in roles.values())
    assert len(split.left_out) == 2 + 0 + 2
    assert len(split.test) == 60 - 10 - 12 - 4 - 4
    assert not {row.query_id for row in split.ledger} & set(split.left_out)


def test_carving_keeps_equal_texts_together_across_groups(build) -> None:
    queries = {"g1_a": "same text", "g1_b": "x", "g2_a": "Same  text?", "g2_b": "y"}
    queries.update({f"g{n}_a": f"text {n}" for n in range(3, 9)})
    rows = [(key, f"d{number}", 1) for number, key in enumerate(queries)]
    collection = build(20, queries, {"test": rows})
    for seed in range(12):
        split = make_split(
            collection,
            config(train_queries=2, eval_queries=2, carve_from="test", group_pattern="^(g.)_"),
            seed,
        )
        roles = {row.query_id: row.role for row in split.ledger}
        roles.update(dict.fromkeys(split.left_out, "left_out"))
        found = {roles[key] for key in ("g1_a", "g1_b", "g2_a", "g2_b")} - {"left_out"}
        assert len(found) == 1


def test_pairs_are_all_positives_in_a_fixed_order(build) -> None:
    rows = [("b", "d3", 1), ("b", "d1", 3), ("b", "d2", 0), ("a", "d5", -1), ("a", "d4", 1)]
    collection = build(8, {"a": "A", "b": "B", "t": "T"}, {"train": rows, "test": [("t", "d7", 1)]})
    found = [(pair.query.query_id, pair.document.doc_id) for pair in pairs(collection, ["b", "a"])]
    assert found == [("b", "d1"), ("b", "d3"), ("a", "d4")]
    assert pairs(collection, ["b"])[0].document.text == "document number 1"


def test_saved_and_loaded(tmp_path: Path, collection: Collection) -> None:
    split = make_split(collection, config(mode="paper"), 7)
    split.save(tmp_path / "split")
    loaded = Split.load(tmp_path / "split")
    assert loaded == split
    assert loaded.labels_used() == split.labels_used()
    assert loaded.ledger == split.ledger
    first = {path.name: path.read_bytes() for path in (tmp_path / "split").iterdir()}
    make_split(collection, config(mode="paper"), 7).save(tmp_path / "split")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "split").iterdir()}
    (tmp_path / "split" / "augment.npy").unlink()
    with pytest.raises(WorkspaceError, match="not complete"):
        Split.load(tmp_path / "split")


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"train_from": "trian"}, "it has: dev, test, train", "split.train_from: train"),
        ({"eval_from": "validation"}, "`split.eval_from` is 'validation'", "split.eval_from: dev"),
        ({"mode": "paper", "dev_from": "val"}, "`split.dev_from` is 'val'", "split.mode: few_shot"),
        ({"carve_from": "all"}, "`split.carve_from` is 'all'", "split.carve_from: dev"),
        ({"train_from": "test"}, "both 'test'", "split.carve_from: test"),
        ({"train_queries": 41}, "has 40 that can be used", "split.train_queries: 13"),
        ({"train_queries": 35}, "has 5 left", "split.eval_queries: 5"),
        ({"train_queries": 40}, "has 0 left", "split.eval_from: dev"),
        ({"carve_from": "dev"}, "20 queries with a positive", "split.train_queries"),
        ({"carve_from": "train", "group_pattern": "^x(.)"}, "names no group", "parentheses"),
    ],
)
def test_errors_say_what_to_set(
    collection: Collection, settings: dict[str, object], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_split(collection, config(**settings), 0)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_one_split_only_suggests_carving(build) -> None:
    with pytest.raises(ConfigError, match=r"split.carve_from: test"):
        make_split(groups_collection(build), config(), 0)


def test_no_document_left(build) -> None:
    collection = build(
        3,
        {"a": "1", "b": "2", "t": "3"},
        {"train": [("a", "d0", 1), ("b", "d1", 1)], "test": [("t", "d2", 1)]},
    )
    # Only a method that writes needs one: the split is made, and whoever writes refuses it.
    few = config(train_queries=1, eval_queries=1)
    split = make_split(collection, few, 0)
    assert len(split.augment) == 0
    with pytest.raises(ConfigError, match="augment_from: not_evaluated"):
        refuse_none(0, few)
    with pytest.raises(ConfigError, match="augment_from: all"):
        refuse_none(0, few.model_copy(update={"augment_from": "not_evaluated"}))
    refuse_none(1, few)


@pytest.mark.parametrize(("source", "left"), [("unjudged", 1), ("not_evaluated", 2), ("all", 4)])
def test_documents_that_may_be_augmented(build, source: str, left: int) -> None:
    collection = build(
        4,
        {"a": "1", "b": "2", "t": "3"},
        {"train": [("a", "d0", 1), ("b", "d1", 1)], "test": [("t", "d2", 1)]},
    )
    split = make_split(collection, config(train_queries=1, eval_queries=1, augment_from=source), 0)
    assert len(split.augment) == left
    assert split.provenance.documents_kept_apart == 4 - left


def test_pairs_of_a_query_are_bounded_by_a_draw_of_its_own(build) -> None:
    many = [("a", f"d{number}", 1) for number in range(30)] + [("b", "d3", 1), ("b", "d4", 0)]
    collection = build(30, {"a": "1", "b": "2"}, {"train": many})
    everything = pairs(collection, ["a", "b"])
    assert len(everything) == 31
    assert pairs(collection, ["a", "b"], 30) == everything

    def drawn(count: int, seed: int = 1, ids: tuple[str, ...] = ("a", "b")) -> list[str]:
        made = pairs(collection, ids, count, seed)
        assert all(pair in everything for pair in made)
        return [pair.document.doc_id for pair in made if pair.query.query_id == "a"]

    assert [len(drawn(count)) for count in (1, 4, 29)] == [1, 4, 29]
    assert set(drawn(1)) < set(drawn(4)) < set(drawn(29))
    assert drawn(4) == sorted(drawn(4)) == drawn(4, ids=("a",))
    assert len({tuple(drawn(4, seed)) for seed in range(10)}) > 5
    # The other query has one relevant document and keeps it.
    assert pairs(collection, ["b"], 1) == everything[-1:]
