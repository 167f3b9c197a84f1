"""The whole pipeline through the command line: runs, reuses, resumes, reports, answers."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.process
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from sptar.cli.app import run_application
from sptar.io import lines, read_jsonl
from sptar.types import Decision
from sptar.workspace import Workspace

MakeConfig = Callable[..., Path]
METHODS = ["bm25", "zero_shot", "no_augmentation", "inpars", "inpars_gbq", "sptar"]


def artefacts(work: Path, step: str) -> list[Path]:
    return sorted((work / "artefacts").glob(f"{step}-*"))


def the_file(work: Path, step: str, name: str) -> Path:
    (folder,) = artefacts(work, step)
    return folder / name


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run_application([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def finished(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which all methods have run."""
    work = tmp_path_factory.mktemp("work")
    assert run_application(["run", str(make_config()), "--work", str(work)]) == 0
    return work


def test_every_method_is_scored_and_compared(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json_of(capsys, "report", "toy", "--work", str(finished))
    assert list(report["means"]) == METHODS
    assert all(
        set(means) == {"nDCG@10", "RR@10", "R@100", "AP@1000"} for means in report["means"].values()
    )
    # One sentence for each method of which nothing was kept (what a tiny model writes is seldom
    # found), and where SPTAR is none of these, the headline and one for each of the others.
    steps = json.loads((finished / "runs" / "toy" / "run.json").read_text())["methods"]
    empty = [
        method
        for method in METHODS[3:]
        if not json.loads(
            (finished / "artefacts" / f"pairs-{steps[method]['pairs']}/manifest.json").read_text()
        )["summary"]["weak"]
    ]
    others = 0 if "sptar" in empty else len(METHODS) - len(empty)
    assert len(report["verdict"]) == len(empty) + others
    page = Path(report["report"]).read_text()
    assert "<html" in page
    for forbidden in ("<script src", "@import", 'href="http'):
        assert forbidden not in page
    folder = finished / "runs" / "toy"
    assert (folder / "scores.csv").exists()
    assert (folder / "retrievers" / "sptar" / "model.safetensors").exists()


def test_the_run_s_folder_holds_what_other_programs_read(finished: Path) -> None:
    folder = finished / "runs" / "toy"
    scores = json.loads((folder / "run.json").read_text())["methods"]
    qrels = list(ir_measures.read_trec_qrels(str(folder / "test.qrels")))
    for method in METHODS:
        rows = [text.split() for _, text in lines(folder / f"{method}.trec.gz")]
        assert {row[-1] for row in rows} == {method}
        run = [ir_measures.ScoredDoc(row[0], row[2], float(row[4])) for row in rows]
        identity = scores[method]["evaluate"]
        page = json.loads(
            (finished / "artefacts" / f"evaluate-{identity}" / "scores.json").read_text()
        )["means"]
        for name in ("nDCG@10", "RR@10", "R@100", "AP@1000"):
            measure = ir_measures.parse_measure(name)
            mean = ir_measures.calc_aggregate([measure], qrels, run)[measure]
            assert mean == pytest.approx(page[name], abs=1e-9), (method, name)
    ids = (folder / "vectors" / "doc_ids.txt").read_text().splitlines()
    for method in METHODS[1:]:
        blocks = sorted((folder / "vectors" / method).glob("block-*.npy"))
        assert sum(len(np.load(block)) for block in blocks) == len(ids) == len(set(ids))
    told = (folder / "README.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in told] == ["Runs", "Models", "Vectors"]


def test_models_in_the_run_s_folder_load_and_their_cards_tell_of_the_test(
    finished: Path,
) -> None:
    import sentence_transformers
    from huggingface_hub import ModelCard

    folder = finished / "runs" / "toy" / "retrievers"
    assert sorted(path.name for path in folder.iterdir()) == sorted(METHODS[2:])
    model = sentence_transformers.SentenceTransformer(str(folder / "sptar"))
    assert model.encode_query(["a drill"]).shape[0] == 1
    data = ModelCard.load(folder / "sptar" / "README.md").data
    start = json.loads((folder.parent / "run.json").read_text())["config"]["train"]["start"]
    assert data.base_model == Path(start).name
    assert (data.language, data.license) == ("en", "unknown")
    assert data.model_name == "toy-sptar"
    means = {result.metric_name: result.metric_value for result in data.eval_results}
    assert set(means) == {"nDCG@10", "RR@10", "R@100", "AP@1000"}
    report = (finished / "runs" / "toy" / "scores.csv").read_text()
    assert repr(means["nDCG@10"]) in report
    assert {result.metric_type for result in data.eval_results} >= {"ndcg_at_10", "mrr_at_10"}
    for path in folder.glob("*/README.md"):
        assert str(finished) not in path.read_text()


def test_every_training_takes_the_same_number_of_steps(finished: Path) -> None:
    """Two epochs of a pass over labels and 24 documents, four pairs a batch, whatever is kept."""
    made = [
        json.loads((path / "manifest.json").read_text()) for path in artefacts(finished, "train")
    ]
    assert len(made) == 4
    assert len({item["summary"]["pairs"] for item in made}) > 1
    pairs = [
        json.loads((path / "manifest.json").read_text())["summary"]
        for path in artefacts(finished, "pairs")
    ]
    (labels,) = {item["labels"] for item in pairs}
    assert {item["summary"]["steps"] for item in made} == {2 * -(-(labels + 24) // 4)}


def test_exactly_one_row_for_each_document_and_one_decision_for_each_row(finished: Path) -> None:
    for folder in artefacts(finished, "augment"):
        rows = [row for _, row in read_jsonl(folder / "weak_queries.jsonl")]
        assert len(rows) == len({row["doc_id"] for row in rows}) == 24
    for folder in artefacts(finished, "filter"):
        decisions = [Decision(**row) for _, row in read_jsonl(folder / "decisions.jsonl")]
        assert len({decision.query_id for decision in decisions}) == len(decisions) == 24
        assert all(decision.kept == (decision.reason == "kept") for decision in decisions)


def test_methods_share_what_has_the_same_causes(finished: Path) -> None:
    counts = {
        step: len(artefacts(finished, step))
        for step in ("collection", "split", "bm25_index", "tune", "select", "augment", "encode")
    }
    assert counts == {
        "collection": 1,
        "split": 1,
        "bm25_index": 1,
        "tune": 1,
        "select": 2,  # scored with the soft prompt; drawn for both InPars prompts
        "augment": 3,
        "encode": 5,
    }


def test_a_second_run_reuses_everything(
    finished: Path, make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(make_config())
    before = {path: path.stat().st_mtime_ns for path in (finished / "artefacts").rglob("*")}
    planned = json_of(capsys, "plan", config, "--work", str(finished), "--no-probe")
    assert {step["state"] for step in planned["steps"]} == {"reuse"}
    assert run_application(["run", config, "--work", str(finished)]) == 0
    after = {path: path.stat().st_mtime_ns for path in (finished / "artefacts").rglob("*")}
    assert after == before
    capsys.readouterr()
    shown = json_of(capsys, "status", "toy", "--work", str(finished))
    assert shown["finished"]
    assert all(step["reused"] for step in shown["steps"])


def test_a_single_step_leaves_the_record_of_a_finished_run(
    finished: Path, make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished / "runs" / "toy"
    before = {name: (folder / name).read_bytes() for name in ("run.json", "config.yaml")}
    work = ["--work", str(finished)]
    assert run_application(["encode", str(make_config()), *work]) == 0
    assert "keeps its record" not in capsys.readouterr().err
    assert run_application(["encode", str(make_config()), "--set", "evaluate.top_k=7", *work]) == 0
    assert "keeps its record" in capsys.readouterr().err
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert json_of(capsys, "status", "toy", *work)["finished"]


def test_a_step_without_a_run_is_recorded_as_unfinished(
    finished: Path, make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(make_config(name="begun")), "--work", str(finished)]
    json_of(capsys, "tune", *arguments)
    assert not json_of(capsys, "status", "begun", "--work", str(finished))["finished"]
    assert run_application(["search", "a drill", "--run", "begun", *arguments[1:]]) == 2
    assert "Finish the run first: sptar run CONFIG" in capsys.readouterr().err


def test_another_cutoff_writes_and_searches_nothing_again(
    finished: Path, make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(filter={"k": [2, 100]}, methods=["bm25", "sptar"], name="sweep")
    planned = json_of(capsys, "plan", str(config), "--work", str(finished), "--no-probe")
    made = {step["name"] for step in planned["steps"] if step["state"] == "make"}
    assert made == {"filter", "pairs", "train", "encode", "search", "evaluate", "compare"}
    assert {method for step in planned["steps"] for method in step["methods"]} == {
        "bm25",
        "sptar@k=2",
        "sptar@k=100",
    }


def test_answers_come_from_the_trained_retriever(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = str(finished)
    for method in ("sptar", "bm25", "zero_shot"):
        found = json_of(
            capsys, "search", "how do i borrow a drill", "--method", method, "--work", work
        )
        assert found["method"] == method
        assert [hit["rank"] for hit in found["hits"]] == list(range(1, len(found["hits"]) + 1))
        scores = [hit["score"] for hit in found["hits"]]
        assert scores == sorted(scores, reverse=True)
        assert scores


def test_the_test_role_is_never_augmented_or_trained_on(finished: Path) -> None:
    from sptar.data.collection import Collection
    from sptar.data.splits import Split

    collection = Collection.open(the_file(finished, "collection", "collection"))
    split = Split.load(the_file(finished, "split", "split"))
    judged = {doc_id for row in collection.judgements(split.test).values() for doc_id in row}
    for folder in artefacts(finished, "pairs"):
        for _, row in read_jsonl(folder / "pairs.jsonl"):
            assert row["query_id"] not in split.test
            assert row["source"] == "label" or row["doc_id"] not in judged


def test_speed_settings_change_no_text_and_no_decision(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    slow = make_config(augment={"batch_size": 1, "block_size": 24}, filter={"block_size": 3})
    fast = make_config(augment={"batch_size": 16, "block_size": 5}, filter={"block_size": 24})
    works = (tmp_path / "slow", tmp_path / "fast")
    for config, work in zip((slow, fast), works, strict=True):
        arguments = ["filter", str(config), "--work", str(work), "--set", "methods=[bm25, sptar]"]
        assert run_application(arguments) == 0
    for step, name in (("rank", "ranked.jsonl"), ("filter", "decisions.jsonl")):
        one, other = (the_file(work, step, name) for work in works)
        assert one.parent.name == other.parent.name
        assert one.read_bytes() == other.read_bytes()
    one_by_one, together = (
        [row for _, row in read_jsonl(the_file(work, "augment", "weak_queries.jsonl"))]
        for work in works
    )
    for row, other_row in zip(one_by_one, together, strict=True):
        # The sum of log-probabilities is a float32 figure: its last digit knows the batch.
        assert row.pop("log_probability") == pytest.approx(
            other_row.pop("log_probability"), abs=2e-4
        )
        assert row == other_row


def test_killed_anywhere_and_restarted_gives_the_same_bytes(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(methods=["bm25", "sptar"], augment={"block_size": 1, "batch_size": 1})
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    assert run_application(["evaluate", str(config), "--work", str(calm)]) == 0
    # Processes of their own, which need not import the libraries one after the other.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["sptar.cli.app", "peft", "sentence_transformers", "bm25s"])

    def start() -> multiprocessing.process.BaseProcess:
        line = ["evaluate", str(config), "--work", str(stormy)]
        process = processes.Process(target=run_application, args=(line,))
        process.start()
        return process

    moments = random.Random(5)
    # Each kill comes shortly after a step has begun, however fast this machine is.
    for step in ("tune", "augment", "train"):
        process = start()
        while not artefacts(stormy, step):
            assert process.is_alive(), f"it ended before {step}"
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, step
    assert run_application(["evaluate", str(config), "--work", str(stormy)]) == 0
    for step, name in (
        ("tune", "adapter/adapter_model.safetensors"),
        ("select", "selection.json"),
        ("augment", "weak_queries.jsonl"),
        ("filter", "decisions.jsonl"),
        ("train", "model/model.safetensors"),
        ("search", "run.trec.gz"),
    ):
        assert (
            the_file(calm, step, name).read_bytes() == the_file(stormy, step, name).read_bytes()
        ), name
    assert [path.name for path in artefacts(calm, "evaluate")] == [
        path.name for path in artefacts(stormy, "evaluate")
    ]


def test_weak_queries_made_elsewhere(
    make_config: MakeConfig, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        row
        for _, row in read_jsonl(artefacts(finished, "augment")[0] / "weak_queries.jsonl")
        if row["text"]
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text(
        "".join(json.dumps({"doc_id": r["doc_id"], "text": r["text"]}) + "\n" for r in rows)
    )
    config = str(make_config())
    made = json_of(
        capsys, "import-weak", str(file), config, "--method", "mine", "--work", str(finished)
    )
    assert made[0]["summary"]["rows"] == len(rows)
    assert sum(made[1]["summary"]["funnel"].values()) == len(rows)
    arguments = ["--set", f"weak_queries.mine={file}", "--set", "methods=[bm25, mine]"]
    assert (
        run_application(
            ["run", config, *arguments, "--set", "name=imported", "--work", str(finished)]
        )
        == 0
    )
    file.write_text('{"doc_id": "nowhere", "text": "x"}\n')
    assert run_application(["import-weak", str(file), config, "--work", str(finished)]) == 2
    assert "mine.jsonl:1: the corpus has no document 'nowhere'" in capsys.readouterr().err


def test_cutoff_chosen_on_dev_and_equal_pairs(
    make_config: MakeConfig, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(
        name="auto",
        methods=["bm25", "inpars", "sptar"],
        filter={"k": "auto", "auto_k": [3, 100]},
    )
    assert run_application(["run", str(config), "--equal-pairs", "--work", str(finished)]) == 0
    capsys.readouterr()
    choices = [
        Workspace(finished).find(*path.name.split("-")) for path in artefacts(finished, "choose")
    ]
    assert len(choices) == 2
    for choice in choices:
        assert choice is not None
        scores = choice.manifest.summary["dev_scores"]
        assert scores[str(choice.manifest.summary["k"])] == max(scores.values())
    record = json_of(capsys, "status", "auto", "--work", str(finished))
    counts = set()
    for step in record["steps"]:
        if step["name"] == "pairs":
            made = Workspace(finished).find("pairs", step["fingerprint"])
            assert made is not None
            counts.add(made.manifest.summary["weak"])
    assert len(counts) <= 2  # one number for each k, whatever the method


def test_paper_mode_and_lora_and_no_examples(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        name="other",
        shape="gpt2",
        methods=["bm25", "sptar"],
        split={"mode": "paper", "eval_from": "dev"},
        tune={"method": "lora", "epochs": 1},
        prompt={"examples": 0},
    )
    assert run_application(["run", str(config), "--work", str(tmp_path)]) == 0
    page = (tmp_path / "runs" / "other" / "report.html").read_text()
    assert "paper" in page


def test_plan_with_a_probe(make_config: MakeConfig, tmp_path: Path, capsys: Any) -> None:
    planned = json_of(capsys, "plan", str(make_config()), "--work", str(tmp_path))
    probe = planned["probe"]
    assert probe["documents_to_write"] == 3 * 24
    assert probe["documents_per_second"] > 0
    assert probe["seconds"] == pytest.approx(72 / probe["documents_per_second"])
    states = {step["name"]: step["state"] for step in planned["steps"]}
    assert states["augment"] == "make"
    assert not artefacts(tmp_path, "augment")
    assert not probe["tuned"]
    assert len(artefacts(tmp_path, "split")) == 1


def test_a_plan_tries_the_tuned_prompt_when_it_is_there(
    finished: Path, make_config: MakeConfig, capsys: Any
) -> None:
    config = str(make_config(augment={"temperature": 0.9}, methods=["bm25", "sptar"]))
    planned = json_of(capsys, "plan", config, "--work", str(finished))
    assert planned["probe"]["tuned"]
    assert planned["probe"]["documents_to_write"] == 24


def test_a_soft_prompt_from_elsewhere_takes_the_place_of_tuning(
    finished: Path, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = the_file(finished, "tune", "adapter")
    config = str(make_config(tune={"adapter": str(adapter)}, methods=["bm25", "sptar"]))
    made = json_of(capsys, "tune", config, "--work", str(tmp_path))
    assert made[0]["summary"] == {"method": "imported", "virtual_tokens": 4}
    assert run_application(["augment", config, "--work", str(tmp_path)]) == 0
    # The same prompt, the same examples, the same random streams: the same weak queries.
    ours = the_file(tmp_path, "augment", "weak_queries.jsonl").read_bytes()
    theirs = [path / "weak_queries.jsonl" for path in artefacts(finished, "augment")]
    assert ours in [path.read_bytes() for path in theirs]
    other = str(make_config(tune={"adapter": str(adapter)}, shape="bert", methods=["sptar"]))
    capsys.readouterr()
    missing = ["tune", other, "--set", "tune.adapter=nowhere", "--work", str(tmp_path)]
    assert run_application(missing) == 2
    assert "nowhere" in capsys.readouterr().err
