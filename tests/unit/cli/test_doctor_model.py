"""``sptar doctor model`` tells what the trial of a model found; exit code 2 where it is refused."""

from __future__ import annotations

import json

import pytest

from sptar.cli.app import run_application


def test_a_language_model(tiny_models, capsys):
    assert run_application(["doctor", "model", str(tiny_models["llama"]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "language model"
    verdict = found["verdict"]
    assert verdict["takes_embeddings"]
    assert verdict["shares"]
    assert verdict["attends_apart"]
    assert (verdict["context_tokens"], verdict["dtype"]) == (256, "float32")


@pytest.mark.parametrize(
    ("retriever", "reads"), [(None, 256), ("colbert", 256), ("splade", 256), ("bm25ce", 256)]
)
def test_an_encoder(tiny_encoder, capsys, retriever, reads):
    line = ["doctor", "model", str(tiny_encoder), "--json"]
    assert run_application([*line, *(["--retriever", retriever] if retriever else [])]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == (retriever or "dpr")
    (reader,) = found["verdict"]["readers"]
    assert reader["architecture"] == "bert"
    assert reader["most_tokens"] == reader["table_tokens"] == reader["tried_tokens"] == reads


def test_the_table_for_people(tiny_models, tiny_encoder, capsys):
    assert run_application(["doctor", "model", str(tiny_models["gpt2"])]) == 0
    assert "soft prompt" in capsys.readouterr().out
    assert run_application(["doctor", "model", str(tiny_encoder)]) == 0
    assert "256 tokens" in capsys.readouterr().out


def test_what_is_refused(tmp_path, capsys):
    assert run_application(["doctor", "model", str(tmp_path)]) == 2
    assert "cannot be loaded" in capsys.readouterr().err
    assert run_application(["doctor", "model", "starter:nothing"]) == 2
    assert "should not have happened" not in capsys.readouterr().err
