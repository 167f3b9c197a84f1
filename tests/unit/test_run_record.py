"""The record of a run: read back as it was written, also when it is an old one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sptar.errors import WorkspaceError
from sptar.io import write_json
from sptar.pipeline import RunRecord, load_record
from sptar.serve.answer import choose_method
from sptar.workspace import Workspace

OLD: dict[str, Any] = {
    "name": "old",
    "finished": True,
    "config": {"train": {"retriever": "dpr"}},
    "methods": {"bm25": {"bm25_search": "1"}, "sptar": {"dense_search": "2"}},
    "steps": [{"name": "train", "fingerprint": "3", "reused": False, "seconds": 1.0}],
}


def several(*names: str) -> RunRecord:
    parts: dict[str, dict[str, str | None]] = {}
    for name in names:
        method, _, retriever = name.partition("/")
        parts[name] = {"method": method.partition("@")[0], "retriever": retriever or None}
    return RunRecord("x", {}, methods={name: {} for name in names}, parts=parts)


def test_an_old_record_has_one_retriever(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_json(workspace.run_folder("old") / "run.json", OLD)
    record = load_record(workspace, "old")
    assert record.parts == {}
    assert record.left_out == {}
    assert (record.retriever("bm25"), record.retriever("sptar")) == (None, "dpr")
    assert choose_method(record) == "sptar"
    with pytest.raises(WorkspaceError, match="no method 'inpars'"):
        record.artefact(workspace, "inpars", "train")


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (("bm25", "zero_shot/dpr", "sptar/dpr", "sptar/colbert"), None, "sptar/dpr"),
        (("bm25", "zero_shot/dpr", "sptar/dpr", "sptar/colbert"), "sptar/colbert", "sptar/colbert"),
        (("bm25", "zero_shot/dpr", "sptar/dpr"), "zero_shot", "zero_shot/dpr"),
        (("bm25", "sptar@k=5/dpr", "sptar@k=9/dpr"), "sptar@k=9", "sptar@k=9/dpr"),
        (("bm25", "sptar@k=5/dpr", "sptar@k=9/dpr"), "sptar", "sptar@k=5/dpr"),
        (("bm25", "inpars/dpr", "inpars/colbert"), None, "inpars/colbert"),
        (("bm25", "sptar/dpr"), "bm25", "bm25"),
        (("bm25",), None, "bm25"),
        (("bm25", "sptar/dpr"), "sptra", "sptra"),
    ],
)
def test_which_method_answers(names: tuple[str, ...], wanted: str | None, chosen: str) -> None:
    assert choose_method(several(*names), wanted) == chosen
