"""Hashes of content: same bytes, same identity, wherever they lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sptar.errors import DataError, ModelError
from sptar.identity import HashCache, model_identity


def test_a_moved_folder_is_the_same_and_a_changed_one_is_not(tmp_path: Path) -> None:
    first = tmp_path / "a"
    first.mkdir()
    (first / "model.safetensors").write_bytes(b"weights")
    second = tmp_path / "b"
    shutil.copytree(first, second)
    cache = HashCache(tmp_path / "hashes.json")
    before = model_identity(str(first), None, cache)
    assert model_identity(str(second), None, cache) == before
    (second / "model.safetensors").write_bytes(b"weightz")
    assert model_identity(str(second), None, HashCache(tmp_path / "hashes.json")) != before


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    before = HashCache().folder(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "y").write_text("2")
    assert HashCache().folder(tmp_path) == before


def test_a_damaged_cache_is_only_slower(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    (tmp_path / "hashes.json").write_text("{")
    assert HashCache(tmp_path / "hashes.json").file(tmp_path / "x") == HashCache().file(
        tmp_path / "x"
    )


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c"])
def test_a_missing_model_folder(name: str) -> None:
    with pytest.raises(ModelError, match="There is no model folder"):
        model_identity(name, None, HashCache())


def test_a_hub_model_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="hub"):
        model_identity("nobody/nothing-of-this-name", None, HashCache())


def test_missing_content(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        HashCache().content(tmp_path / "no")
