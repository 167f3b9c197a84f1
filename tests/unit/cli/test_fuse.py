"""``sptar fuse``: files in, a file out, and what the runs lack is told."""

from __future__ import annotations

import gzip
import json

import pytest

from sptar.cli.app import run_application
from sptar.retrieval.fusion import reciprocal_rank_fusion, score_fusion
from sptar.trec import read_run, write_run

FIRST = {"q1": {"a": 3.0, "b": 2.0}, "q2": {"c": 1.0}}
SECOND = {"q1": {"b": 0.9, "d": 0.2}, "q3": {"a": 0.5}}


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "first.trec", tmp_path / "second.trec.gz"]
    for path, run in zip(paths, (FIRST, SECOND), strict=True):
        write_run(path, run, "test")
    return [str(path) for path in paths]


def test_by_ranks(files, tmp_path, capsys):
    out = tmp_path / "fused.trec"
    assert run_application(["fuse", *files, "--out", str(out), "--k", "10"]) == 0
    assert read_run(out) == reciprocal_rank_fusion([FIRST, SECOND], 1000, k=10)
    assert out.read_text().splitlines()[0].split()[:4] == ["q1", "Q0", "b", "1"]
    assert out.read_text().splitlines()[0].endswith(" sptar-rrf")
    shown = capsys.readouterr().out
    assert f"{files[0]} lacks 1 of 3 queries" in shown
    assert f"{files[1]} lacks 1 of 3 queries" in shown
    assert f"Fused 2 runs of 3 queries into {out}" in shown


def test_by_scores_with_weights_and_a_cut_packed(files, tmp_path):
    out = tmp_path / "fused.trec.gz"
    weights = ["--weight", "0.2", "--weight", "0.8"]
    assert (
        run_application(
            ["fuse", *files, "--out", str(out), "--kind", "score", *weights, "--top-k", "2"]
        )
        == 0
    )
    assert read_run(out) == score_fusion([FIRST, SECOND], 2, weights=[0.2, 0.8])
    assert len(read_run(out)["q1"]) == 2
    assert gzip.decompress(out.read_bytes()).startswith(b"q1 Q0 b 1 ")


def test_three_runs_and_json(files, tmp_path, capsys):
    out = tmp_path / "fused.trec"
    assert run_application(["fuse", *files, files[0], "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["queries"] == 3
    assert [run["lacking"] for run in told["runs"]] == [1, 1, 1]
    assert read_run(out) == reciprocal_rank_fusion([FIRST, SECOND, FIRST], 1000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{0}"], "One run alone"),
        (["{0}", "{1}", "--kind", "sum"], "choose `rrf` or `score`"),
        (["{0}", "{1}", "--weight", "1"], "--weight is given 1 times for 2 runs"),
        (["{0}", "nowhere.trec"], "there is no such file"),
        (["{0}", "{1}", "--top-k", "0"], "--top-k"),
    ],
)
def test_a_users_error_writes_nothing(files, tmp_path, capsys, arguments, words):
    out = tmp_path / "fused.trec"
    filled = [argument.format(*files) for argument in arguments]
    assert run_application(["fuse", *filled, "--out", str(out)]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()
