"""What the documents promise is there: the tree, the links, the settings, the commands."""

from __future__ import annotations

import re
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from sptar.cli.app import run_application
from sptar.config import RunConfig, load_config

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sptar"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))

_TREE_LINE = re.compile(r"^(?P<indent> *)(?P<name>[\w.-]+/?)(?:\s{2,}(?P<what>\S.*))?$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"(?:^|`)sptar ((?:data )?[a-z][a-z-]*)", re.MULTILINE)
_OFF_SETTING = re.compile(r"^(\s*)#(?=[a-z_]+:)", re.MULTILINE)


def tree_in(page: str) -> dict[str, str]:
    """Path below the package → its line in the tree of the architecture page."""
    block = page.split("```text\nsrc/sptar/\n", 1)[1].split("```", 1)[0]
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in block.splitlines():
        match = _TREE_LINE.match(line)
        assert match, f"a line of the tree cannot be read: {line!r}"
        depth = len(match["indent"]) // 2
        folders = folders[: depth - 1]
        name = match["name"]
        if name.endswith("/"):
            folders.append(name[:-1])
        else:
            path = "/".join([*folders, name])
            assert path not in found, f"{path} stands twice in the tree"
            found[path] = match["what"] or ""
    return found


def test_the_tree_in_the_architecture_page_is_the_tree_on_disk() -> None:
    told = tree_in((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    there = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        # Package files that hold a docstring alone need no line of their own.
        and not (path.name == "__init__.py" and path.read_text("utf-8").count("\n") <= 1)
    }
    assert sorted(there - set(told)) == [], "files without a line in the tree"
    assert sorted(set(told) - there) == [], "lines in the tree without a file"
    assert [path for path, what in told.items() if not what] == [], "files without a description"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        if path.startswith("reference/"):
            continue  # made when the site is built; tests/test_site.py follows these
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, the way GitHub makes them."""
    found = set()
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("#").strip().lower()
            found.add(re.sub(r"[^\w\- ]", "", heading).replace(" ", "-"))
    return found


def unknown_keys(values: Any, model: Any, where: str = "") -> list[str]:
    """Keys that the model does not have, at any depth."""
    unknown = []
    for key, value in values.items():
        if key not in model.model_fields:
            unknown.append(f"{where}{key}")
            continue
        annotation = model.model_fields[key].annotation
        section = next(
            (
                candidate
                for candidate in (annotation, *getattr(annotation, "__args__", ()))
                if isinstance(candidate, type) and issubclass(candidate, BaseModel)
            ),
            None,
        )
        if section is not None and isinstance(value, dict):
            unknown += unknown_keys(value, section, f"{where}{key}.")
    return unknown


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_load_and_name_known_keys_only(path: Path) -> None:
    load_config(path)
    text = path.read_text(encoding="utf-8")
    assert unknown_keys(yaml.safe_load(text), RunConfig) == []
    # Settings that are switched off by a leading # must be spelled right as well.
    everything = yaml.safe_load(_OFF_SETTING.sub(r"\1", text))
    assert unknown_keys(everything, RunConfig) == []


def test_an_unknown_key_is_noticed() -> None:
    assert unknown_keys({"tune": {"epoch": 1}, "nam": 2}, RunConfig) == ["tune.epoch", "nam"]
    assert unknown_keys({"llm": {"nme": "x"}}, RunConfig) == ["llm.nme"]


def test_your_own_data_shows_every_section_with_a_comment() -> None:
    lines = (ROOT / "configs" / "your_own_data.yaml").read_text(encoding="utf-8").splitlines()
    for section in RunConfig.model_fields:
        places = [i for i, line in enumerate(lines) if line.startswith(f"{section}:")]
        assert len(places) == 1, f"section {section}"
        commented = "#" in lines[places[0]] or lines[places[0] - 1].startswith("# ")
        assert commented, f"section {section} has no comment"


def test_switched_off_settings_show_their_defaults() -> None:
    text = (ROOT / "configs" / "your_own_data.yaml").read_text(encoding="utf-8")
    shown = yaml.safe_load(text)
    everything = yaml.safe_load(_OFF_SETTING.sub(r"\1", text))
    examples = {"data.corpus", "data.queries", "data.qrels", "data.columns"}
    examples |= {"split.carve_from", "split.group_pattern", "split.eval_from"}
    examples |= {"split.max_documents", "llm.revision"}
    defaults = RunConfig.model_validate({"data": {"source": "x"}, "llm": {"name": "y"}})
    for section, values in everything.items():
        if not isinstance(values, dict) or section == "weak_queries":
            continue
        for key, value in values.items():
            if key in shown[section] or f"{section}.{key}" in examples:
                continue
            assert value == getattr(getattr(defaults, section), key), f"{section}.{key}"


def _commands_in(text: str) -> set[str]:
    return {command.strip() for command in _COMMAND.findall(text)}


def test_commands_are_found_in_a_page() -> None:
    text = "Type `sptar run X` or\nsptar data check Y\nnot nosptar walk, nor sptar stands."
    assert _commands_in(text) == {"run", "data check"}


@cache
def _known_command(command: str) -> bool:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        return run_application([*command.split(), "--help"]) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documents_exist(page: Path) -> None:
    unknown = [
        command
        for command in sorted(_commands_in(page.read_text(encoding="utf-8")))
        if not _known_command(command)
    ]
    assert unknown == []


def test_commands_in_the_configs_exist() -> None:
    for path in CONFIGS:
        text = re.sub(r"^#\s*", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for command in _commands_in(text):
            assert _known_command(command), f"{path.name}: sptar {command}"


def test_an_unknown_command_is_noticed() -> None:
    assert not _known_command("levitate")
