"""From a run's artefacts to its page: one retriever, and several that share their weak queries."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from made_runs import MadeRun, drawn_scores, whole_run

from sptar.io import lines
from sptar.pipeline import load_record
from sptar.report.collect import WrittenReport, write_report
from sptar.trec import write_run


def written(made: MadeRun) -> tuple[WrittenReport, str]:
    report = write_report(made.workspace, load_record(made.workspace, made.name))
    return report, report.page.read_text(encoding="utf-8")


def files(made: MadeRun) -> list[str]:
    folder = made.workspace.run_folder(made.name)
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".json", ".yaml"))


FILES = [
    "README.txt",
    *("comparison.csv", "report.html", "scores.csv", "scores.tex", "test.qrels"),
]


def test_one_retriever_has_a_plain_table(tmp_path: Path) -> None:
    made = whole_run(tmp_path, ())
    report, page = written(made)
    assert report.table.columns == ["method", "nDCG@10", "RR@10", "steps"]
    assert [row[0] for row in report.table.rows] == ["BM25", "Zero-shot", "InPars", "SPTAR"]
    assert len(report.verdict) == 1 + 3
    assert report.verdict[0].startswith("In nDCG@10, SPTAR ")
    assert "Retriever</th>" not in page
    assert "†" in page
    assert page.count("<h3>SPTAR</h3>") == 1
    assert "SPTAR: retriever on dev" in page
    assert files(made) == FILES


def test_several_retrievers_have_blocks(tmp_path: Path) -> None:
    made = whole_run(tmp_path, ("dpr", "colbert"))
    report, page = written(made)
    assert report.table.columns == ["retriever", "method", "nDCG@10", "RR@10", "steps"]
    assert [row[:2] for row in report.table.rows] == [
        ["DPR", "BM25"],
        ["", "Zero-shot"],
        ["", "InPars"],
        ["", "SPTAR"],
        ["ColBERT", "BM25"],
        ["", "Zero-shot"],
        ["", "InPars"],
        ["", "SPTAR"],
    ]
    assert len(report.verdict) == 1 + 2
    assert report.verdict[1].startswith("DPR: SPTAR ")
    assert report.verdict[2].startswith("ColBERT: SPTAR ")
    assert list(report.means) == list(made.methods)
    assert report.means["sptar/colbert"]["RR@10"] == drawn_scores(12, 0.1).mean("RR@10")
    assert files(made) == FILES
    folder = made.workspace.run_folder(made.name)
    assert (folder / "scores.csv").read_text().startswith("retriever,method,")
    assert "multicolumn" not in (folder / "scores.tex").read_text()
    assert (folder / "comparison.csv").read_text().count("\n") == 1 + 2 * 3 * 2
    assert '<th scope="rowgroup" rowspan="5">ColBERT</th>' in page


def test_what_retrievers_share_is_shown_once(tmp_path: Path) -> None:
    _, page = written(whole_run(tmp_path, ("dpr", "colbert", "tas_b")))
    for title in ("SPTAR", "InPars"):
        assert page.count(f"<h3>{title}</h3>") == 1
        assert page.count(f"<figcaption>{title}: 2 generated, 1 kept.") == 1
        assert page.count(f"{title}: 1 of 2 documents were longer") == 1
        assert page.count(f"{title}: 1 of 2 kept weak pairs") == 1
        assert page.count(f"{title}: weak queries that equal a test query") == 1
    assert page.count("SPTAR: tuning") >= 1
    assert page.count("<figcaption>SPTAR: tuning") == 1
    for retriever in ("DPR", "ColBERT", "TAS-B"):
        assert page.count(f"<figcaption>{retriever}: on dev") == 1
    assert "Zero-shot, BM25CE is left out: bm25ce gives no sensible ranking" in page


def test_what_differs_between_retrievers_is_shown_for_each(tmp_path: Path) -> None:
    """Cut-offs that dev chose for each retriever give different kept pairs."""
    made = whole_run(tmp_path, ("dpr", "colbert"))
    other = made.workspace.folder("filter", "f-sptar")
    rows = (other / "decisions.jsonl").read_text()
    folder = made.workspace.folder("filter", "other")
    folder.mkdir()
    (folder / "decisions.jsonl").write_text(rows)
    made.methods["sptar/colbert"]["filter"] = made.finish("filter", "other")
    made.save()
    _, page = written(made)
    assert page.count("<h3>SPTAR</h3>") == 0
    assert page.count("<h3>SPTAR, DPR</h3>") == 1
    assert page.count("<h3>SPTAR, ColBERT</h3>") == 1
    assert page.count("<h3>InPars</h3>") == 1


def test_steps_and_kept_starts_stand_in_the_table_of_scores(tmp_path: Path) -> None:
    made = whole_run(tmp_path, ("dpr", "colbert"))
    # The training of SPTAR with ColBERT ends with its start, after fewer steps than InPars'.
    kept = {"start_dev_score": 0.5, "best_dev_score": 0.5, "best_epoch": 0, "epochs": 2}
    made.methods["sptar/colbert"]["train"] = made.artefact(
        "train",
        "kept0",
        {**kept, "steps": 1000, "parameters": 5, "peak_memory_bytes": None},
        {"train": {"retriever": "colbert"}},
        {"history.json": [{"epoch": 1, "dev_score": 0.3}, {"epoch": 2, "dev_score": 0.4}]},
    )
    made.save()
    report, page = written(made)
    steps = {tuple(row[:2]): row[-1] for row in report.table.rows}
    assert steps["DPR", "BM25"] == steps["", "Zero-shot"] == ""
    assert [row[-1] for row in report.table.rows if row[1] == "SPTAR"] == [
        "1,234",
        "1,000 (start kept)",
    ]
    assert page.count('<td class="n">1,000 (start kept)</td>') == 1
    assert (
        "SPTAR, ColBERT: training did not help. The start encoder was kept, because no epoch was "
        "better on dev than its 0.5000 (best epoch 0.4000)."
    ) in page
    assert (
        "ColBERT: the methods were not trained equally long (InPars, ColBERT 1,234 steps, SPTAR, "
        "ColBERT 1,000 steps)"
    ) in page
    assert "DPR: the methods were not trained" not in page
    rows = list(csv.DictReader((report.page.parent / "scores.csv").read_text().splitlines()))
    told = {(row["retriever"], row["method"]): (row["steps"], row["start kept"]) for row in rows}
    assert told["dpr", "bm25"] == ("", "")
    assert told["dpr", "sptar"] == ("1234", "no")
    assert told["colbert", "sptar"] == ("1000", "yes")


def test_steps_of_a_run_with_one_retriever(tmp_path: Path) -> None:
    report, page = written(whole_run(tmp_path, ()))
    assert [row[-1] for row in report.table.rows] == ["", "", "1,234", "1,234"]
    assert '<th scope="col" class="n">Steps</th>' in page
    assert "not trained equally long" not in page
    rows = list(csv.DictReader((report.page.parent / "scores.csv").read_text().splitlines()))
    assert [row["steps"] for row in rows] == ["", "", "1234", "1234"]


def test_costs_of_each_training(tmp_path: Path) -> None:
    made = whole_run(tmp_path, ("dpr", "colbert"))
    # A reranker uses the training of another retriever: it is told once.
    made.methods["sptar/bm25dpr"] = {**made.methods["sptar/dpr"]}
    made.artefact(
        "train",
        "teacher0",
        {"parameters": 5, "steps": 7, "best_dev_score": 0.1},
        {"train": {"retriever": "bm25ce"}},
    )
    made.save()
    _, page = written(made)
    costs = page.partition('<h2 id="costs">')[2].partition("</section>")[0]
    for title in ("InPars, DPR", "SPTAR, DPR", "InPars, ColBERT", "SPTAR, ColBERT"):
        assert costs.count(f'<th scope="row">{title}</th>') == 1
    assert '<th scope="row">train BM25CE teache</th>' in costs
    assert costs.count("<tr>") == 1 + 5
    assert costs.count("66,000,000") == 4
    assert costs.count("1.0 GiB") == 4
    assert costs.count("12.5 s") == 5
    assert "Teacher" not in costs


def test_a_teacher_from_outside_is_said_first(tmp_path: Path) -> None:
    made = whole_run(tmp_path, ("dpr", "tas_b"))
    _, page = written(made)
    assert "Supervision from outside" not in page
    changes = {"dpr": {"epochs": 2}, "tas_b": {"teacher": "some/cross-encoder"}}
    made.config = made.config.model_copy(update={"recipes": changes})
    made.save()
    _, page = written(made)
    warning = page.partition('role="note"')[2].partition("</div>")[0]
    assert "Made by hand." in warning
    assert "InPars, TAS-B; SPTAR, TAS-B learned from the teacher" in warning
    assert "some/cross-encoder" in warning
    assert page.index(warning) < page.index('id="verdict"')
    costs = page.partition('<h2 id="costs">')[2].partition("</section>")[0]
    assert costs.count("<td>some/cross-encoder</td>") == 2
    assert costs.count("<td>–</td>") == 2


def test_a_fusion_alone_shows_what_lies_below_it(tmp_path: Path) -> None:
    """Its record names only what its parts share; the rest is found through the manifests."""
    made = whole_run(tmp_path, ("dpr",))
    own = made.methods.pop("sptar/dpr")
    made.finish("pairs", own["pairs"], _summary(made, own), inputs={"filter": own["filter"]})
    place = made.workspace.folder("fuse", "fuse0")
    write_run(place / "run.trec.gz", {"q1": {"d1": 1.0}}, "bm25+dpr")
    made.finish("fuse", "fuse0", inputs={"train": own["train"], "pairs": own["pairs"]})
    made.finish("evaluate", own["evaluate"], inputs={"run": "fuse0"})
    keys = ("collection", "split", "evaluate")
    made.methods["sptar/bm25+dpr"] = {key: own[key] for key in keys} | {"fuse": "fuse0"}
    made.save()
    _, page = written(made)
    assert page.count("<figcaption>SPTAR: 2 generated, 1 kept.") == 1
    costs = page.partition('<h2 id="costs">')[2].partition("</section>")[0]
    assert costs.count('<th scope="row">SPTAR, DPR</th>') == 1
    (run,) = made.workspace.run_folder(made.name).glob("sptar--*.trec.gz")
    assert run.name == "sptar--bm25+dpr.trec.gz"
    assert [text for _, text in lines(run)] == ["q1 Q0 d1 1 1.0 sptar/bm25+dpr"]


def _summary(made: MadeRun, steps: dict[str, str]) -> dict[str, Any]:
    found = made.workspace.find("pairs", steps["pairs"])
    assert found is not None
    return found.manifest.summary


def test_labelled_queries_without_a_role_are_told(tmp_path: Path) -> None:
    made = whole_run(tmp_path, ())
    assert "no role" not in written(made)[1]
    roles = {role: {"queries": 3, "pairs": 4} for role in ("train", "evaluation", "dev", "test")}
    for count, sentence in ((1, "1 labelled query has no role"), (1649, "1,649 labelled queries")):
        made.finish("split", "split0", {"roles": roles, "provenance": {"left_out": count}})
        assert sentence in written(made)[1]


def test_the_number_formats_of_the_artefacts_stand_on_the_page(tmp_path: Path) -> None:
    made = whole_run(tmp_path, ())
    made.methods["sptar"]["augment"] = made.artefact(
        "augment",
        "rounded",
        {"documents": 2, "documents_cut": 0},
        settings={"dtype": "bfloat16"},
    )
    made.save()
    _, page = written(made)
    rows = {
        what: page.partition(f"number format, {what}</th><td>")[2].partition("</td>")[0]
        for what in ("language model", "training", "encoding")
    }
    # What a manifest does not name is of the time before there was a choice.
    assert rows == {
        "language model": "bfloat16, float32",
        "training": "float32",
        "encoding": "float32",
    }
