"""The cut-off that dev prefers, and which one where dev prefers none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sptar.steps.base import Context, Output
from sptar.steps.train import ChooseStep
from sptar.workspace import Artefact, Workspace


def trained(workspace: Workspace, k: int, score: float) -> Artefact:
    """A finished training with this dev score; its model is a file that names the cut-off."""
    folder = workspace.folder("train", f"k{k}")
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "k.txt").write_text(str(k))
    (folder / "history.json").write_text("[]")
    return workspace.finish(
        "train",
        1,
        f"k{k}",
        settings={},
        inputs={},
        summary={"best_dev_score": score, "retriever": "dpr"},
        seconds=0.0,
        resumed=False,
        versions={},
    )


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({10: 0.5, 30: 0.5, 70: 0.5}, 10),
        ({10: 0.4, 30: 0.5, 70: 0.5}, 30),
        ({10: 0.4, 30: 0.3, 70: 0.5}, 70),
    ],
)
def test_the_best_cut_off_is_kept_and_on_a_tie_the_smallest(
    tmp_path: Path, scores: dict[int, float], chosen: int
) -> None:
    workspace = Workspace(tmp_path)
    # The order in which the candidates stand must not decide.
    order: list[Any] = [(k, None) for k in sorted(scores, reverse=True)]
    inputs = {f"train_{k}": trained(workspace, k, scores[k]) for k, _ in order}
    output = Output(tmp_path / "out")
    output.folder.mkdir()
    summary = ChooseStep(train=tuple(order)).build(output, inputs, Context(workspace))
    assert summary["k"] == chosen
    assert (output.path("model") / "k.txt").read_text() == str(chosen)
    assert json.loads(output.path("choice.json").read_text())["k"] == chosen
