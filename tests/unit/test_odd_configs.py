"""Odd configs: whatever stands in one, it is a run or one clear sentence, and soon."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from sptar.config import FilterConfig, RunConfig, load_config, parse_config
from sptar.errors import ConfigError, SptarError
from sptar.graph.methods import build_graph
from sptar.plain_yaml import read_plain_yaml
from sptar.workspace import Workspace

TOY = str(resources.files("sptar.starter") / "toy_collection")
PLAIN: dict[str, Any] = {
    "name": "odd",
    "data": {"source": TOY},
    "methods": ["bm25"],
    "split": {"train_queries": 4, "eval_queries": 4, "eval_from": "dev"},
}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{', '.join(f'*{below}' for _ in range(9))}]\n"
    for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: !!int abc", ":1: 'abc' is no whole number."),
        ("seed: !!int ''", ":1: '' is no whole number."),
        ("a: 1\nb: !!float abc", ":2: 'abc' is no number."),
        ("a: !!bool maybe", ":1: 'maybe' is no true or false."),
        (
            "a: 1" + "0" * 5000,
            ":1: '1000000000000000000000000000000000000000…' is no whole number.",
        ),
        ("a: 0x" + "f" * 5000, ":1: '0xffffffffffffffffffffffffffffffffffffff…' is too large"),
        ("seed: 18446744073709551616", ":1: '18446744073709551616' is too large a number."),
        ("a: " + "[" * 5000, ":1: the value is nested more than 20 levels deep."),
        ("\n".join(" " * n + "a:" for n in range(400)), ":21: the value is nested more than 20"),
        (BOMB + "name: *i", "aliases counted."),
        ("a: &a [*a]", ":1: the value holds itself through an alias."),
        ("seed: 1\nname: x\nseed: 2", ":3: 'seed' stands twice, first in line 1."),
        ("tune: {epochs: 1, epochs: 2}", ":1: 'epochs' stands twice, first in line 1."),
        ("a: !!python/name:os.system x", "the tag '!!python/name:os.system' has no meaning here."),
        ("a: !!binary aGVsbG8=", "the tag '!!binary' has no meaning here."),
        ("a: !secret x", "the tag '!secret' has no meaning here."),
        ("a: 1\n---\nb: 2", ":2: not valid YAML: but found another document."),
        ("a: b\0c", "not valid YAML: the character U+0000 may not stand in it."),
        ("x" * 200_001, "200,001 characters are no config"),
    ],
)
def test_yaml_that_is_more_than_plain_values_is_refused_with_its_line(
    text: str, sentence: str
) -> None:
    begin = time.process_time()
    with pytest.raises(ConfigError) as caught:
        read_plain_yaml(text, "run.yaml")
    # Of the bomb's 9^9 values none may be made: half a second would not make a thousandth of them.
    assert time.process_time() - begin < 5
    assert str(caught.value).startswith("run.yaml:")
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


def test_plain_yaml_stays_what_it_is() -> None:
    text = "a: {n: 1, f: 1.5, t: yes, none: , s: '1'}\nb: &b {x: 1}\nc: {<<: *b, y: 2}\nd: [*b, *b]"
    assert read_plain_yaml(text, "x") == {
        "a": {"n": 1, "f": 1.5, "t": True, "none": None, "s": "1"},
        "b": {"x": 1},
        "c": {"x": 1, "y": 2},
        "d": [{"x": 1}, {"x": 1}],
    }
    assert read_plain_yaml("name: 2024-05-01", "x") == {"name": "2024-05-01"}
    assert read_plain_yaml("", "x") is None


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"filter": {"k": True}}, "filter.k: true is no value of this setting."),
        ({"filter": {"auto_k": [1, True]}}, "filter.auto_k: true is no value of this setting."),
        ({"seed": True}, "seed: true is no value of this setting."),
        ({"split": {"seed": False}}, "split.seed: false is no value of this setting."),
        ({"seed": 2**64}, "seed: the number is too large."),
        ({"seed": 10**6000}, "seed: the number is too large."),
        ({"tune": {"learning_rate": float("inf")}}, "tune.learning_rate: input should be a finite"),
        ({"tune": {"learning_rate": float("nan")}}, "tune.learning_rate: input should be a finite"),
        ({"search": {"fusion_weight": ".inf"}}, "search.fusion_weight: "),
        ({"name": ".."}, "name: '..' is no name of a run"),
        ({"name": "."}, "name: '.' is no name of a run"),
        ({"name": "-x"}, "name: '-x' is no name of a run"),
        ({"name": "a/b"}, "name: 'a/b' is no name of a run"),
        ({"name": "x" * 151}, "takes 150 bytes at most"),
        ({"data": {"source": ""}}, "data.source: the text is empty"),
        ({"data": {"source": "a\0b"}}, "U+0000 may not stand in a text"),
        ({"tune": {"adapter": " "}}, "tune.adapter: the text is empty"),
        ({"train": {"start": ""}}, "train.start: the text is empty"),
        ({"weak_queries": {"mine": ""}}, "weak_queries.mine: the text is empty"),
        ({"split": {"carve_from": "x", "group_pattern": "(a){99999999999}"}}, "not a regular expr"),
        ({"llm": 1}, "llm: a table of settings is needed, not 1."),
        ({"tune": [1]}, "tune: a table of settings is needed, not [1]."),
        ({"note": ["x" * 10_000] * 10_000}, "note: input should be a valid string, not ["),
        ({f"key{n}": n for n in range(5000)}, "and 4,988 more problems."),
        ({"x" * 100_000: 1}, "unknown key 'xxx"),
    ],
)
def test_odd_values_are_refused_in_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**PLAIN, **values})
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 2500


def test_a_boolean_stays_one_where_one_is_meant() -> None:
    assert not parse_config({**PLAIN, "filter": {"drop_duplicates": False}}).filter.drop_duplicates
    assert FilterConfig(k=[1, 2]).k == [1, 2]


@pytest.mark.parametrize(
    "values",
    [
        {"methods": ["sptra"], "llm": {"name": "m"}},
        {"data": {"source": "x", "columns": {"txt": "a"}}},
        {"tune": {"epoch": 1}},
        {"recipes": {"dpr": {"epoch": 1}}},
    ],
)
def test_a_question_ends_in_its_mark_alone(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"did you mean '\w+'\?$"):
        parse_config({**PLAIN, **values})


def test_a_tilde_is_the_home_folder_in_every_setting_that_names_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = parse_config(
        {
            "data": {"corpus": "~/c.csv", "queries": "~/q.csv", "qrels": {"test": "~/t.tsv"}},
            "llm": {"name": "~/llm", "export": "~/export"},
            "tune": {"adapter": "~/adapter"},
            "train": {
                "start": "~/encoder",
                "query_start": "~/queries",
                "towers": "separate",
                "teacher": "~/teacher",
                "in_batch_teacher": "~/late",
            },
            "weak_queries": {"mine": "~/weak.jsonl"},
        }
    )
    named = re.findall(r"[^'\" ]*/[\w.]+", repr(config))
    assert len(named) == 11
    assert all(path.startswith(str(tmp_path)) for path in named)
    assert parse_config({"data": {"source": "~/d"}, "methods": ["bm25"]}).data.source == str(
        tmp_path / "d"
    )
    assert parse_config({"data": {"source": "hf:~/d"}, "methods": ["bm25"]}).data.source == (
        f"hf:{tmp_path}/d"
    )


def test_no_setting_with_a_path_is_forgotten() -> None:
    """Settings whose description speaks of a file or folder, against those of the path types."""
    from sptar.config import _path_settings

    def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
        yield model
        for field in model.model_fields.values():
            for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    yield from sections(inner)

    speaking = {
        (section.__name__, name)
        for section in sections(RunConfig)
        for name, field in section.model_fields.items()
        if re.search(r"\b(file|(?<!work )folder)\b", field.description or "", re.IGNORECASE)
    }
    # What the words mean there is not the value of the setting.
    speaking -= {("DataConfig", "columns")}
    known = {(s.__name__, name) for s in sections(RunConfig) for name in _path_settings(s)}
    assert speaking - known == set()


def test_an_assignment_is_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    for folder in (beside, here):
        (folder / "data").mkdir(parents=True)
    config = beside / "run.yaml"
    config.write_text("data: {source: data}\nmethods: [bm25]\n")
    monkeypatch.chdir(here)
    assert load_config(config).data.source == str(beside / "data")
    assert load_config(config, ["data.source=data"]).data.source == "data"


ODD: list[Any] = [
    *(True, False, None, 0, -1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**64), 10**400),
    *(0.5, -0.5, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", " ", ".", "..", "~", "/", "-", "x", "true", "1e999", "2024-05-01", "a\0b", "é" * 300),
    *("hf:", "ir:", "starter:", "starter:x", "hf:../..", "/dev/null", "meta", "cuda:99", "[", "%s"),
    *("nDCG@99999999999999999999", "R@0", "(", "bm25+dpr", "own", "none", "auto", "all"),
    *([], {}, [[]], [""], [None], [1, "x"], [True], ["x"] * 500, {"x": 1}, {"": ""}, {"x": {}}),
    *({"x": "~"}, {"../x": TOY}, {"dpr": {"start": ""}}, {"dpr": {"epochs": True}}),
    *(["nDCG@10", "NDCG@ten"], ["dpr", "dpr"], ["bm25", "nothing"]),
]
SETTINGS = [
    *((name,) for name in RunConfig.model_fields),
    *(
        (name, inner)
        for name, field in RunConfig.model_fields.items()
        for section in (field.annotation, *getattr(field.annotation, "__args__", ()))
        if isinstance(section, type) and issubclass(section, BaseModel)
        for inner in section.model_fields
    ),
]


@pytest.mark.parametrize("start", [0, 7])
def test_no_odd_value_in_any_setting_is_called_our_bug(
    start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every twelfth of all pairs of a setting and an odd value, as `sptar plan` would meet them."""
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(tmp_path / "work")
    pairs = [(place, odd) for place in SETTINGS for odd in ODD][start::24]
    refused = 0
    for place, odd in pairs:
        values = json.loads(json.dumps(PLAIN))
        target = values
        for part in place[:-1]:
            target = target.setdefault(part, {"name": "/no/model"} if part == "llm" else {})
        target[place[-1]] = odd
        text = json.dumps(values)
        Path("run.yaml").write_text(text.replace("Infinity", ".inf").replace("NaN", ".nan"))
        try:
            build_graph(load_config("run.yaml"), workspace).steps()
        except SptarError as error:
            refused += 1
            sentence = str(error)
        except Exception as error:
            raise AssertionError(f"{place} = {odd!r}: {error!r}") from error
        else:
            continue
        assert len(sentence) < 1500, (place, odd)
        assert "?." not in sentence, (place, odd)
    assert refused > len(pairs) / 2


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.text(
        alphabet=st.sampled_from("ab:-[]{}&*!#|>'\"%@,?~ \n\t0123456789.eExX_<=\\é"), max_size=60
    )
)
def test_no_text_at_all_is_called_our_bug(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        load_config(path)
