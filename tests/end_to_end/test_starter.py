"""configs/starter.yaml: planned, run with small settings, asked; and what a run says at its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sptar.cli.app import run_application
from sptar.config import load_config
from sptar.io import read_json
from sptar.packaged import PLACES

CONFIG = Path(__file__).parents[2] / "configs" / "starter.yaml"
MODELS = ("starter:language-model", "starter:encoder")
SMALL = (
    "prompt.max_document_tokens=24",
    "tune.virtual_tokens=4",
    "tune.epochs=1",
    "tune.batch_size=8",
    "split.train_queries=6",
    "split.eval_queries=6",
    "split.max_documents=80",
    "augment.max_new_tokens=8",
    "filter.k=836",
    "filter.drop_unfinished=false",
    "train.epochs=1",
    "train.steps_per_epoch=pass",
    "train.max_tokens=16",
    "evaluate.bootstrap_samples=100",
)
LIGHT = [word for setting in (*SMALL, "methods=[bm25, sptar]") for word in ("--set", setting)]


@pytest.fixture(scope="module", params=["tiny", "real"])
def finished(
    request: pytest.FixtureRequest,
    tiny_models: dict[str, Path],
    tiny_encoder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """A work folder with a small run, on tiny models in the starter's places and on its own."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tiny":
            patch.setitem(PLACES, MODELS[0], tiny_models["bert"])
            patch.setitem(PLACES, MODELS[1], tiny_encoder)
        elif not all((PLACES[name] / "model.safetensors").is_file() for name in MODELS):
            pytest.skip("the starter's models are not in this checkout")
        work = tmp_path_factory.mktemp(f"starter-{request.param}")
        assert run_application(["run", str(CONFIG), "--work", str(work), *LIGHT]) == 0
        yield work


def test_the_config_compares_all_methods_on_the_starter() -> None:
    config = load_config(CONFIG)
    assert config.methods == ["bm25", "zero_shot", "no_augmentation", "inpars", "sptar"]
    assert config.llm is not None
    named = {"starter:transport": config.data.source, MODELS[0]: config.llm.name}
    assert named | {MODELS[1]: config.train.start} == {
        name: str(PLACES[name]) for name in ("starter:transport", *MODELS)
    }
    assert config.split.max_documents is None


def test_it_can_be_planned(
    tiny_models: dict[str, Path],
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(PLACES, MODELS[0], tiny_models["bert"])
    monkeypatch.setitem(PLACES, MODELS[1], tiny_encoder)
    arguments = ["plan", str(CONFIG), "--work", str(tmp_path), "--no-probe", "--json"]
    assert run_application(arguments) == 0
    planned = json.loads(capsys.readouterr().out)
    made = {step["name"] for step in planned["steps"]}
    assert {"tune", "select", "augment", "filter", "train", "search", "compare"} <= made


def test_the_end_of_a_run_says_what_to_look_at_and_what_to_type(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(CONFIG), "--work", str(finished), *LIGHT]
    assert run_application(arguments) == 0
    shown = capsys.readouterr().out
    again = run_application(arguments)
    assert again == 0
    assert capsys.readouterr().out == shown

    words = " ".join(shown.replace("│", " ").split())
    assert "In nDCG@10, SPTAR" in words
    (decided,) = finished.glob("artefacts/filter-*/decisions.jsonl")
    kept = [row for row in map(json.loads, decided.read_text().splitlines()) if row["kept"]]
    table = shown.partition("Weak queries of SPTAR that were kept")[2].partition("└")[0]
    queries = {row["text"] for row in kept}
    shown_queries = [_left_column(part) for part in table.partition("┩")[2].split("├")]
    assert len(set(shown_queries)) == min(3, len(queries)) > 0
    assert set(shown_queries) <= queries
    report = finished / "runs" / "starter" / "report.html"
    assert f"Report: {report}" in shown
    assert report.is_file()
    assert f'sptar search "your question" --run starter --method sptar --work {finished}' in shown
    assert "sptar data check my-collection" in shown
    assert "sptar run configs/your_own_data.yaml --set data.source=my-collection" in shown


def _left_column(part: str) -> str:
    """The first cell of a row of a printed table, its lines joined."""
    cells = [line.split("│")[1] for line in part.splitlines() if line.count("│") == 3]
    return " ".join(" ".join(cells).split())


def test_with_json_nothing_but_json_is_printed(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(CONFIG), "--work", str(finished), *LIGHT, "--json"]
    assert run_application(arguments) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"report", "verdict", "means"}


def test_the_record_names_the_starter_and_no_folder_of_this_machine(finished: Path) -> None:
    record = read_json(finished / "runs" / "starter" / "run.json")
    assert record["config"]["data"]["source"] == "starter:transport"
    assert record["config"]["llm"]["name"] == MODELS[0]
    assert record["config"]["train"]["start"] == MODELS[1]
    (card,) = finished.glob("artefacts/train-*/model/README.md")
    assert "Start model: `starter:encoder`." in card.read_text(encoding="utf-8")


def test_a_question_is_answered_by_the_trained_retriever(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = "is my dog allowed on the boat"
    arguments = ["search", question, "--run", "starter", "--work", str(finished), "--json"]
    assert run_application(arguments) == 0
    answered = json.loads(capsys.readouterr().out)
    assert answered["method"] == "sptar"
    assert len(answered["hits"]) == 5
    assert all(hit["title"] for hit in answered["hits"])
