"""Other engines through the command line: export, check, write weak queries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from completions_server import completions_server, serve_folder
from sptar.cli.app import run_application
from sptar.io import read_jsonl

MakeConfig = Callable[..., Path]
GREEDY = {"decoding": "greedy", "max_new_tokens": 6, "block_size": 7, "batch_size": 4}


@pytest.fixture(scope="module")
def tuned(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory):
    """Config, work folder and export of a run up to the chosen examples."""
    config = make_config("engines", methods=["sptar"], augment=GREEDY)
    work = tmp_path_factory.mktemp("work")
    assert run_application(["select", str(config), "--work", str(work)]) == 0
    export = tmp_path_factory.mktemp("export") / "model"
    line = ["export", "soft-prompt", str(config), "--as-vocabulary", str(export)]
    assert run_application([*line, "--work", str(work)]) == 0
    return config, work, export


def test_an_export_is_checked_without_a_server(tuned, capsys):
    config, work, export = tuned
    line = ["doctor", "generation", str(config), "--work", str(work), "--export", str(export)]
    assert run_application([*line, "--documents", "9", "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert (checked["documents"], checked["equal"], checked["differences"]) == (9, 9, [])


def test_a_server_with_the_export_writes_the_same_weak_queries(tuned, tmp_path):
    config, work, export = tuned
    assert run_application(["augment", str(config), "--work", str(work)]) == 0
    with completions_server(serve_folder(export)) as (url, seen):
        line = [
            *("augment", str(config), "--work", str(work)),
            *("--set", "llm.backend=vllm", "--set", f"llm.base_url={url}"),
            *("--set", f"llm.export={export}"),
        ]
        assert run_application(line) == 0
        check = ["doctor", "generation", *line[1:], "--documents", "3"]
        assert run_application(check) == 0
    assert len(seen) == 24 + 3
    folders = sorted((work / "artefacts").glob("augment-*"))
    assert len(folders) == 2
    texts = [
        [(row["doc_id"], row["text"]) for _, row in read_jsonl(folder / "weak_queries.jsonl")]
        for folder in folders
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 24


def test_an_engine_that_writes_otherwise_is_found_out(tuned, capsys):
    config, work, export = tuned

    def answer(path, body):
        return {"choices": [{"text": "something else", "finish_reason": "stop"}]}

    with completions_server(answer) as (url, _):
        line = ["doctor", "generation", str(config), "--work", str(work), "--documents", "2"]
        server = ["--set", "llm.backend=vllm", "--set", f"llm.base_url={url}"]
        code = run_application([*line, *server, "--set", f"llm.export={export}", "--json"])
    assert code == 1
    checked = json.loads(capsys.readouterr().out)
    assert (checked["equal"], len(checked["differences"])) == (0, 2)
    assert checked["differences"][0]["other"] == "something else"


def test_a_hosted_model_writes_with_hard_prompts(make_config, tmp_path, capsys):
    config = make_config("hosted", methods=["inpars"])

    def answer(path, body):
        return {"choices": [{"text": f"query {len(body['prompt'])}", "finish_reason": "stop"}]}

    with completions_server(answer) as (url, seen):
        line = ["augment", str(config), "--work", str(tmp_path), "--set", "llm.name=some-model"]
        server = ["--set", "llm.backend=openai", "--set", f"llm.base_url={url}"]
        assert run_application([*line, *server]) == 0
    assert len(seen) == 24
    assert {item["body"]["model"] for item in seen} == {"some-model"}
    (folder,) = (tmp_path / "artefacts").glob("augment-*")
    assert all(row["text"] for _, row in read_jsonl(folder / "weak_queries.jsonl"))


def test_soft_prompts_and_hosted_models_do_not_go_together(make_config, tmp_path, capsys):
    config = make_config("refused", methods=["sptar"])
    line = ["run", str(config), "--work", str(tmp_path), "--set", "llm.backend=openai"]
    assert run_application(line) == 2
    message = capsys.readouterr().err
    assert "soft prompt" in message
    assert "Traceback" not in message


def test_a_peft_folder_comes_out(tuned, tmp_path):
    config, work, _ = tuned
    line = ["export", "soft-prompt", str(config), "--work", str(work), "--out"]
    assert run_application([*line, str(tmp_path / "peft")]) == 0
    assert (tmp_path / "peft" / "adapter_model.safetensors").is_file()
    assert run_application([*line, str(tmp_path / "peft")]) == 2


def test_nothing_to_export_or_compare_is_told(make_config, tuned, tmp_path, capsys):
    config, work, _ = tuned
    fresh = ["export", "soft-prompt", str(config), "--work", str(tmp_path), "--out", "x"]
    assert run_application(fresh) == 2
    assert "has not been run" in capsys.readouterr().err
    assert run_application(["doctor", "generation", str(config), "--work", str(work)]) == 2
    assert "no other engine" in capsys.readouterr().err
    plain = make_config("plain", methods=["bm25"])
    assert run_application(["export", "soft-prompt", str(plain), "--out", "x"]) == 2
    assert "tunes no soft prompt" in capsys.readouterr().err
