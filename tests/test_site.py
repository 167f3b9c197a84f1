"""The site is built from the docs and the code: every link leads somewhere, nothing is fetched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sptar.config import RunConfig, TuneConfig

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. ``strict`` in mkdocs.yml makes a broken link or anchor an error."""
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_the_reference_is_made_from_the_code(site: Path) -> None:
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    for section in RunConfig.model_fields:
        assert f"<code>{section}</code>" in settings
    for setting in TuneConfig.model_fields:
        assert f"<code>{setting}</code>" in settings
    assert "l_s: length of the soft prompt." in settings
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for verb in ("sptar run", "sptar data check", "sptar export soft-prompt"):
        assert f"<code>{verb}</code>" in commands


def test_nothing_is_fetched(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//', text), page.name
        links = re.findall(r"<link[^>]+>", text)
        assert not [tag for tag in links if re.search(r'href="(?:https?:)?//', tag)], page.name
