"""Finished runs compared: read, joined, and written as page, CSV, LaTeX, JSON and text."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from made_runs import drawn_scores, simple_run
from test_report_build import Page

from sptar.cli.app import run_application
from sptar.errors import DataError, WorkspaceError
from sptar.evaluation.across import JointComparison, join_runs
from sptar.evaluation.evaluate import Scores
from sptar.report.joint import joint_csv, joint_json, joint_latex, joint_page, write_joint
from sptar.report.overview import overviews
from sptar.report.runs import RunPlace, parse_places, read_run

LONG = ["--bootstrap-samples", "200"]


def systems(seed: int, shift: float = 0.08) -> dict[str, Scores]:
    return {
        "bm25": drawn_scores(1),
        "inpars": drawn_scores(seed + 50),
        "sptar": drawn_scores(seed, shift),
    }


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one collection with DPR, one of another, and a run with ColBERT."""
    folder = tmp_path_factory.mktemp("work")
    simple_run(folder, "toy-1", systems(11), seed=1)
    simple_run(folder, "toy-2", systems(22), seed=2)
    simple_run(folder, "late-1", systems(33), seed=1, train={"retriever": "colbert"})
    other = {"source": "some/other"}
    simple_run(folder, "other-1", systems(44), seed=1, collection="beefbeef", data=other)
    simple_run(folder, "half", systems(55), finished=False)
    return folder


def joined(work: Path, *names: str) -> JointComparison:
    return join_runs([read_run(RunPlace(work, name)) for name in names], bootstrap_samples=100)


def test_places() -> None:
    work = Path("work")
    assert parse_places(["a, b", "c:d:e", "a", ""], work) == [
        RunPlace(work, "a"),
        RunPlace(work, "b"),
        RunPlace(Path("c:d"), "e"),
    ]


def test_a_run_is_read(work: Path) -> None:
    run = read_run(RunPlace(work, "late-1"))
    assert list(run.systems) == ["bm25", "inpars/colbert", "sptar/colbert"]
    assert run.systems["sptar/colbert"] == systems(33)["sptar"]
    assert (run.title, run.seed, run.collection) == ("toy_collection", 1, "toy0")
    assert run.judgements == "the split 'test'"
    assert run.settings["colbert.max_query_tokens"] == "32"
    assert "colbert.device" not in run.settings
    assert not any(name.endswith("seed") for name in run.settings)
    assert read_run(RunPlace(work, "toy-1")).settings.keys() >= {"dpr.epochs", "split.mode"}


def test_runs_that_cannot_be_read(work: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"'half' in .* is not finished"):
        read_run(RunPlace(work, "half"))
    with pytest.raises(WorkspaceError, match="no run 'none'"):
        read_run(RunPlace(work, "none"))


def test_other_test_splits_and_settings(work: Path, tmp_path: Path) -> None:
    simple_run(tmp_path, "dev", systems(2), seed=2, split={"test_from": "dev"})
    runs = [read_run(RunPlace(work, "toy-1")), read_run(RunPlace(tmp_path, "dev"))]
    with pytest.raises(DataError, match="different qrels of 'toy_collection': the split 'test'"):
        join_runs(runs)
    simple_run(tmp_path, "deep", systems(2), seed=2, evaluate={"top_k": 50})
    with pytest.raises(DataError, match=r"evaluate\.top_k is 1000 in .*toy-1, 50 in .*deep\."):
        join_runs([runs[0], read_run(RunPlace(tmp_path, "deep"))])
    simple_run(tmp_path, "long", systems(2), seed=2, train={"epochs": 3}, tune={"epochs": 9})
    runs = [read_run(RunPlace(work, "toy-1")), read_run(RunPlace(tmp_path, "long"))]
    with pytest.raises(DataError, match=r"dpr\.epochs is 20 in .*toy-1, 3 in .*long; tune\.epochs"):
        join_runs(runs)
    (found,) = join_runs(runs, bootstrap_samples=100, mixed=True).collections
    assert found.notes == (
        "These runs differ in settings other than the seed (2): dpr.epochs, tune.epochs.",
    )


def test_retrievers_of_different_runs_become_blocks(work: Path) -> None:
    (found,) = joined(work, "toy-1", "late-1").collections
    assert list(found.scores) == [
        "bm25",
        "inpars/dpr",
        "sptar/dpr",
        "inpars/colbert",
        "sptar/colbert",
    ]
    assert [item.target for item in found.family.comparisons] == ["sptar/dpr", "sptar/colbert"]


def test_test_sets_of_other_sizes_are_not_joined(tmp_path: Path) -> None:
    carved = {"carve_from": "test"}
    simple_run(tmp_path, "all", systems(11), seed=1, split=carved)
    simple_run(tmp_path, "some", systems(22), seed=2, split={**carved, "carve_test_queries": 1500})
    with pytest.raises(DataError, match="a test set drawn .* against a test set of 1,500 queries"):
        joined(tmp_path, "all", "some")


def test_one_collection_has_no_overview(work: Path) -> None:
    joint = joined(work, "toy-1", "toy-2")
    assert overviews(joint) == ()
    page = joint_page(joint)
    assert "All collections" not in page
    assert "Seeds: 1, 2." in page
    assert page.count("<svg") == 2, "a chart for each measure"
    assert "±" in page


def test_the_overview_of_two_collections(work: Path) -> None:
    joint = joined(work, "toy-1", "toy-2", "other-1")
    first, second = overviews(joint)
    assert (first.measure, second.measure) == ("nDCG@10", "RR@10")
    assert first.collections == ("toy_collection", "other")
    assert [row.system for row in first.rows] == ["bm25", "inpars", "sptar"]
    for row in first.rows:
        expected = [item.scores[row.system].mean("nDCG@10") for item in joint.collections]
        assert row.means == tuple(expected)
        assert row.average == pytest.approx(sum(expected) / 2)
    assert [row.best for row in first.rows] == [(False,) * 3, (False,) * 3, (True,) * 3]


