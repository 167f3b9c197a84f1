"""The collections that lie beside a checkout, if they do: counts, splits, round trips."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sptar.config import DataConfig, SplitConfig
from sptar.data.collection import Collection
from sptar.data.overlap import find_overlap
from sptar.data.sources import convert
from sptar.data.splits import make_split

SHARED = Path(__file__).parents[3] / "../shared/data"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the real collections are not here")

COUNTS = {
    "scifact": (5183, {"train": 809, "test": 300}, 0),
    "mlquestions": (9204, {"dev": 1500, "test": 1500}, 0),
    "cosqa": (6267, {"dev": 500, "test": 500}, 0),
    "cranfield": (1400, {"test": 225}, 2),
    "stackfaq": (719, {"test": 1249}, 0),
    "msmarco_mini": (7249, {"train": 49, "dev": 128, "test": 1951}, 0),
}


def opened(name: str, folder: Path) -> Collection:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not here")
    convert(DataConfig(source=str(SHARED / name)), folder)
    return Collection.open(folder)


@pytest.mark.parametrize("name", COUNTS)
def test_a_collection_converts_cleanly_and_keeps_every_row(name: str, tmp_path: Path) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not here")
    documents, splits, empty = COUNTS[name]
    report = convert(DataConfig(source=str(SHARED / name)), tmp_path)
    assert report.ok
    assert report.documents == documents
    assert {split.name: split.queries for split in report.splits} == splits
    assert report.empty_documents == empty
    collection = Collection.open(tmp_path)
    with (SHARED / name / "corpus.jsonl").open(encoding="utf-8") as stream:
        for position, line in enumerate(stream):
            row = json.loads(line)
            found = collection.corpus[position]
            assert (found.doc_id, found.title, found.text) == (
                row["_id"],
                row["title"],
                row["text"],
            )
    for split in splits:
        original = (SHARED / name / "qrels" / f"{split}.tsv").read_text(encoding="utf-8")
        assert (tmp_path / "qrels" / f"{split}.tsv").read_text(encoding="utf-8") == original


def test_scifact(tmp_path: Path) -> None:
    collection = opened("scifact", tmp_path)
    split = make_split(collection, SplitConfig(), 42)
    assert (len(split.train), len(split.evaluation), len(split.test)) == (50, 100, 300)
    judged = {d for qrels in collection.qrels.values() for found in qrels.values() for d in found}
    assert len(split.augment) == 5183 - len(judged)
    assert not {collection.corpus.doc_id(int(position)) for position in split.augment} & judged


def test_stackfaq_by_thread(tmp_path: Path) -> None:
    collection = opened("stackfaq", tmp_path)
    config = SplitConfig(
        carve_from="test",
        group_pattern=r"^q(\d+)_",
        train_queries=53,
        eval_queries=97,
        carve_dev_queries=55,
        mode="paper",
        augment_from="not_evaluated",
    )
    split = make_split(collection, config, 42)
    assert (len(split.train), len(split.evaluation), len(split.dev)) == (53, 97, 55)
    roles: dict[str, set[str]] = {}
    for row in split.ledger:
        found = re.match(r"q(\d+)_", row.query_id)
        assert found is not None
        roles.setdefault(found.group(1), set()).add(row.role)
    assert len(roles) > 100
    assert all(len(found) == 1 for found in roles.values())
    assert len(split.ledger) + len(split.left_out) == 1249


def test_stackfaq_with_a_test_of_fixed_size(tmp_path: Path) -> None:
    """Every document of it is judged; those of queries without a role are left to augment."""
    collection = opened("stackfaq", tmp_path)
    config = SplitConfig(
        carve_from="test",
        group_pattern=r"^(.*)_",
        train_queries=50,
        eval_queries=50,
        carve_test_queries=500,
        augment_from="not_evaluated",
    )
    split = make_split(collection, config, 42)
    assert (len(split.train), len(split.evaluation), len(split.test)) == (50, 50, 500)
    assert split.provenance.left_out == 1249 - 600
    larger = make_split(collection, config.model_copy(update={"train_queries": 300}), 42)
    assert larger.test == split.test
    assert set(split.train) < set(larger.train)
    everything = make_split(collection, config.model_copy(update={"carve_test_queries": 0}), 42)
    assert (everything.train, everything.evaluation) == (split.train, split.evaluation)
    assert len(everything.augment) < len(split.augment)


def test_published_weak_queries_overlap_little_with_the_test(tmp_path: Path) -> None:
    collection = opened("msmarco_mini", tmp_path)
    path = SHARED / "msmarco_mini" / "weak_llama7b" / "x100.jsonl"
    texts = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]
    report = find_overlap(texts, [collection.queries[key] for key in collection.qrels["test"]])
    assert report.texts == len(texts) >= 4900
    assert (report.exact, report.near) == (2, 5)
