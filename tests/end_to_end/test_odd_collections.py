"""Runs on collections that are not as most are: every document judged, ids that coincide."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sptar.cli.app import run_application
from sptar.config import DataConfig
from sptar.data.collection import Collection
from sptar.data.sources import convert
from sptar.evaluation.evaluate import Scores
from sptar.steps.languages import language_hint
from sptar.trec import read_run

WORDS = ["bread", "nails", "books", "shoes", "soap", "paint", "lamps", "plants", "coffee", "bikes"]


def put(folder: Path, *, doc: str = "{}", query: str = "{}", many: int = 1) -> Path:
    """Ten documents, all judged: the query with number n is about document n.

    Each query has ``many`` relevant documents in all, the others with its word as well.
    """
    (folder / "qrels").mkdir(parents=True)
    texts = [
        f"shop {n} sells {word} in street {m}" + m * " and this is a longer text"
        for m in range(many)
        for n, word in enumerate(WORDS)
    ]
    queries = [f"where can I buy {word}" for word in WORDS]
    for name, rows, pattern in (("corpus", texts, doc), ("queries", queries, query)):
        (folder / f"{name}.jsonl").write_text(
            "".join(
                json.dumps({"_id": pattern.format(number), "text": text}) + "\n"
                for number, text in enumerate(rows)
            )
        )
    for split, numbers in (("train", range(6)), ("test", range(6, 10))):
        rows = [
            f"{query.format(n)}\t{doc.format(n + 10 * m)}\t1\n"
            for n in numbers
            for m in range(many)
        ]
        (folder / "qrels" / f"{split}.tsv").write_text(
            "query-id\tcorpus-id\tscore\n" + "".join(rows)
        )
    return folder


def configure(path: Path, source: Path, **sections: Any) -> Path:
    values = {
        "name": path.stem,
        "methods": ["bm25"],
        "data": {"source": str(source)},
        "split": {"train_queries": 3, "eval_queries": 3},
        "evaluate": {"measures": ["RR@10", "R@10"], "bootstrap_samples": 200},
        **sections,
    }
    path.write_text(yaml.safe_dump(values))
    return path


def scores(work: Path) -> Scores:
    (found,) = (work / "artefacts").glob("evaluate-*/scores.json")
    return Scores.load(found)


def page(work: Path, name: str) -> str:
    return (work / "runs" / name / "report.html").read_text()


def test_where_every_document_is_judged_a_method_that_writes_nothing_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = put(tmp_path / "judged", doc="d{}", query="q{}")
    config = str(configure(tmp_path / "judged.yaml", source))
    work = tmp_path / "work"
    assert run_application(["run", config, "--work", str(work)]) == 0
    assert scores(work).mean("RR@10") == 1.0
    # It trained nothing, and says so; what role a label would have had stands there all the same.
    text = page(work, "judged")
    assert "Labelled pairs used: 0." in text
    assert "This run trained nothing and used no label before the test." in text
    assert "trains the retriever</td>" not in text
    assert text.count("nothing in this run") == 2
    assert "cut at" not in capsys.readouterr().err

    assert run_application(["data", "check", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unjudged_documents"] == 0
    assert run_application(["data", "check", str(source)]) == 0
    assert "split.augment_from: not_evaluated" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_method_that_writes_is_refused_before_anything_long_runs(
    tmp_path: Path,
    tiny_models: dict[str, Path],
    tiny_encoder: Path,
    capsys: pytest.CaptureFixture[str],
    verb: str,
) -> None:
    source = put(tmp_path / "judged", doc="d{}", query="q{}")
    models = {"llm": {"name": str(tiny_models["llama"])}, "train": {"start": str(tiny_encoder)}}
    config = configure(tmp_path / "judged.yaml", source, methods=["bm25", "sptar"], **models)
    work = tmp_path / "work"
    assert run_application([verb, str(config), "--work", str(work)]) == 2
    assert "none is left to write weak queries for" in capsys.readouterr().err
    assert {path.name.split("-")[0] for path in (work / "artefacts").iterdir()} == {
        "collection",
        "split",
    }
    # The way out that the sentence names: every document may get a weak query.
    told = ["--set", "split.augment_from=all", "--work", str(work), "--json"]
    assert run_application(["plan", str(config), *told, "--no-probe"]) == 0
    assert json.loads(capsys.readouterr().out)["work"] is None
    assert run_application(["split", str(config), *told[:4]]) == 0
    capsys.readouterr()
    assert run_application(["plan", str(config), *told, "--no-probe"]) == 0
    assert json.loads(capsys.readouterr().out)["work"] == {
        "documents": 10,
        "documents_to_augment": 10,
        "train_pairs": 3,
        "all_train_pairs": 3,
        "evaluation_pairs": 3,
        "all_evaluation_pairs": 3,
    }


def test_pairs_of_a_query_are_bounded_in_tuning_and_the_ledger_says_so(
    make_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = put(tmp_path / "many", doc="d{}", query="q{}", many=7)
    config = str(
        make_config(
            "many",
            methods=["sptar"],
            data={"source": str(source)},
            split={"train_queries": 3, "eval_queries": 3, "augment_from": "all"},
        )
    )
    work = tmp_path / "work"
    arguments = [config, "--work", str(work)]
    assert run_application(["split", *arguments]) == 0
    capsys.readouterr()
    assert run_application(["plan", *arguments, "--no-probe"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "may get a weak query: 24 of 70 (split.augment_from: all)" in told
    assert "12 of 21 training pairs and 12 of 21 evaluation pairs (tune.pairs_per_query: 4)" in told
    assert run_application(["run", *arguments]) == 0
    (tuned,) = (work / "artefacts").glob("tune-*/manifest.json")
    summary = json.loads(tuned.read_text())["summary"]
    assert (summary["train_pairs"], summary["evaluation_pairs"]) == (12, 12)
    (selected,) = (work / "artefacts").glob("select-*/manifest.json")
    assert json.loads(selected.read_text())["summary"]["candidates"] == 12
    # The retriever still trains on all labels.
    (pairs,) = (work / "artefacts").glob("pairs-*/manifest.json")
    assert json.loads(pairs.read_text())["summary"]["labels"] == 21
    assert page(work, "many").count("the prompt sees 12 of its pairs, a few of each query") == 2


def test_ids_that_coincide_change_nothing(tmp_path: Path) -> None:
    """The same collection with other query ids has the same scores, and the page says why."""
    found = {}
    for name, query in (("same", "{}"), ("other", "q{}")):
        source = put(tmp_path / f"{name}_source", query=query)
        config = configure(tmp_path / f"{name}.yaml", source)
        assert run_application(["run", str(config), "--work", str(tmp_path / name)]) == 0
        found[name] = scores(tmp_path / name)
    assert found["same"].mean("RR@10") == found["other"].mean("RR@10") == 1.0
    assert found["same"].counts == found["other"].counts
    assert len(found["same"].query_ids) == 4
    said = "4 of 4 test queries have the id of a document, which is another thing than the query"
    assert said in page(tmp_path / "same", "same")
    assert "have the id of a document" not in page(tmp_path / "other", "other")


def test_a_collection_whose_queries_are_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Document n + 10 answers query n, which is document n: the search never returns that."""
    source = put(tmp_path / "itself", many=2)
    for split in ("train", "test"):
        path = source / "qrels" / f"{split}.tsv"
        rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join(row for row in rows if row.split("\t")[0] != row.split("\t")[1]))
    config = str(configure(tmp_path / "itself.yaml", source))
    work = tmp_path / "work"
    assert run_application(["run", config, "--work", str(work)]) == 0
    assert scores(work).mean("RR@10") == 1.0
    (run,) = (work / "artefacts").glob("bm25_search-*/run.trec.gz")
    assert all(query_id not in ranking for query_id, ranking in read_run(run).items())
    assert "For 4 of 4 test queries the document with the query&#39;s id is the query" in page(
        work, "itself"
    )
    # Taken for a thing of its own, document n stands before the answer, which is longer.
    other = tmp_path / "other"
    separate = ["--set", "data.shared_ids=separate", "--work", str(other)]
    assert run_application(["run", config, *separate]) == 0
    (run,) = (other / "artefacts").glob("bm25_search-*/run.trec.gz")
    assert all(query_id in ranking for query_id, ranking in read_run(run).items())
    assert scores(other).mean("RR@10") == 0.5
    capsys.readouterr()
    assert run_application(["data", "check", str(source)]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "left out of its results, 10 times (none is judged relevant)" in told


GERMAN = [
    "Der Laden in der Hafenstraße ist am Sonntag zu, aber an den anderen Tagen ist er auf.",
    "Die Fähre fährt im Winter nur am Morgen und am Abend, und sie nimmt keine Räder mit.",
    "Das Brot wird in der Nacht gebacken und ist am Morgen noch warm, wenn wir es verkaufen.",
    "Wer eine Karte für das Schwimmbad hat, der kann damit auch in die Sauna, wenn er will.",
    "Ein Schlüssel, der nicht mehr passt, wird bei uns nicht ersetzt, sondern neu gemacht.",
    "Im Garten hinter dem Haus ist ein Platz, auf dem die Kinder nach der Schule spielen.",
]


def test_a_method_without_a_kept_query_is_said_first(
    tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = put(tmp_path / "german", doc="d{}", query="q{}")
    with (source / "corpus.jsonl").open("a") as stream:
        for number, text in enumerate(GERMAN):
            stream.write(json.dumps({"_id": f"g{number}", "text": text}) + "\n")
    (tmp_path / "theirs.jsonl").write_text(
        "".join(json.dumps({"doc_id": f"g{n}", "text": f"qwx zyv {n}vvx"}) + "\n" for n in range(6))
    )
    config = configure(
        tmp_path / "german.yaml",
        source,
        methods=["bm25", "no_augmentation", "theirs"],
        weak_queries={"theirs": str(tmp_path / "theirs.jsonl")},
        train={"start": str(tiny_encoder), "epochs": 1, "batch_size": 2, "max_tokens": 32},
    )
    work = tmp_path / "work"
    assert run_application(["run", str(config), "--work", str(work)]) == 0
    told = capsys.readouterr()
    first = (
        "theirs kept none of its 6 weak queries (most often: source not found, 6 times) and "
        "trained on the labels alone"
    )
    assert first in " ".join(told.out.split())
    assert "no detectable difference" not in told.out
    assert "A retriever trained with them sees the labels alone." in told.err
    # And before anything is written: the documents' language.
    assert told.err.index("the documents look German") < told.err.index("bm25_index")
    assert run_application(["report", "german", "--work", str(work), "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert verdict[0].startswith(first)
    assert len(verdict) == 2
    assert "the documents look German, and BM25 reads them as English" in verdict[1]
    text = page(work, "german")
    assert text.index(first) < text.index("Scores")
    headline = text[text.index('class="headline"') :]
    assert headline[: headline.index("</p>")].startswith(f'class="headline">{first}')


@pytest.mark.parametrize(
    ("card", "language", "said"),
    [
        ("---\nlanguage: en\n---\n", "german", "and the language model was made for English. "),
        ("---\nlanguage: [de]\n---\n", "german", None),
        ("---\nlanguage: [de, en]\n---\n", "german", "and the language model may not write it. "),
        ("no card", "none", "and the language model may not write it. "),
        ("---\n: broken\n---\n", "english", "may not write it and BM25 reads them as English"),
    ],
)
def test_what_the_language_has_to_do_with_it(
    tmp_path: Path, card: str, language: str, said: str | None
) -> None:
    source = put(tmp_path / "german", doc="d{}", query="q{}")
    (source / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{n}", "text": GERMAN[n % 6]}) + "\n" for n in range(10))
    )
    convert(DataConfig(source=str(source)), tmp_path / "read")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text(card)
    config = {"llm": {"name": str(tmp_path / "model")}, "filter": {"language": language}}
    hint = language_hint(Collection.open(tmp_path / "read"), config)
    assert (hint is None) if said is None else (said in str(hint))
