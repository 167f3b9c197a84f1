"""Every package that the source uses is named, pinned, and installed as it is pinned."""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def requirements(lines: list[str]) -> dict[str, list[Requirement]]:
    """Normalised name of a package → what is asked of it."""
    found: dict[str, list[Requirement]] = {}
    for line in lines:
        requirement = Requirement(line)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


ALWAYS = requirements(PROJECT["dependencies"])
NAMED = requirements(
    [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
)
TESTED = ALWAYS | requirements(EXTRAS["test"])


def constraints(text: str) -> dict[str, list[Requirement]]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return requirements([line for line in lines if line])


CONSTRAINTS = constraints((ROOT / "constraints.txt").read_text(encoding="utf-8"))


def pin(name: str, python: str) -> str:
    """The one version that the constraints allow on this version of Python."""
    here = [
        item
        for item in CONSTRAINTS[name]
        if item.marker is None or item.marker.evaluate({"python_version": python})
    ]
    assert len(here) == 1, f"{name}: one line of constraints.txt for Python {python}"
    (specifier,) = here[0].specifier
    assert specifier.operator == "==", f"{name}: {here[0]}"
    return specifier.version


def test_each_dependency_has_a_constraint_and_nothing_else_has_one() -> None:
    assert sorted(CONSTRAINTS) == sorted(NAMED)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_the_constraints_are_versions_that_the_project_allows(name: str) -> None:
    for python in PYTHONS:
        for asked in NAMED[name]:
            assert asked.specifier.contains(pin(name, python)), f"{asked}, Python {python}"


@pytest.mark.parametrize("name", sorted(NAMED))
def test_what_is_installed_is_what_the_constraints_say(name: str, newest: bool) -> None:
    if newest:
        pytest.skip("asked for the newest versions, not for those of constraints.txt")
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        assert name not in TESTED, f"{name} is not installed"
        pytest.skip(f"{name} is optional and not installed here")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    # A build for this machine ("+cpu") is the same version.
    assert installed.partition("+")[0] == pin(name, python)


def imported(folder: Path) -> set[str]:
    """Top-level names of all modules that files of a folder import, at any depth of the code."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"sptar"}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 cannot tell whose module sklearn is")
def test_what_the_source_imports_is_named() -> None:
    packages = metadata.packages_distributions()
    optional = {
        name for extra in ("parquet", "huggingface", "ir-datasets", "ray") for name in EXTRAS[extra]
    }
    allowed = set(ALWAYS) | set(requirements(sorted(optional)))
    unnamed = [
        module
        for module in sorted(imported(ROOT / "src"))
        if not {canonicalize_name(name) for name in packages.get(module, [module])} & allowed
    ]
    assert unnamed == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")
@pytest.mark.parametrize(
    ("goal", "asked", "pinned"),
    [
        ("demo", {"."}, True),
        ("test", {".[test,check]"}, True),
        ("check", {".[test,check]"}, True),
        ("test-newest", {".[test]"}, False),
    ],
)
def test_what_each_goal_installs(goal: str, asked: set[str], pinned: bool, tmp_path: Path) -> None:
    """A demo nothing that only tests need; the newest versions come without constraints."""
    told = subprocess.run(
        ["make", "-n", goal, f"VENV={tmp_path / 'pinned'}", f"NEWEST={tmp_path / 'newest'}"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    installed = [shlex.split(line) for line in told.splitlines() if " pip " in line]
    assert {line[line.index("-e") + 1] for line in installed} == asked
    assert all(("constraints.txt" in line) is pinned for line in installed)
