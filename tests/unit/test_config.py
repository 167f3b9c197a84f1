"""Settings: what is refused, in which words, and what counts for a fingerprint."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from sptar.config import (
    AugmentConfig,
    RunConfig,
    TuneConfig,
    dump_config,
    load_config,
    parse_config,
    result_settings,
)
from sptar.errors import ConfigError
from sptar.retrieval.specs import recipe

MINIMAL = {"data": {"source": "x"}, "llm": {"name": "m"}}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_scientific_notation_becomes_a_number(tmp_path: Path) -> None:
    # PyYAML reads 3e-2 as text.
    assert yaml.safe_load("3e-2") == "3e-2"
    path = write(tmp_path, "data: {source: x}\nllm: {name: m}\ntune: {learning_rate: 3e-2}\n")
    assert load_config(path).tune.learning_rate == pytest.approx(0.03)
    changed = load_config(path, ["tune.learning_rate=5e-3"])
    assert changed.tune.learning_rate == pytest.approx(0.005)


def test_unknown_keys_are_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'tune\.epoch'; did you mean 'epochs'\?"):
        parse_config({**MINIMAL, "tune": {"epoch": 3}})
    with pytest.raises(ConfigError, match="unknown key 'filtr'; did you mean 'filter'"):
        parse_config({**MINIMAL, "filtr": {}})
    with pytest.raises(ConfigError, match="unknown method 'sptra'; did you mean 'sptar'"):
        parse_config({**MINIMAL, "methods": ["sptra"]})


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"llm": {"name": "m"}, "tune": {"epochs": 0}, "filter": {"k": [3, 3]}})
    for part in ("'data' is missing", "tune.epochs", "filter.k", "distinct"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("values", "both"),
    [
        ({"augment": {"decoding": "greedy", "queries_per_document": 2}}, ("greedy", "queries_per")),
        ({"data": {"source": "x", "corpus": "y"}}, ("source", "corpus")),
        ({"prompt": {"examples": 2}}, ("select.groups", "prompt.examples")),
        ({"split": {"group_pattern": "(a)"}}, ("group_pattern", "carve_from")),
        ({"split": {"mode": "paper", "carve_from": "test"}}, ("paper", "carve_dev_queries")),
        ({"llm": None}, ("llm", "inpars")),
    ],
)
def test_contradictions_are_refused_by_both_names(
    values: dict[str, object], both: tuple[str, str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**MINIMAL, **values})
    for name in both:
        assert name in str(caught.value)


def test_assignments_reach_into_sections(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {source: x}\nllm: {name: m}\ntrain:\n")
    config = load_config(path, ["filter.k=[10, 30]", "train.epochs=2", "methods=[bm25, sptar]"])
    assert (config.filter.k, config.train.epochs) == ([10, 30], 2)
    assert config.methods == ["bm25", "sptar"]
    with pytest.raises(ConfigError, match="not of the form"):
        load_config(path, ["epochs"])
    with pytest.raises(ConfigError, match="'seed' has no settings below it"):
        load_config(path, ["seed=3", "seed.x=1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [\n", r"run\.yaml:\d: not valid YAML"), ("- 1\n", "not a list"), ("", "'data' is")],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_a_missing_file_says_where_to_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no config file .*your_own_data"):
        load_config(tmp_path / "no.yaml")


def test_relative_paths_are_looked_for_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "my_data").mkdir()
    path = write(tmp_path, "data: {source: my_data}\nllm: {name: org/model}\n")
    config = load_config(path)
    assert config.data.source == str(tmp_path / "my_data")
    assert config.llm is not None
    assert config.llm.name == "org/model"


def test_speed_settings_stay_out_of_what_counts() -> None:
    plain = result_settings(TuneConfig())
    assert plain == result_settings(
        TuneConfig(evaluation_batch_size=3, gradient_checkpointing=True)
    )
    assert plain != result_settings(TuneConfig(batch_size=2))
    assert "learning_rate" in plain
    assert "evaluation_batch_size" not in plain


def test_every_setting_has_a_description() -> None:
    def walk(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                walk(inner)
            elif name not in ("data", "llm"):
                assert field.description, f"{model.__name__}.{name}"

    walk(RunConfig)


def test_a_setting_that_came_later_counts_only_when_it_is_changed() -> None:
    assert "cleaning" not in result_settings(AugmentConfig())
    assert result_settings(AugmentConfig(cleaning="reference"))["cleaning"] == "reference"


@pytest.mark.parametrize(
    ("retrievers", "message"),
    [
        (["dpr", "dpr"], "'dpr' is named twice"),
        (["bm25"], "'bm25' trains nothing: it is one of the `methods`"),
        (["dpr+dpr"], "joins a retriever with itself"),
        (["dpr+"], "neither a retriever nor a fusion"),
        (["a+b+c"], "neither a retriever nor a fusion"),
    ],
)
def test_retrievers_that_make_no_sense(retrievers: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({**MINIMAL, "retrievers": retrievers})


def test_unknown_settings_of_a_recipe_are_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'dpr\.epoch'; did you mean 'epochs'"):
        parse_config({**MINIMAL, "recipes": {"dpr": {"epoch": 3}}})
    with pytest.raises(ConfigError, match=r"unknown setting 'dpr\.retriever'"):
        parse_config({**MINIMAL, "recipes": {"dpr": {"retriever": "colbert"}}})


def test_paths_of_models_in_train_and_recipes_are_looked_for_beside_the_config(
    tmp_path: Path,
) -> None:
    for name in ("encoder", "own", "teacher"):
        (tmp_path / name).mkdir()
    path = write(
        tmp_path,
        "data: {source: x}\nllm: {name: m}\n"
        "train: {start: encoder, teacher: own, in_batch_teacher: teacher}\n"
        "recipes:\n"
        "  dragon: {query_start: encoder, start: org/encoder}\n"
        "  tas_b: {teacher: teacher}\n",
    )
    config = load_config(path)
    assert config.train.start == str(tmp_path / "encoder")
    # A word with a meaning stays that word, whatever lies beside the config.
    assert config.train.teacher == "own"
    assert config.train.in_batch_teacher == str(tmp_path / "teacher")
    assert config.recipes["dragon"] == {
        "query_start": str(tmp_path / "encoder"),
        "start": "org/encoder",
    }
    assert config.recipes["tas_b"] == {"teacher": str(tmp_path / "teacher")}


def test_what_was_not_set_survives_writing_and_reading(tmp_path: Path) -> None:
    values = {**MINIMAL, "train": {"epochs": 3}, "retrievers": ["dragon", "colbert"]}
    config = parse_config(values)
    text = yaml.safe_dump(dump_config(config))
    again = parse_config(yaml.safe_load(text))
    assert again == config
    assert again.train.model_fields_set == {"epochs"}
    # A default written out would hide the row's own value.
    assert recipe(again.train, "dragon").towers == "separate"
    assert recipe(again.train, "dragon") == recipe(config.train, "dragon")
    assert recipe(again.train, "colbert").epochs == 3
    # Everything else is written out, for people who read it.
    assert yaml.safe_load(text)["tune"]["virtual_tokens"] == 50
