"""A work folder that cannot be written, on a disk that is only read or of another person."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sptar.cli.app import run_application

MakeConfig = Callable[..., Path]


def as_somebody(line: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command without root's right to write everywhere."""
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root may write everywhere, and there is no setpriv to change that")
        line = [setpriv, "--bounding-set=-dac_override", "--inh-caps=-dac_override", *line]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_what_is_there_is_shown(make_config: MakeConfig, tmp_path: Path) -> None:
    config, work = make_config("shown", methods=["bm25"]), tmp_path / "work"
    assert run_application(["run", str(config), "--work", str(work)]) == 0
    files = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    folders = [work, *(path for path in work.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        line = [sys.executable, "-m", "sptar", "run", str(config), "--work", str(work)]
        shown = as_somebody(line)
        missing = as_somebody([*line, "--set", "filter.k1=0.5", "--set", "name=other"])
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert shown.returncode == 0, shown.stderr
    assert "BM25" in shown.stdout
    assert "cannot be written: what is there is shown" in shown.stderr
    assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == files
    # What is missing cannot be made, and that is a sentence.
    assert missing.returncode == 2
    assert "Permission denied" in missing.stderr
    assert "Mend that and type the same command again" in missing.stderr
