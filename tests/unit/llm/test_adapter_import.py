"""Foreign adapters: the published ones come in, hostile ones do not run."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from sptar.errors import ModelError
from sptar.llm import adapter_import
from sptar.llm.adapter_import import import_adapter
from sptar.llm.soft_prompt import SoftPrompt

PUBLISHED = Path("../shared/published/adapters")


def folder_with(tmp_path: Path, content: object, tokens: int = 4, width: int = 8) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir(exist_ok=True)
    config = {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": tokens,
        "token_dim": width,
        "base_model_name_or_path": "some/model",
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "write a query",
        "num_layers": 3,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    torch.save(content, folder / "adapter_model.bin")
    return folder


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published adapters are not here")
@pytest.mark.parametrize("name", ["llama7b_x100", "llama7b_x500", "llama7b_x1000"])
def test_published_adapters(tmp_path: Path, name: str) -> None:
    prompt = import_adapter(PUBLISHED / name)
    assert tuple(prompt.matrix.shape) == (50, 4096)
    assert prompt.matrix.dtype == torch.float32
    raw = torch.load(PUBLISHED / name / "adapter_model.bin", weights_only=True)
    assert torch.equal(prompt.matrix, raw["prompt_embeddings"].float().cpu())
    assert prompt.provenance["init_text"] == "please generate query for this document"
    assert prompt.provenance["imported_from"] == f"{name}/adapter_model.bin"
    back = SoftPrompt.load(prompt.save(tmp_path / name))
    assert torch.equal(back.matrix, prompt.matrix)
    assert back.provenance == prompt.provenance


def test_pickled_adapter(tmp_path: Path) -> None:
    matrix = torch.randn(4, 8, dtype=torch.float16)
    prompt = import_adapter(folder_with(tmp_path, {"prompt_embeddings": matrix}))
    assert torch.equal(prompt.matrix, matrix.float())
    assert prompt.base_model == "some/model"
    assert prompt.provenance == {
        "imported_from": "adapter/adapter_model.bin",
        "init": "text",
        "init_text": "write a query",
        "num_layers": 3,
    }


def test_safetensors_go_first(tmp_path: Path) -> None:
    folder = SoftPrompt(torch.ones(4, 8), "own/model", {"seed": 3}).save(tmp_path / "adapter")
    (folder / "adapter_model.bin").write_bytes(b"never read")
    prompt = import_adapter(folder)
    assert torch.equal(prompt.matrix, torch.ones(4, 8))
    assert prompt.provenance["seed"] == 3


class _Hostile:
    """Unpickling this creates a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.witness), "w"))


@pytest.mark.parametrize("packed", [True, False])
def test_hostile_pickle_is_refused_without_running(tmp_path: Path, packed: bool) -> None:
    witness = tmp_path / "executed"
    content = {"prompt_embeddings": torch.ones(4, 8), "more": _Hostile(witness)}
    folder = folder_with(tmp_path, {})
    path = folder / "adapter_model.bin"
    if packed:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ModelError, match="was refused"):
        import_adapter(folder)
    assert not witness.exists()
    # The trap does work: an ordinary unpickler falls into it.
    torch.load(path, weights_only=False) if packed else pickle.loads(path.read_bytes())
    assert witness.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"prompt_embeddings": torch.ones(5, 8)}, "5 x 8, but its config says 4 x 8"),
        ({"prompt_embeddings": torch.ones(32)}, "a matrix of 32, but"),
        ({"embeddings": torch.ones(4, 8)}, "it holds embeddings"),
        ({"prompt_embeddings": torch.ones(4, 8), "x": torch.ones(1)}, "must hold one tensor"),
        ({"prompt_embeddings": [1.0]}, "must hold one tensor"),
        ({}, "it holds nothing"),
        ({"prompt_embeddings": torch.full((4, 8), float("inf"))}, "not finite"),
        ({"prompt_embeddings": torch.ones(4, 8, dtype=torch.int32)}, "not of real numbers"),
        ([1, 2], "holds a list"),
    ],
)
def test_wrong_content(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        import_adapter(folder_with(tmp_path, content))


def test_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_with(tmp_path, {"prompt_embeddings": torch.ones(4, 8)})
    monkeypatch.setattr(adapter_import, "LARGEST_BYTES", 500)
    with pytest.raises(ModelError, match="more than any soft prompt needs"):
        import_adapter(folder)


def test_compressed_bomb(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {})
    path = folder / "adapter_model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", b"\0" * (adapter_import.LARGEST_BYTES + 1))
    assert path.stat().st_size < 10**6
    with pytest.raises(ModelError, match="more than any soft prompt needs"):
        import_adapter(folder)


def test_missing_parts(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no adapter folder"):
        import_adapter(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        import_adapter(tmp_path)
    folder = folder_with(tmp_path, {})
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="was refused"):
        import_adapter(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(ModelError, match="There is neither"):
        import_adapter(folder)
