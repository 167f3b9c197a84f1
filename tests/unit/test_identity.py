"""Hashes of content: same bytes, same identity, wherever they lie."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sptar.config import DataConfig
from sptar.data.sources import convert
from sptar.errors import DataError, ModelError
from sptar.identity import HashCache, model_content, model_identity
from sptar.steps.collection import pinned_source, source_identity


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


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        *((name, False) for name in ("README.md", "LICENSE", "LICENSE.txt", "NOTICE", "card.png")),
        *((name, False) for name in ("onnx/model.onnx", "tf_model.h5", "model.gguf", "eval/a.csv")),
        *((name, False) for name in ("training_args.bin", "optimizer.pt", "rng_state_0.pth")),
        *((name, True) for name in ("model.safetensors", "config.json", "vocab.txt", "merges.txt")),
        *((name, True) for name in ("modeling_own.py", "1_Pooling/config.json", "spiece.model")),
        *((name, True) for name in ("chat_template.jinja", "model.bin", "readme.json")),
    ],
)
def test_what_nothing_reads_is_no_part_of_a_models_identity(
    tmp_path: Path, name: str, counts: bool
) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = model_identity(str(tmp_path), None, HashCache())
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("one")
    first = model_identity(str(tmp_path), None, HashCache())
    (tmp_path / name).write_text("another")
    second = model_identity(str(tmp_path), None, HashCache())
    assert (first != second) is counts
    assert (second != before) is counts


def test_an_adapters_card_is_no_part_of_it_either(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"one")
    before = model_content(tmp_path, HashCache())
    (tmp_path / "README.md").write_text("made on a Monday")
    assert model_content(tmp_path, HashCache()) == before
    (tmp_path / "adapter_model.safetensors").write_bytes(b"two")
    assert model_content(tmp_path, HashCache()) != before
    assert model_content(tmp_path / "README.md", HashCache()) == HashCache().file(
        tmp_path / "README.md"
    )


NEW, OLD = "a" * 40, "b" * 40


class _Hub:
    """Stands in for the hub: answers with a commit, or not at all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        import huggingface_hub
        import huggingface_hub.constants

        self.commits: dict[str, str] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", self.repo_info)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))

    def repo_info(self, name: str, *, revision=None, repo_type=None, timeout=None):
        self.asked.append(name)
        if name not in self.commits:
            raise ConnectionError("no network")
        return SimpleNamespace(sha=self.commits[name])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Hub:
    return _Hub(monkeypatch, tmp_path / "hub")


def _cached(tmp_path: Path, folder: str, commit: str) -> None:
    refs = tmp_path / "hub" / folder / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(commit)


def test_a_hub_model_is_the_commit_that_its_name_means_now(hub: _Hub, tmp_path: Path) -> None:
    """As the loader does: what the hub has now comes before what the cache holds."""
    _cached(tmp_path, "models--some--model", OLD)
    assert model_identity("some/model", None, HashCache()) == f"hub:some/model@{OLD}"
    hub.commits["some/model"] = NEW
    assert model_identity("some/model", None, HashCache()) == f"hub:some/model@{NEW}"


def test_a_commit_needs_no_hub(hub: _Hub) -> None:
    assert model_identity("some/model", NEW, HashCache()) == f"hub:some/model@{NEW}"
    assert hub.asked == []


def test_a_hub_data_set_goes_stale_with_its_name_and_is_found_without_network(
    hub: _Hub, tmp_path: Path
) -> None:
    hashes = HashCache(tmp_path / "cache" / "hashes.json")
    data = DataConfig(source="hf:some/data")

    def identity() -> str:
        return source_identity(pinned_source(data, hashes), hashes)

    assert identity() == "hf:some/data@default"
    hub.commits["some/data"] = OLD
    assert identity() == f"hf:some/data@{OLD}"
    hub.commits["some/data-qrels"] = OLD
    assert identity() == f"hf:some/data@{OLD}+{OLD}"
    hub.commits["some/data"] = NEW
    now = identity()
    assert now == f"hf:some/data@{NEW}+{OLD}"
    hub.commits.clear()
    assert identity() == now
    (tmp_path / "cache" / "commits.json").write_text("[")
    assert identity() == "hf:some/data@default"


def test_rows_are_read_at_the_commit_that_is_recorded(
    hub: _Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    hub.commits |= {"some/data": NEW, "some/data-qrels": OLD}
    asked = []

    def names(of: str, revision: str | None = None) -> list[str]:
        asked.append((of, revision))
        return ["corpus", "queries"] if of == "some/data" else ["default"]

    def load(of: str, configuration: str, *, streaming: bool, revision: str | None) -> dict:
        asked.append((of, revision))
        row = {"corpus": {"_id": "d", "text": "t"}, "queries": {"_id": "q", "text": "t"}}
        return {"test": [row.get(configuration, {"query-id": "q", "corpus-id": "d", "score": 1})]}

    monkeypatch.setattr(datasets, "get_dataset_config_names", names)
    monkeypatch.setattr(datasets, "load_dataset", load)
    pinned = pinned_source(DataConfig(source="hf:some/data"), HashCache())
    convert(pinned, tmp_path / "out")
    assert set(asked) == {("some/data", NEW), ("some/data-qrels", OLD)}
