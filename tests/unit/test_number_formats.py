"""``auto`` is settled once for a work folder: in fingerprints, records and artefacts it is gone."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

from sptar import trials
from sptar.config import RunConfig, dump_config, parse_config
from sptar.graph.methods import build_graph
from sptar.graph.runs import RunGraph
from sptar.steps.formats import settled
from sptar.workspace import Workspace

TOY = str(resources.files("sptar.starter") / "toy_collection")


class Machine:
    """What a machine is faster with, and how often it was tried."""

    def __init__(self) -> None:
        self.format = "bfloat16"
        self.tried: list[str] = []

    def __call__(self, work: str, device: torch.device) -> dict[str, Any]:
        self.tried.append(work)
        return {"format": self.format, "device": str(device)}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr("sptar.tensors.formats.try_formats", made)
    monkeypatch.setattr(trials, "_known", {})
    return made


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("llm", "start"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'{{"name": "{name}"}}')
    return tmp_path


def config(models: Path, llm: str, train: str, encode: str) -> RunConfig:
    return parse_config(
        {
            "data": {"source": TOY},
            "llm": {"name": str(models / "llm"), "dtype": llm, "device": "cpu"},
            "train": {
                "start": str(models / "start"),
                "dtype": train,
                "encode_dtype": encode,
                "device": "cpu",
            },
        }
    )


def prints(graph: RunGraph) -> list[str]:
    return [step.fingerprint for step in graph.steps()]


def test_the_answer_and_its_name_are_the_same_run(models: Path, machine: Machine) -> None:
    asked = build_graph(config(models, "auto", "auto", "auto"), Workspace(models / "work"))
    said = build_graph(
        config(models, "bfloat16", "bfloat16", "bfloat16"), Workspace(models / "work")
    )
    other = build_graph(
        config(models, "float32", "bfloat16", "bfloat16"), Workspace(models / "work")
    )
    assert prints(asked) == prints(said)
    assert prints(asked) != prints(other)
    assert dump_config(asked.config) == dump_config(said.config)
    assert "dtype': 'auto'" not in str([step.settings for step in asked.steps()])
    assert sorted(machine.tried) == ["encoding", "language_model", "training"]


def test_float32_found_by_trial_is_the_default(models: Path, machine: Machine) -> None:
    """Artefacts made before there was a choice are found."""
    machine.format = "float32"
    workspace = Workspace(models / "work")
    asked = build_graph(config(models, "auto", "auto", "auto"), workspace)
    plain = parse_config(
        {
            "data": {"source": TOY},
            "llm": {"name": str(models / "llm")},
            "train": {"start": str(models / "start")},
        }
    )
    assert prints(asked) == prints(build_graph(plain, workspace))


def test_a_work_folder_keeps_its_formats_on_another_machine(models: Path, machine: Machine) -> None:
    first = build_graph(config(models, "auto", "auto", "auto"), Workspace(models / "work"))
    machine.format = "float32"
    trials._known.clear()  # another process, elsewhere
    again = build_graph(config(models, "auto", "auto", "auto"), Workspace(models / "work"))
    assert prints(again) == prints(first)
    fresh = build_graph(config(models, "auto", "auto", "auto"), Workspace(models / "fresh"))
    assert prints(fresh) != prints(first)


@pytest.mark.parametrize("begun", ["float32", "bfloat16"])
def test_a_folder_with_artefacts_keeps_the_format_of_the_first(
    models: Path, machine: Machine, begun: str
) -> None:
    workspace = Workspace(models / "work")
    made = {"inputs": {}, "summary": {}, "seconds": 0.0, "resumed": False, "versions": {}}
    recipe = {} if begun == "float32" else {"encode_dtype": begun}
    for step, identity in (("tune", "a"), ("train", "b"), ("encode", "c")):
        workspace.folder(step, identity).mkdir(parents=True)
    workspace.finish("tune", 1, "a", settings={"dtype": begun}, **made)
    workspace.finish("train", 1, "b", settings={"train": {"dtype": begun, **recipe}}, **made)
    # Its format is that of its training; it has no settings of its own.
    workspace.finish("encode", 1, "c", settings={}, **made)
    found = settled(config(models, "auto", "auto", "auto"), workspace)
    assert found.llm is not None
    assert (found.llm.dtype, found.train.dtype, found.train.encode_dtype) == (begun,) * 3
    assert machine.tried == []


def test_what_is_not_asked_is_not_tried(models: Path, machine: Machine) -> None:
    before = config(models, "float32", "bfloat16", "float32")
    assert settled(before, Workspace(models / "work")) == before
    assert machine.tried == []
    assert not (models / "work").exists()


def test_a_hosted_model_is_not_tried(models: Path, machine: Machine) -> None:
    hosted = parse_config(
        {
            "methods": ["bm25", "inpars"],
            "data": {"source": TOY},
            "llm": {
                "name": "some-model",
                "backend": "openai",
                "dtype": "auto",
                "base_url": "http://127.0.0.1:8000/v1",
            },
        }
    )
    found = settled(hosted, Workspace(models / "work"))
    assert found.llm is not None
    assert found.llm.dtype == "float32"
    assert machine.tried == []


def test_a_recipe_of_its_own_is_settled_too(models: Path, machine: Machine) -> None:
    before = config(models, "float32", "float32", "float32")
    before = before.model_copy(update={"recipes": {"colbert": {"dtype": "auto", "epochs": 2}}})
    found = settled(before, Workspace(models / "work"))
    assert found.recipes == {"colbert": {"dtype": "bfloat16", "epochs": 2}}
    assert machine.tried == ["training"]
