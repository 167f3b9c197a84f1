"""What could be known at the start is said at the start, by ``run`` and by ``plan``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sptar.cli.app import run_application

MakeConfig = Callable[..., Path]

KNOWN_FROM_THE_CONFIG = [
    ({"evaluate": {"measures": ["nDCG@10", "nCDG@10"]}}, "unknown measure 'nCDG@10'"),
    ({"evaluate": {"measures": ["nDCG@10", "R@0"]}}, "measure 'R@0' has a cut-off below 1"),
    ({"evaluate": {"measures": ["nDCG@99999999999999999999"]}}, "has a number above 10,000,000"),
    ({"filter": {"language": "klingon"}}, "There is no stemmer for the language 'klingon'"),
    ({"train": {"device": "meta"}}, "`train.device: meta` is asked for, but torch cannot"),
    ({"train": {"device": "abacus"}}, "`train.device: abacus` names no device"),
    ({"recipes": {"dpr": {"device": "cuda:99"}}}, "`train.device: cuda:99` is asked for"),
    ({"llm": {"device": "meta"}}, "`llm.device: meta` is asked for, but torch cannot"),
    ({"train": {"processes": 2, "device": "cpu:0"}}, "train.processes=2 and train.device=cpu:0"),
    ({"train": {"processes": 1000}}, "train.processes=1000 and train.batch_size=4 contradict"),
    ({"llm": {"backend": "vllm"}}, "`llm.backend: vllm` needs `llm.base_url`"),
    ({"llm": {"backend": "vllm", "base_url": "ftp://x"}}, "llm.base_url"),
    (
        {"llm": {"backend": "vllm", "base_url": "http://x/v1", "export": "/no/export"}},
        "/no/export holds no exported soft prompt",
    ),
    ({"tune": {"adapter": "EMPTY"}}, "is no soft prompt"),
    ({"tune": {"adapter": "/no/adapter"}}, "there is no such file or folder"),
    ({"train": {"start": "./no-encoder"}}, "There is no model folder './no-encoder'"),
    ({"weak_queries": {"sptar": "/no/weak.jsonl"}}, "there is no such file or folder"),
    ({"select": {"groups": 0}}, "select.groups"),
    ({"split": {"train_queries": 1}}, "'no_augmentation' and `split.train_queries: 1` contradict"),
]


def settings_of(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    (folder / "empty").mkdir(exist_ok=True)
    text = json.dumps(changes).replace("EMPTY", str(folder / "empty"))
    return dict(json.loads(text))


@pytest.mark.parametrize(("changes", "sentence"), KNOWN_FROM_THE_CONFIG)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_made(
    changes: dict[str, Any],
    sentence: str,
    make_config: MakeConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tiny_models: dict[str, Path],
) -> None:
    changes = settings_of(tmp_path, changes)
    config = str(make_config(methods=["bm25", "no_augmentation", "sptar"], **changes))
    work = tmp_path / "work"
    for verb in (["plan", config, "--no-probe"], ["run", config]):
        assert run_application([*verb, "--work", str(work)]) == 2, verb
        assert sentence in capsys.readouterr().err, verb
        assert not list(work.glob("artefacts/*")), verb
        assert not list(work.glob("runs/*")), verb


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"split": {"train_queries": 5000}}, "S_train needs 5000 queries"),
        ({"split": {"train_from": "nothing"}}, "the collection has no such split"),
        ({"train": {"start": "VIT"}}, "vit"),
        ({"train": {"start": "EMPTY"}}, "empty"),
    ],
)
def test_what_data_and_models_tell_is_said_before_anything_long(
    changes: dict[str, Any],
    sentence: str,
    make_config: MakeConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tiny_encoder: Path,
) -> None:
    vit = shutil.copytree(tiny_encoder, tmp_path / "vit")
    for path in vit.rglob("config.json"):
        values = json.loads(path.read_text())
        if "model_type" in values:
            path.write_text(json.dumps({**values, "model_type": "vit"}))
    changes = json.loads(json.dumps(settings_of(tmp_path, changes)).replace("VIT", str(vit)))
    config = str(make_config(methods=["bm25", "no_augmentation", "inpars"], **changes))
    work = tmp_path / "work"
    for verb in ("plan", "run"):
        assert run_application([verb, config, "--work", str(work)]) == 2, verb
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("Error: "), verb
        assert sentence in said, verb
        made = {
            path.parent.name.rpartition("-")[0] for path in work.glob("artefacts/*/manifest.json")
        }
        assert made <= {"collection", "split"}, verb


def test_only_what_is_still_to_be_made_is_asked_for(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(make_config(methods=["bm25"]))
    work = ["--work", str(tmp_path)]
    assert run_application(["run", config, *work, "--set", "train.device=cuda:99"]) == 0
    # A step that computes nothing with the encoder needs no device for it.
    config = str(make_config(name="other", methods=["bm25", "no_augmentation"]))
    assert run_application(["split", config, *work, "--set", "train.device=cuda:99"]) == 0
    assert run_application(["train", config, *work, "--set", "train.device=cuda:99"]) == 2
    assert "cuda:99" in capsys.readouterr().err


def test_rows_from_elsewhere_are_read_before_anything_is_written(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weak = tmp_path / "weak.jsonl"
    weak.write_text('{"doc_id": "no such document", "text": "x"}\n')
    config = make_config(methods=["inpars", "mine"], weak_queries={"mine": str(weak)})
    work = tmp_path / "work"
    assert run_application(["run", str(config), "--work", str(work)]) == 2
    assert "weak.jsonl" in capsys.readouterr().err.splitlines()[-1]
    assert not list(work.glob("artefacts/augment-*"))
    assert not list(work.glob("artefacts/select-*"))