def test_csv(work: Path) -> None:
    joint = joined(work, "toy-1", "toy-2", "other-1")
    rows = list(csv.DictReader(io.StringIO(joint_csv(joint))))
    assert len(rows) == 2 * 3 * 2 + 3 * 2
    toy = joint.collections[0]
    bm25 = rows[0]
    assert (bm25["collection"], bm25["method"], bm25["measure"]) == (
        "toy_collection",
        "bm25",
        "nDCG@10",
    )
    item = toy.family.comparisons[0].find("bm25", "nDCG@10")
    assert bm25["target"] == "sptar"
    assert float(bm25["mean"]) == toy.scores["bm25"].mean("nDCG@10")
    for name in ("difference", "low", "high", "p_value", "p_holm", "p_one_sided", "detectable"):
        assert float(bm25[name]) == getattr(item, name)
    assert bm25["mark"] == "below"
    target = next(row for row in rows if row["method"] == "sptar")
    assert (target["target"], target["p_holm"], target["seeds"]) == ("", "", "2")
    assert float(target["sd over seeds"]) == toy.spread["sptar"][0]
    last = rows[-1]
    assert (last["collection"], last["measure"]) == ("average", "RR@10")
    assert float(last["mean"]) == joint.average("sptar", "RR@10")
    assert last["p_holm"] == ""


def test_latex(work: Path) -> None:
    text = joint_latex(joined(work, "toy-1", "toy-2", "other-1"))
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2 + 2
    assert r"toy\_collection & other & Average" in text
    assert r"\caption{toy\_collection. Means over 24 test queries and 2 seeds" in text
    assert r"$\pm$" in text
    assert r"\toprule" in text
    assert text.isascii()


def test_json(work: Path) -> None:
    joint = joined(work, "toy-1", "toy-2", "other-1")
    value = json.loads(json.dumps(joint_json(joint), allow_nan=False))
    first = value["collections"][0]
    assert first["seeds"] == [1, 2]
    assert first["queries"] == 24
    assert first["tests"] == 4
    assert first["means"]["sptar"]["nDCG@10"] == joint.collections[0].scores["sptar"].mean(
        "nDCG@10"
    )
    assert first["sd_over_seeds"]["bm25"] == {"nDCG@10": 0.0, "RR@10": 0.0}
    assert value["collections"][1]["sd_over_seeds"]["bm25"] == {"nDCG@10": None, "RR@10": None}
    assert len(first["contests"][0]["differences"]) == 4
    assert value["average"]["sptar"]["RR@10"] == joint.average("sptar", "RR@10")


def test_the_page_is_self_contained(work: Path, tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    data = {"source": f"some/{evil}"}
    simple_run(tmp_path, "evil", systems(3), collection="0123", data=data, llm={"name": evil})
    runs = [read_run(RunPlace(work, "toy-1")), read_run(RunPlace(tmp_path, "evil"))]
    page = joint_page(join_runs(runs, bootstrap_samples=100))
    assert "<script" not in page
    assert "&lt;" in page
    parsed = Page(page)
    assert len(parsed.tags("caption")) == len(parsed.tags("table")) == 2 * 2 + 2
    assert len(parsed.tags("figcaption")) == len(parsed.tags("svg")) == 2 * 2
    assert all("scope" in cell for cell in parsed.tags("th"))
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "http:" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in page
    assert "url(" not in page.replace("url(#", ""), "a chart may name its own parts alone"
    assert "default-src 'none'" in page


def test_files(work: Path, tmp_path: Path) -> None:
    page = write_joint(joined(work, "toy-1", "other-1"), tmp_path / "out")
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "comparison.csv",
        "comparison.html",
        "comparison.json",
        "comparison.tex",
    ]


# --- the command line ---------------------------------------------------------------------------


def test_compare_finished_runs(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    names = f"toy-1,toy-2,{work}:other-1"
    arguments = ["compare", "--work", str(work), "--runs", names, "--out", str(out), *LONG]
    assert run_application(arguments) == 0
    printed = capsys.readouterr().out
    for expected in ("toy_collection", "SPTAR", "average", "seeds 1, 2", "In nDCG@10, SPTAR"):
        assert expected in printed
    assert (out / "comparison.html").is_file()
    assert run_application([*arguments, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == json.loads((out / "comparison.json").read_text())


def test_another_target(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "--work", str(work), "--runs", "toy-1", "--runs", "toy-2", *LONG]
    assert run_application([*arguments, "--target", "inpars", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [item["target"] for item in value["collections"][0]["contests"]] == ["inpars"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Neither a config nor --runs is given"),
        (["x.yaml", "--runs", "a"], "Both are given"),
        (["x.yaml", "--out", "o"], "belong to --runs"),
        (["x.yaml", "--alpha", "0.1"], "belong to --runs"),
        (["--runs", "toy-1", "--set", "seed=1"], "belong to a config"),
        (["--runs", "toy-1", "--alpha", "2"], "--alpha is between 0 and 1"),
        (["--runs", "toy-1", "--bootstrap-samples", "3"], "from 100 to 1,000,000"),
        (["--runs", "half"], "is not finished"),
        (["--runs", "toy-1", "--target", "nobody"], "no scores of 'nobody'"),
        (["--runs", ","], "no run to compare"),
    ],
)
def test_what_is_wrong_is_said(
    work: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_application(["compare", "--work", str(work), *arguments]) == 2
    assert message in capsys.readouterr().err
