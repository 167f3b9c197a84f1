"""Several retrievers in one run, through the command line: shared work, fusions, answers, resuming.

Weak queries come from a file: no language model takes part.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sptar.blocks import Block
from sptar.cli.app import run_application
from sptar.config import load_config
from sptar.executors.local import LocalExecutor, WorkerFactory
from sptar.graph.methods import build_graph
from sptar.graph.runs import RunGraph
from sptar.io import read_jsonl
from sptar.pipeline import load_record
from sptar.steps.base import Context, make
from sptar.trec import read_run
from sptar.workspace import Artefact, Workspace

MakeConfig = Callable[..., Path]
FIRST = ["dpr", "static", "bm25ce", "bm25dpr", "bm25+dpr"]
LATER = ["colbert", "tas_b", "splade", "dpr"]
METHODS = ["bm25", "zero_shot", "no_augmentation", "written"]


@pytest.fixture(scope="module")
def config(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the toy collection whose weak queries are the first words of documents."""
    rows = []
    source = resources.files("sptar.starter") / "toy_collection" / "corpus.jsonl"
    for line in source.read_text().splitlines()[::4]:
        document = json.loads(line)
        text = " ".join(f"{document['title']} {document['text']}".split()[:6])
        rows.append(json.dumps({"doc_id": document["_id"], "text": text}))
    file = tmp_path_factory.mktemp("weak") / "written.jsonl"
    file.write_text("\n".join(rows) + "\n")
    return make_config(
        name="several",
        methods=METHODS,
        split={"train_queries": 5, "eval_queries": 4},
        filter={"k": 20},
        weak_queries={"written": str(file)},
        train={"epochs": 1, "batch_size": 8, "max_tokens": 32, "dev_negatives": 2},
        search={"rerank_depth": 10},
        evaluate={"bootstrap_samples": 100, "top_k": 30},
        retrievers=FIRST,
    )


