"""What a run would do and how long it would take, before it does it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sptar.cli.app import run_application
from sptar.steps import trial_times

MakeConfig = Callable[..., Path]


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run_application([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def summary_of(work: Path, step: str) -> Any:
    (folder,) = (work / "artefacts").glob(f"{step}-*")
    return json.loads((folder / "manifest.json").read_text())["summary"]


@pytest.mark.parametrize("asked", ["all", 1000])
def test_a_plan_says_how_long_the_whole_run_takes_and_what_it_leaves_out(
    make_config: MakeConfig,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
    asked: str | int,
) -> None:
    """With rates that are set, every figure is checked by hand."""
    monkeypatch.setattr(trial_times, "_rates", lambda *given: trial_times._Rates(2.0, 7.0, 0.5))
    monkeypatch.setattr(trial_times, "_second_time", lambda work: 3.0)
    config = make_config(
        methods=["bm25", "no_augmentation", "sptar"],
        retrievers=["dpr", "bm25ce"],
        recipes={"bm25ce": {"epochs": 1}},
        train={"dev_negatives": 3, "steps_per_epoch": 5},
        search={"rerank_depth": 10},
        select={"groups": asked},
    )
    line = ["plan", str(config), "--work", str(tmp_path)]
    planned = json_of(capsys, *line)
    times = {found["name"]: found for found in planned["times"]}
    assert list(times) == ["tune", "select", "augment", "train", "encode", "rerank"]
    roles = summary_of(tmp_path, "split")["roles"]
    dev, test = roles["dev"]["queries"], roles["test"]["queries"]
    # Each pair of S_train is a group, however many are asked for, scored on all of S_eval; up to
    # 16 of it took 3 seconds.
    groups, pairs = roles["train"]["pairs"], roles["evaluation"]["pairs"]
    assert times["select"]["seconds"] == pytest.approx(groups * pairs * 3 / min(pairs, 16))
    # Two methods train two rows: 5 batches of 4 pairs an epoch, 2 seconds a pair and 7 a step; dev
    # is read once more often than there are epochs.
    documents = dev * (1 + 3)
    dpr = 2 * 5 * (4 * 2.0 + 7.0) + (2 + 1) * documents * 0.5
    cross_encoder = 1 * 5 * (4 * 2.0 + 7.0) + (1 + 1) * dev * min(documents, 100) * 0.5
    assert times["train"]["steps"] == 4
    assert times["train"]["seconds"] == pytest.approx(2 * (dpr + cross_encoder))
    assert times["rerank"]["seconds"] == pytest.approx(2 * test * 10 * 0.5)
    assert times["tune"]["seconds"] > 0
    assert set(planned["not_counted"]) == {
        *("bm25_index", "rank", "filter", "pairs", "mine"),
        *("bm25_search", "search", "evaluate", "compare"),
    }
    assert not [*(tmp_path / "artefacts").glob("tune-*")]
    assert run_application(line) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"Time: tune .*, train .* \(4 steps\), .*; about .* in all\.", told)
    assert "Not counted: bm25_index, " in told


@pytest.mark.parametrize("row", ["dpr", "colbert", "splade", "tas_b", "static", "bm25ce"])
def test_a_plan_tries_every_kind_of_retriever(
    make_config: MakeConfig, tmp_path: Path, capsys: Any, row: str
) -> None:
    config = make_config(methods=["no_augmentation"], retrievers=[row])
    planned = json_of(capsys, "plan", str(config), "--work", str(tmp_path))
    found = {time["name"]: time["seconds"] for time in planned["times"]}
    assert found.keys() == {"train", "rerank" if row == "bm25ce" else "encode"} | (
        {"encode"} if row == "tas_b" else set()
    )
    assert all(seconds > 0 for seconds in found.values())


def test_a_plan_gives_virtual_tokens_only_to_prompts_that_have_them(
    make_config: MakeConfig, tmp_path: Path, capsys: Any
) -> None:
    def cache(method: str, tokens: int) -> int:
        config = make_config(methods=[method], tune={"virtual_tokens": tokens, "epochs": 2})
        planned = json_of(capsys, "plan", str(config), "--work", str(tmp_path))
        return int(planned["probe"]["cache_bytes"])

    assert cache("inpars", 4) == cache("inpars", 40)
    # Two layers, two key/value heads of width 8, keys and values, four bytes, four rows a batch.
    assert cache("sptar", 40) - cache("sptar", 4) == 36 * (2 * 2 * 2 * 8 * 4) * 4
    assert cache("sptar", 4) - cache("inpars", 4) == 4 * (2 * 2 * 2 * 8 * 4) * 4
