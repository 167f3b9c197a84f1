"""The examples of the prompt through the command line: both searches, broken off and taken up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sptar.cli.app import run_application
from sptar.llm.engine.scoring import PromptedScorer
from sptar.weak.select import load_selection

MakeConfig = Callable[..., Path]


class KilledError(BaseException):
    """Stands for a kill: nothing in the package handles it."""


def selected(work: Path) -> Path:
    (path,) = work.glob("artefacts/select-*/selection.json")
    return path


def select(config: Path, work: Path) -> Path:
    assert run_application(["select", str(config), "--work", str(work)]) == 0
    return selected(work)


@pytest.mark.parametrize(
    "settings", [{}, {"search": "halving", "halving_pairs": 2}], ids=["exhaustive", "halving"]
)
def test_a_broken_off_search_is_taken_up(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    config = make_config("select", methods=["sptar"], select=settings)
    calm = select(config, tmp_path / "calm")
    asked: list[int] = []
    whole = PromptedScorer.query_losses
    left = 4

    def counted(self: PromptedScorer, examples: Any, pairs: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError
        asked.append(len(pairs))
        return whole(self, examples, pairs)

    monkeypatch.setattr(PromptedScorer, "query_losses", counted)
    with pytest.raises(KilledError):
        select(config, tmp_path / "stormy")
    left = 1000
    stormy = select(config, tmp_path / "stormy")
    assert stormy.read_bytes() == calm.read_bytes()
    selection = load_selection(calm)
    # Nothing was scored twice, and the file tells how much was scored.
    assert sum(asked) == sum(row.pairs or 0 for row in selection.groups)
    assert selection.exhaustive == (not settings)
    assert [row.pairs for row in selection.groups] == (
        [5, 5, 4, 2, 2, 2] if settings else [5, 5, 5, 5, 5, 5]
    )
    manifest = json.loads((stormy.parent / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["summary"]["query_losses"] == sum(asked)
    assert (manifest["summary"]["worst_loss"] is None) == bool(settings)
