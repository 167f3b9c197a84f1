"""Rows that were written elsewhere: each value is checked, with file and line."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sptar.config import DataConfig, SplitConfig
from sptar.errors import DataError
from sptar.identity import HashCache
from sptar.io import read_jsonl
from sptar.steps.base import Context, make
from sptar.steps.collection import CollectionStep, source_identity
from sptar.steps.import_weak import ImportWeakStep
from sptar.steps.split import SplitStep
from sptar.workspace import Workspace


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, SplitStep, str]:
    """Collection and split of the toy collection, and a document that may be augmented."""
    source = str(resources.files("sptar.starter") / "toy_collection")
    data = DataConfig(source=source)
    context = Context(Workspace(tmp_path_factory.mktemp("work")))
    collection = CollectionStep(data=data, identity=source_identity(data, HashCache()))
    split = SplitStep(
        collection=collection, split=SplitConfig(train_queries=6, eval_queries=5), seed=7
    )
    inputs = {step.name: make(step, context).artefact for step in (collection, split)}
    from sptar.steps.resources import open_collection, open_split

    corpus = open_collection(inputs, context).corpus
    return context, split, corpus[int(open_split(inputs, context).augment[0])].doc_id


def imported(steps: tuple[Context, SplitStep, str], file: Path, rows: list[str]) -> list[Any]:
    context, split, doc_id = steps
    file.write_text("".join(row.replace("DOC", doc_id) + "\n" for row in rows))
    step = ImportWeakStep(
        collection=split.collection,
        split=split,
        file=str(file),
        file_hash=HashCache().content(file),
    )
    made = make(step, context).artefact
    return [row for _, row in read_jsonl(made.path("weak_queries.jsonl"))]


GOOD = '{"doc_id": "DOC", "text": "a query"}'


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("attempts", value) for value in ['"three"', "1.5", "0", "-1", "[1]", "true", "NaN"]),
        *(
            ("log_probability", value)
            for value in ['"low"', "NaN", "-Infinity", "1e999", "true", "[-1]", "-1" + "0" * 400]
        ),
        *(("query_id", value) for value in ["[1]", "true", "1.5", r'"\ud800"']),
        ("text", r'"half \udfff a character"'),
    ],
)
def test_a_wrong_value_is_told_with_file_and_line(steps, tmp_path: Path, field: str, value: str):
    row = json.loads(GOOD)
    row.pop(field, None)
    odd = json.dumps(row)[:-1] + f', "{field}": {value}}}'
    with pytest.raises(DataError, match=rf"mine\.jsonl:2: .*{field}"):
        imported(steps, tmp_path / "mine.jsonl", [GOOD, odd])


def test_what_is_given_is_kept_and_may_be_left_out(steps, tmp_path: Path) -> None:
    full = '{"doc_id": "DOC", "text": "b", "query_id": 7, "attempts": 2, "log_probability": -3}'
    rows = imported(steps, tmp_path / "mine.jsonl", [GOOD, full])
    assert [row["query_id"] for row in rows] == ["weak:mine-1", "weak:7"]
    assert [row["attempts"] for row in rows] == [1, 2]
    assert [row["log_probability"] for row in rows] == [None, -3.0]
