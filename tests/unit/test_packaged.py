"""Names for what lies inside the package: what they stand for, and where they may stand."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sptar.cli.app import run_application
from sptar.config import RunConfig, dump_config, load_config, parse_config, result_settings
from sptar.errors import ConfigError, ModelError
from sptar.identity import HashCache, model_identity
from sptar.packaged import PLACES, folder_of, name_of
from sptar.retrieval.specs import recipe
from sptar.steps.collection import source_identity

STARTER = Path(str(resources.files("sptar.starter")))


def named(**train: str) -> dict[str, Any]:
    return {
        "data": {"source": "starter:transport"},
        "llm": {"name": "starter:language-model"},
        "train": {"start": "starter:encoder", **train},
    }


def test_each_name_stands_for_a_folder_below_the_starter() -> None:
    assert folder_of("starter:transport") == str(STARTER / "transport_collection")
    assert folder_of("starter:toy") == str(STARTER / "toy_collection")
    assert folder_of("starter:language-model") == str(STARTER / "models" / "language_model")
    assert folder_of("starter:encoder") == str(STARTER / "models" / "encoder")
    for name in PLACES:
        assert name_of(folder_of(name)) == name
    for name in ("starter:transport", "starter:toy"):
        assert (PLACES[name] / "corpus.jsonl").is_file()


@pytest.mark.parametrize("text", ["my-folder", "hf:a/b", "ir:x", "own", "a/starter:x", ""])
def test_any_other_text_stays_as_it_is(text: str) -> None:
    assert folder_of(text) == text
    assert name_of(text) == text


def test_a_config_holds_folders_and_is_written_with_names() -> None:
    values = named(
        query_start="starter:encoder",
        towers="separate",
        teacher="starter:encoder",
        in_batch_teacher="starter:encoder",
    )
    config = parse_config(values)
    encoder = str(PLACES["starter:encoder"])
    assert config.data.source == str(PLACES["starter:transport"])
    assert config.llm is not None
    assert config.llm.name == str(PLACES["starter:language-model"])
    assert config.train.start == config.train.query_start == encoder
    assert config.train.teacher == config.train.in_batch_teacher == encoder
    written = dump_config(config)
    assert written["data"]["source"] == "starter:transport"
    assert written["llm"]["name"] == "starter:language-model"
    assert written["train"] == values["train"]
    assert str(STARTER) not in json.dumps(written)
    assert parse_config(written) == config


def test_names_stand_in_recipes_and_assignments(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {source: x}\nllm: {name: m}\nrecipes: {dpr: {start: starter:encoder}}\n")
    config = load_config(path, ["data.source=starter:toy", "llm.name=starter:language-model"])
    assert config.data.source == str(PLACES["starter:toy"])
    assert config.llm is not None
    assert config.llm.name == str(PLACES["starter:language-model"])
    trained = recipe(config.train, "dpr", config.recipes["dpr"])
    assert trained.start == str(PLACES["starter:encoder"])
    assert dump_config(config)["recipes"] == {"dpr": {"start": "starter:encoder"}}


@pytest.mark.parametrize(
    ("section", "key"),
    [("data", "source"), ("llm", "name"), ("train", "start"), ("train", "query_start")],
)
def test_an_unknown_name_is_refused_with_those_there_are(section: str, key: str) -> None:
    values = named(towers="separate")
    values[section][key] = "starter:lm"
    with pytest.raises(ConfigError) as caught:
        parse_config(values, where="my.yaml")
    assert str(caught.value) == (
        f"my.yaml: {section}.{key}: there is no 'starter:lm' in the package; it has "
        "starter:transport, starter:toy, starter:language-model, starter:encoder."
    )


def test_the_command_line_takes_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_application(["data", "check", "starter:toy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 156
    assert run_application(["data", "check", "starter:bus"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("Error: There is no 'starter:bus' in the package; it has starter:")
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_a_collection_and_a_model_are_known_by_their_content(
    tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = HashCache()
    config = parse_config(named())
    copied = tmp_path / "copied"
    shutil.copytree(PLACES["starter:transport"], copied)
    elsewhere = RunConfig.model_validate({**named(), "data": {"source": str(copied)}})
    assert source_identity(config.data, hashes) == source_identity(elsewhere.data, hashes)

    own, other = tmp_path / "inside", tmp_path / "beside"
    shutil.copytree(tiny_encoder, own)
    shutil.copytree(tiny_encoder, other)
    monkeypatch.setitem(PLACES, "starter:encoder", own)
    start = parse_config(named()).train.start
    assert start == str(own)
    known = model_identity(start, None, hashes)
    assert known == model_identity(str(other), None, hashes)
    (own / "config.json").write_text("{}")
    assert model_identity(start, None, hashes) != known


def test_the_place_of_a_model_is_no_setting_that_changes_results() -> None:
    config = parse_config(named())
    assert str(STARTER) not in json.dumps(result_settings(config.train))


def test_models_that_were_not_installed_are_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PLACES, "starter:language-model", tmp_path / "nowhere")
    folder = folder_of("starter:language-model")
    with pytest.raises(ModelError, match=r"^'starter:language-model' is not there: .* without its"):
        model_identity(folder, None, HashCache())
    config = tmp_path / "run.yaml"
    config.write_text("data: {source: starter:toy}\nllm: {name: starter:language-model}\n")
    assert run_application(["run", str(config), "--work", str(tmp_path / "work")]) == 2
    shown = capsys.readouterr()
    assert "this installation of sptar came without its models" in shown.err
    assert "Traceback" not in shown.err
