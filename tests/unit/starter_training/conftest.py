"""The scripts of `tools/starter` as modules, and a tiny text folder made for the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# At the end: a script's name must never hide a library's.
sys.path.append(str(Path(__file__).parents[3] / "tools" / "starter"))


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passages of 60 pages and some questions, packed like the real ones."""
    from starter_text import write_text_folder

    return write_text_folder(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def pairs_file(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pairs of that text."""
    from dataclasses import asdict

    from pairs import build

    from sptar.io import write_jsonl

    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_jsonl(path, (asdict(pair) for pair in build(text_folder, rank=10, seed=0).pairs))
    return path


@pytest.fixture(scope="session")
def bpe_folder(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer of the starter's own kind."""
    from tokenizer import bpe, texts

    folder = tmp_path_factory.mktemp("bpe")
    bpe(texts(text_folder), 400, 256).save_pretrained(folder)
    return folder
