"""The house keeps its order: layers, rooms that do not know their neighbours, light imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "sptar"

LAYERS = (
    ("errors", "types"),
    (
        "config",
        "devices",
        "methods",
        "io",
        "address",
        "hub_commits",
        "identity",
        "packaged",
        "plain_yaml",
        "progress",
        "trec",
        "wording",
        "run_folders",
        "workspace",
        "blocks",
        "locks",
        "executors",
        "adapters",
        "model_names",
        "positions",
        "tensors",
        "trials",
    ),
    ("data", "llm", "retrieval", "evaluation", "starter"),
    ("weak", "training"),
    ("steps",),
    ("foreseen", "graph", "pipeline", "plan", "experiments", "report", "serve"),
    ("cli", "__main__"),
)
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
STRANGERS = ("data", "llm", "retrieval", "evaluation", "starter")
"""Rooms of one layer that never import one another."""

HEAVY = {
    "bm25s",
    "datasets",
    "ir_datasets",
    "ir_measures",
    "matplotlib",
    "numba",
    "pandas",
    "peft",
    "pyarrow",
    "scipy",
    "sentence_transformers",
    "torch",
    "transformers",
}
MOST_LINES = 400
LONG_BY_NATURE = {"sptar.config"}
"""The declaration of every setting with its documentation: a list, not a knot of code."""


def _module_name(path: Path) -> str:
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = sorted(FILES)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def _type_checking_only(tree: ast.Module) -> set[ast.AST]:
    """Nodes under ``if TYPE_CHECKING:``: they name types and are never run."""
    return {
        inside
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inside in ast.walk(statement)
    }


def imports_of(module: str, tree: ast.Module, known: set[str]) -> list[tuple[int, str, bool]]:
    """(line, module of this package, whether it is run) for every import, functions included."""
    package = (
        module if FILES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
    )
    typing_only = _type_checking_only(tree)
    found: list[tuple[int, str, bool]] = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                above = above[: len(above) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            # `from sptar.llm import loading` imports the module, not only its package.
            names = [
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base
                for alias in node.names
            ]
        found += [
            (node.lineno, name, node not in typing_only)
            for name in names
            if name.split(".")[0] == "sptar"
        ]
    return found


def room_of(module: str) -> str:
    """The part below the package that a module belongs to; the package itself is ``sptar``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "sptar"


def broken_rules(module: str, tree: ast.Module, known: set[str]) -> list[str]:
    """What the imports of a module do against the order of the layers."""
    own = room_of(module)
    if own == "sptar":
        return []
    complaints = []
    for line, target, _ in imports_of(module, tree, known):
        other = room_of(target)
        where = f"{module}:{line} imports {target}"
        if other == own:
            continue
        if other == "sptar":
            if own not in ("cli", "__main__"):
                complaints.append(f"{where}: the package's face is for users only")
        elif LAYER_OF[other] > LAYER_OF[own]:
            complaints.append(f"{where}: layer {LAYER_OF[own]} imports layer {LAYER_OF[other]}")
        elif own in STRANGERS and other in STRANGERS:
            complaints.append(f"{where}: rooms of layer 2 never import one another")
        elif own == "weak" and other in STRANGERS:
            complaints.append(f"{where}: weak/ meets layer 2 only through the protocols of types")
        elif {own, other} == {"weak", "training"}:
            complaints.append(f"{where}: weak/ and training/ do not know one another")
    return complaints


def test_every_room_has_a_layer() -> None:
    rooms = {room_of(module) for module in MODULES} - {"sptar"}
    unknown = sorted(rooms - set(LAYER_OF))
    assert not unknown, f"give these rooms a layer: {unknown}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str) -> None:
    assert broken_rules(module, _tree(module), set(MODULES)) == []


