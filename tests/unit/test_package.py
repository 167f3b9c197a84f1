"""The public names: each is there, and none loads a heavy library too early."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sptar

HEAVY = ("torch", "transformers", "sentence_transformers", "peft", "bm25s", "scipy", "numpy")


def loaded_after(code: str) -> set[str]:
    script = (
        f"import sys\n{code}\nprint(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split("\n")[-2].split())


def test_every_public_name_exists() -> None:
    assert len(sptar.__all__) <= 15
    for name in sptar.__all__:
        assert getattr(sptar, name) is not None
    assert set(sptar.__all__) <= set(dir(sptar))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sptar.nothing


def test_import_and_help_load_nothing_heavy() -> None:
    assert loaded_after("import sptar") == set()
    code = "from sptar.cli.app import run_application\nrun_application(['--help'])"
    assert loaded_after(code) == set()


def test_status_loads_nothing_heavy(tmp_path: object) -> None:
    code = (
        "from sptar.cli.app import run_application\n"
        f"run_application(['status', '--work', {str(tmp_path)!r}])"
    )
    assert loaded_after(code) == set()