@pytest.fixture(scope="module")
def work(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which the run has finished."""
    folder = tmp_path_factory.mktemp("work")
    assert run_application(["run", str(config), "--work", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def more(config: Path, work: Path) -> Path:
    """The same work folder after a second run with other retrievers."""
    arguments = ["--set", f"retrievers={json.dumps(LATER)}", "--set", "name=more"]
    arguments += ["--set", "methods=[bm25, written]"]
    assert run_application(["run", str(config), *arguments, "--work", str(work)]) == 0
    return work


def artefacts(work: Path, step: str) -> list[Path]:
    return sorted((work / "artefacts").glob(f"{step}-*"))


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert run_application([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def run_of(work: Path, name: str, method: str, step: str) -> dict[str, dict[str, float]]:
    workspace = Workspace(work)
    found = load_record(workspace, name).artefact(workspace, method, step)
    return read_run(found.path("run.trec.gz"))


def test_every_method_meets_every_retriever(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json_of(capsys, "report", "several", "--work", str(work))
    trained = [f"{method}/{row}" for row in FIRST for method in METHODS[1:]]
    assert list(report["means"]) == [
        "bm25",
        *[name for name in trained if name != "zero_shot/bm25ce"],
    ]
    record = json_of(capsys, "status", "several", "--work", str(work))
    assert record["left_out"].keys() == {"zero_shot/bm25ce"}
    assert record["parts"]["written/bm25+dpr"] == {"method": "written", "retriever": "bm25+dpr"}
    assert record["parts"]["bm25"] == {"method": "bm25", "retriever": None}
    models = work / "runs" / "several" / "retrievers" / "written"
    assert sorted(path.name for path in models.iterdir()) == sorted(FIRST)
    assert (models / "bm25ce" / "model.safetensors").exists()
    # The reranker by dpr is dpr's model, and a fusion has no other one either.
    weights = [models / name / "model.safetensors" for name in ("dpr", "bm25dpr", "bm25+dpr")]
    assert len({path.resolve() for path in weights}) == 1
    # A card tells of the test of its own system; what a fusion scores is not one model's.
    cards = {name: (models / name / "README.md").read_text() for name in FIRST}
    assert "BM25DPR on" in cards["bm25dpr"]
    assert {name for name, text in cards.items() if "model-index" not in text} == {"bm25+dpr"}
    assert (work / "runs" / "several" / "written--bm25+dpr.trec.gz").exists()


def test_what_retrievers_share_is_made_once(work: Path) -> None:
    counts = {
        step: len(artefacts(work, step))
        for step in ("collection", "bm25_index", "import_weak", "rank", "filter", "pairs")
    }
    assert counts == {
        "collection": 1,
        "bm25_index": 1,
        "import_weak": 1,
        "rank": 1,
        "filter": 1,
        "pairs": 2,
    }
    record = load_record(Workspace(work), "several")
    steps = [step.name for step in record.steps]
    assert steps.count("train") == 2 * len(["dpr", "static", "bm25ce"])
    assert steps.count("encode") == 3 * len(["dpr", "static"])
    assert steps.count("mine") == 2


def test_rerankers_and_fusions_hold_what_they_should(work: Path) -> None:
    bm25 = run_of(work, "several", "bm25", "bm25_search")
    dense = run_of(work, "several", "written/dpr", "search")
    for retriever in ("bm25ce", "bm25dpr"):
        reranked = run_of(work, "several", f"written/{retriever}", "rerank")
        for query_id, scores in reranked.items():
            best = sorted(bm25[query_id], key=lambda doc: (-bm25[query_id][doc], doc))[:10]
            assert set(scores) == set(best)
    by_dpr = run_of(work, "several", "written/bm25dpr", "rerank")
    for query_id, scores in by_dpr.items():
        for doc_id, score in scores.items():
            if doc_id in dense[query_id]:
                assert score == pytest.approx(dense[query_id][doc_id], abs=1e-6)
    fused = run_of(work, "several", "written/bm25+dpr", "fuse")
    assert set(fused) == set(dense)
    for query_id, scores in fused.items():
        expected: dict[str, float] = {}
        for run in (bm25, dense):
            found = run.get(query_id, {})
            for rank, doc_id in enumerate(sorted(found, key=lambda d: (-found[d], d)), start=1):
                expected[doc_id] = expected.get(doc_id, 0.0) + 1 / (60 + rank)
        best = sorted(expected, key=lambda doc: (-expected[doc], doc))[:30]
        assert list(scores) == best
        assert scores == pytest.approx({doc: expected[doc] for doc in best})


def test_a_further_retriever_makes_its_own_steps_only(
    config: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--set", f"retrievers={json.dumps([*FIRST, 'colbert'])}", "--no-probe"]
    planned = json_of(capsys, "plan", str(config), *arguments, "--work", str(work))
    states = [(step["name"], step["state"], step["methods"]) for step in planned["steps"]]
    made = {name for name, state, _ in states if state == "make"}
    assert made == {"mine", "train", "encode", "search", "evaluate", "compare"}
    for name, state, methods in states:
        if state == "make" and name != "compare":
            assert all(method.endswith("/colbert") for method in methods)
    assert planned["left_out"].keys() == {"zero_shot/bm25ce"}


def test_other_families_join_in_and_teachers_are_trained_for_the_student(
    more: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = load_record(Workspace(more), "more")
    assert list(record.methods) == ["bm25", *[f"written/{row}" for row in LATER]]
    steps = {(step.name, step.fingerprint): step.reused for step in record.steps}
    trained = [key for key in steps if key[0] == "train"]
    # Four rows and the cross-encoder that teaches tas_b; that one and dpr were there before.
    assert len(trained) == 5
    assert sum(steps[key] for key in trained) == 2
    own = record.methods["written/tas_b"]
    taught = Workspace(more).find("teach", own["teach"])
    assert taught is not None
    assert taught.manifest.inputs["late"] == record.methods["written/colbert"]["train"]
    report = json_of(capsys, "report", "more", "--work", str(more))
    assert list(report["means"]) == list(record.methods)


def test_answers_come_from_every_kind_of_retriever(
    more: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [("several", f"written/{row}") for row in FIRST]
    asked += [("more", f"written/{row}") for row in LATER[:3]]
    asked += [("several", "zero_shot/bm25+dpr"), ("several", "bm25")]
    for run, method in asked:
        found = json_of(
            capsys,
            *("search", "how do i borrow a drill", "--run", run, "--method", method),
            *("--work", str(more), "--top", "3"),
        )
        assert found["method"] == method
        scores = [hit["score"] for hit in found["hits"]]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)
    first = json_of(capsys, "search", "drill", "--run", "several", "--work", str(more))
    assert first["method"] == "written/bm25+dpr"
    named = ["search", "drill", "--run", "more", "--method", "written", "--work", str(more)]
    assert json_of(capsys, *named)["method"] == "written/colbert"


def test_a_question_is_answered_as_a_test_query_is(
    more: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sptar.data.collection import Collection

    record = load_record(Workspace(more), "several")
    found = record.artefact(Workspace(more), "bm25", "collection")
    collection = Collection.open(found.path("collection"))
    for run, method, step in (
        ("several", "written/bm25ce", "rerank"),
        ("several", "written/bm25+dpr", "fuse"),
        ("more", "written/colbert", "search"),
        ("more", "written/splade", "search"),
    ):
        query_id, scores = next(iter(run_of(more, run, method, step).items()))
        text = collection.queries[query_id].text
        answered = json_of(
            capsys, "search", text, "--run", run, "--method", method, "--work", str(more)
        )
        assert [hit["doc_id"] for hit in answered["hits"]] == list(scores)[:5], method
        for hit in answered["hits"]:
            assert hit["score"] == pytest.approx(scores[hit["doc_id"]], abs=1e-4)


def test_one_retriever_is_trained_by_name(
    config: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = json_of(
        capsys,
        "train",
        str(config),
        "--retriever",
        "static",
        "--work",
        str(work),
        *["--set"],
        "name=one",
    )
    assert {item["summary"]["retriever"] for item in made} == {"static"}
    assert all(item["reused"] for item in made)
    assert sorted(item["methods"] for item in made) == [["no_augmentation"], ["written"]]
    mined = json_of(
        capsys,
        "mine",
        str(config),
        "--retriever",
        "bm25ce",
        "--work",
        str(work),
        "--set",
        "name=one",
    )
    assert all(item["reused"] and item["summary"]["random"] for item in mined)
    rows = [row for _, row in read_jsonl(Path(mined[0]["folder"]) / "negatives.jsonl")]
    pairs = [row for _, row in read_jsonl(artefact_of(mined[0], work, "pairs") / "pairs.jsonl")]
    answers: dict[str, set[str]] = {}
    for row in pairs:
        answers.setdefault(row["text"], set()).add(row["doc_id"])
    for row, pair in zip(rows, pairs, strict=True):
        assert (row["query_id"], row["doc_id"]) == (pair["query_id"], pair["doc_id"])
        assert len(set(row["negatives"])) == 4
        assert not set(row["negatives"]) & answers[pair["text"]]


def artefact_of(made: dict[str, Any], work: Path, step: str) -> Path:
    manifest = json.loads((Path(made["folder"]) / "manifest.json").read_text())
    return work / "artefacts" / f"{step}-{manifest['inputs'][step]}"


class Stopping(LocalExecutor):
    """Does so many blocks and is killed then; counts what it did."""

    def __init__(self, blocks: int | None = None) -> None:
        self.left = blocks
        self.done: list[int] = []

    def share(
        self, blocks: Sequence[Block], factory: WorkerFactory, on_done: Callable[[Block], None]
    ) -> None:
        work = factory()
        for block in blocks:
            if self.left is not None and len(self.done) == self.left:
                raise KeyboardInterrupt
            work(block)
            self.done.append(block.number)


def graph_of(config: Path, work: Path, *retrievers: str) -> RunGraph:
    settings = load_config(config, [f"retrievers={json.dumps(retrievers)}"])
    return build_graph(settings, Workspace(work))


@pytest.mark.parametrize(
    ("name", "retriever", "module", "size", "file"),
    [
        ("mine", "tas_b", "mine", 4, "negatives.jsonl"),
        ("teach", "tas_b", "teach", 4, "scores.npy"),
        ("encode", "colbert", None, 0, "vectors"),
        ("rerank", "bm25ce", "rerank", 9, "run.trec.gz"),
    ],
)
def test_killed_in_the_middle_and_restarted_gives_the_same_bytes(
    config: Path,
    more: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    retriever: str,
    module: str | None,
    size: int,
    file: str,
) -> None:
    work = tmp_path / "work"
    shutil.copytree(more, work, symlinks=True)
    graph = graph_of(config, work, retriever)
    step = graph.method("written").own_steps()[name]
    shutil.rmtree(step.artefact(Workspace(work)).folder)
    if module is not None:
        monkeypatch.setattr(f"sptar.steps.{module}._BLOCK", size)
    calm = make(step, Context(Workspace(work))).artefact
    whole = content(calm, file)
    shutil.rmtree(calm.folder)
    killed = Stopping(2)
    with pytest.raises(KeyboardInterrupt):
        make(step, Context(Workspace(work), executor=killed))
    assert killed.done == [0, 1]
    again = Stopping()
    made = make(step, Context(Workspace(work), executor=again))
    assert made.artefact.manifest.resumed
    assert again.done
    assert min(again.done) == 2
    assert content(made.artefact, file) == whole


def content(artefact: Artefact, file: str) -> list[bytes]:
    path = artefact.path(file)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [item.read_bytes() for item in files]