@pytest.mark.parametrize(
    ("module", "code", "broken"),
    [
        ("sptar.io", "from sptar.workspace import Workspace", False),
        ("sptar.types", "from sptar.io import read_json", True),
        ("sptar.llm.new", "def f():\n    from sptar.data.corpus import Corpus", True),
        ("sptar.llm.new", "import sptar.retrieval.lexical.bm25", True),
        ("sptar.llm.new", "from ..retrieval import bm25", True),
        ("sptar.llm.new", "from . import prefix", False),
        ("sptar.weak.new", "from sptar.retrieval.lexical.bm25 import Bm25Index", True),
        ("sptar.weak.new", "from sptar.types import Searcher", False),
        ("sptar.weak.new", "from sptar.training.texts import TrainingTexts", True),
        ("sptar.retrieval.new", "from sptar.training.texts import TrainingTexts", True),
        ("sptar.training.new", "from sptar.retrieval.ranking import Best", False),
        ("sptar.steps.new", "from sptar import llm", False),
        ("sptar.steps.new", "from sptar import pipeline", True),
        ("sptar.report.new", "from sptar import run", True),
    ],
)
def test_the_rules_catch_what_they_should(module: str, code: str, broken: bool) -> None:
    known = {*MODULES, "sptar.retrieval.lexical.bm25", "sptar.llm.engine.prefix"}
    assert bool(broken_rules(module, ast.parse(code), known)) is broken


def test_no_module_imports_itself_in_a_circle() -> None:
    """Imports for types alone count too: nobody should have to read a module before itself."""
    known = set(MODULES)
    runs = {
        module: {
            target
            for _, target, _ in imports_of(module, _tree(module), known)
            if target in known and target != module
        }
        for module in MODULES
        if module != "sptar"
    }
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "a circle: " + " → ".join((*path, module))
        if module in finished:
            return
        for target in sorted(runs.get(module, ())):
            visit(target, (*path, module))
        finished.add(module)

    for module in runs:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_documented_and_short(module: str) -> None:
    text = FILES[module].read_text(encoding="utf-8")
    docstring = ast.get_docstring(_tree(module))
    assert docstring, f"{module} has no docstring"
    if module not in LONG_BY_NATURE:
        assert text.count("\n") <= MOST_LINES, f"{module} has more than {MOST_LINES} lines"


@pytest.mark.parametrize("module", MODULES)
def test_names_say_what_a_module_does(module: str) -> None:
    name = module.rpartition(".")[2]
    assert name not in {"utils", "util", "helpers", "helper", "common", "misc"}


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) != "cli"])
def test_only_the_command_line_prints(module: str) -> None:
    prints = [
        node.lineno
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert prints == []


@pytest.mark.parametrize(
    "module", [m for m, path in FILES.items() if path.name == "__init__.py" and m.count(".") == 1]
)
def test_package_inits_are_empty(module: str) -> None:
    body = _tree(module).body
    assert len(body) == 1
    assert ast.get_docstring(_tree(module))


def test_no_pickle() -> None:
    """Nothing loads a pickle; torch's restricted reader serves the import of adapters alone."""
    for module in MODULES:
        for node in ast.walk(_tree(module)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            called = ast.unparse(node.func)
            assert called not in {"pickle.load", "pickle.loads"}, f"{module}:{node.lineno}"
            if called == "torch.load":
                settings = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert module == "sptar.llm.adapter_import", f"{module}:{node.lineno}"
                assert settings.get("weights_only") == "True", f"{module}:{node.lineno}"


def test_the_light_entry_loads_nothing_heavy() -> None:
    modules = [module for module in ("sptar.cli", "sptar.cli.app") if module in FILES]
    code = "\n".join(
        ["import sys", *[f"import {module}" for module in ("sptar", "sptar.config", *modules)]]
    )
    code += f"\nsys.stdout.write(' '.join(sorted(set(sys.modules) & {HEAVY!r})))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout == ""


def test_a_method_is_named_in_its_table_alone() -> None:
    from sptar.methods import METHODS

    # "bm25" is a retriever too, and the package has the name of the method that it is about.
    names = set(METHODS) - {"bm25", "sptar"}
    outside = {
        (module, node.value)
        for module in MODULES
        if module != "sptar.methods"
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert outside == set()
