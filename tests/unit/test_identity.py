"""Hashes of content: same bytes, same identity, wherever they lie."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
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


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[]", b'{"files": {"x": [1]}}', b'{"files": 3}', b"null"]
)
def test_a_cache_that_holds_something_else_is_only_slower(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_text("1")
    (tmp_path / "hashes.json").write_bytes(content)
    found = HashCache(tmp_path / "hashes.json").file(tmp_path / "x")
    assert found == hashlib.sha256(b"1").hexdigest()


def big_and_settled(path: Path, content: bytes = b"a") -> Path:
    """A file that is worth remembering and was last changed some time ago."""
    path.write_bytes(content * (2 << 20))
    time.sleep(2.1)
    return path


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = big_and_settled(tmp_path / "x")
    cache = tmp_path / "hashes.json"
    before = HashCache(cache).file(path)
    assert before == hashlib.sha256(b"a" * (2 << 20)).hexdigest()
    read = []
    monkeypatch.setattr("sptar.identity._hash_file", lambda path: read.append(path) or "read")
    assert HashCache(cache).file(path) == before
    assert not read
    # A flipped digit in the cache is no other file: it is read again.
    content = cache.read_text()
    cache.write_text(content.replace(before, ("0" if before[0] != "0" else "1") + before[1:]))
    assert HashCache(cache).file(path) == "read"


@pytest.mark.parametrize("size", [1, 2 << 20])
def test_an_edit_of_equal_size_and_time_is_seen(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a" * size)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    cache = tmp_path / "hashes.json"
    HashCache(cache).file(path)
    path.write_bytes(b"b" * size)
    os.utime(path, ns=times)
    assert HashCache(cache).file(path) == hashlib.sha256(b"b" * size).hexdigest()


def test_an_old_file_put_in_place_is_seen(tmp_path: Path) -> None:
    """Its own times are as old as the first one's: the number on the disk is another."""
    path = big_and_settled(tmp_path / "x")
    cache = tmp_path / "hashes.json"
    HashCache(cache).file(path)
    other = tmp_path / "y"
    other.write_bytes(b"b" * (2 << 20))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    assert HashCache(cache).file(path) == hashlib.sha256(b"b" * (2 << 20)).hexdigest()


def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sptar.identity

    path = tmp_path / "x"
    path.write_text("1")
    plain, appended = sptar.identity._hash_file, []

    def while_written(file: Path) -> str:
        found = plain(file)
        if len(appended) < 2:
            appended.append("2")
            file.write_text("1" + "2" * len(appended))
        return found

    monkeypatch.setattr(sptar.identity, "_hash_file", while_written)
    assert HashCache().file(path) == hashlib.sha256(b"122").hexdigest()
    monkeypatch.setattr(
        sptar.identity, "_hash_file", lambda file: file.write_text(file.read_text() + "x") or ""
    )
    with pytest.raises(DataError, match="changes while it is read"):
        HashCache().file(path)


def test_changes_after_hashing_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("1")
    cache = HashCache()
    cache.content(folder)
    cache.refuse_changes([str(folder), "a/hub-model"])
    (folder / "weights").write_text("2")
    with pytest.raises(DataError, match="model: this has changed since the run began"):
        cache.refuse_changes([str(folder)])
    (folder / "weights").unlink()
    folder.rmdir()
    with pytest.raises(DataError, match="this has changed"):
        cache.refuse_changes([str(folder)])


def test_a_cache_that_cannot_be_written_is_only_slower(tmp_path: Path) -> None:
    path = big_and_settled(tmp_path / "x")
    (tmp_path / "file").write_text("no folder")
    assert HashCache(tmp_path / "file" / "hashes.json").file(path)


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
