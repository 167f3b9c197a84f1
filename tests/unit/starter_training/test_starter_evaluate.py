"""Measuring a language model as a writer of queries: shares checked by hand."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import evaluate
import pytest
import yaml
from evaluate import (
    HeldOut,
    Sample,
    draw_sample,
    main,
    on_collection,
    on_held_out,
    overlap,
    two_to_none,
    worth,
)
from language_model import QueryLoss, Settings, perplexity_by_style
from pairs import ListedCorpus
from sequences import PairStore, Template, load_pairs

from sptar.config import DataConfig, LanguageModelConfig
from sptar.data.collection import Collection
from sptar.data.sources import convert
from sptar.errors import ConfigError, DataError
from sptar.io import write_jsonl
from sptar.llm.loading import load_language_model
from sptar.retrieval.lexical.bm25 import Bm25Index
from sptar.types import WeakQuery
from tiny import DOCUMENTS, QUERIES


def write_collection(folder: Path, splits: dict[str, list[tuple[str, str]]]) -> Path:
    """A BEIR folder of the tiny documents with these judgements."""
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {"_id": document.doc_id, "title": document.title, "text": document.text}
        for document in DOCUMENTS
    ]
    queries = [{"_id": query.query_id, "text": query.text} for query in QUERIES]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split, judged in splits.items():
        lines = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t1" for q, d in judged)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    test = [("q05", "d05"), ("q06", "d06")]
    dev = [("q01", "d01"), ("q02", "d02"), ("q03", "d03")]
    return write_collection(tmp_path / "tiny collection", {"test": test, "dev": dev})


def opened(folder: Path, place: Path) -> Collection:
    convert(DataConfig(source=str(folder)), place)
    return Collection.open(place)


def weak(doc_id: str, text: str) -> WeakQuery:
    return WeakQuery(f"weak:{doc_id}:0", doc_id, text, text, 1, None)


def test_shares_are_those_counted_by_hand(tmp_path: Path) -> None:
    corpus = ListedCorpus([f"alpha word{number}" for number in range(40)])
    index = Bm25Index.build(corpus)
    documents = [corpus[number] for number in (3, 9, 10, 29, 30, 5)]
    queries = [
        weak("0000003", "word3"),
        # "alpha" is in all documents alike, so the id decides: ranks 10, 11, 30 and 31.
        weak("0000009", "alpha"),
        weak("0000010", "Alpha"),
        weak("0000029", "what is an alpha"),
        weak("0000030", "alpha nothing"),
        weak("0000005", ""),
    ]
    found = worth(queries, Sample(documents, [], "train"), index, name="c", examples=0)
    assert found.in_top_10 == pytest.approx(2 / 6, abs=1e-4)
    assert found.in_top_30 == pytest.approx(4 / 6, abs=1e-4)
    assert found.empty == pytest.approx(1 / 6, abs=1e-4)
    assert found.distinct == 4 / 5
    assert found.in_document == pytest.approx((1 + 1 + 1 + 1 + 0.5) / 5, abs=1e-4)
    assert found.words == pytest.approx(9 / 6, abs=1e-2)
    assert (found.documents, found.examples_from) == (6, "")


def test_overlap_counts_content_words() -> None:
    assert overlap("What is the red bridge made of", "A bridge of red stone") == pytest.approx(
        2 / 3
    )
    assert overlap("what is it", "anything") is None


def test_examples_come_from_dev_where_there_is_no_train(folder: Path, tmp_path: Path) -> None:
    collection = opened(folder, tmp_path / "normal")
    sample = draw_sample(collection, name="tiny", documents=5, seed=0)
    assert sample.examples_from == "dev"
    assert len(sample.documents) == len({d.doc_id for d in sample.documents}) == 5
    shown = {pair.document.doc_id for pair in sample.examples}
    assert len(shown) == 2
    assert shown < {"d01", "d02", "d03"}
    assert not shown & {document.doc_id for document in sample.documents}
    assert sample == draw_sample(collection, name="tiny", documents=5, seed=0)
    others = [draw_sample(collection, name="tiny", documents=5, seed=seed) for seed in (1, 2, 3)]
    assert any(other.documents != sample.documents for other in others)
    everything = draw_sample(collection, name="tiny", documents=500, seed=0)
    assert len(everything.documents) == len(DOCUMENTS) - 2


def test_train_is_preferred_and_test_is_the_last_resort(tmp_path: Path) -> None:
    both = [("q01", "d01"), ("q02", "d02")]
    for splits, chosen in (
        ({"train": both, "dev": both, "test": both}, "train"),
        ({"test": both}, "test"),
    ):
        source = write_collection(tmp_path / f"of {chosen}", splits)
        collection = opened(source, tmp_path / f"normal {chosen}")
        assert draw_sample(collection, name="c", documents=1, seed=0).examples_from == chosen
    lonely = write_collection(tmp_path / "lonely", {"test": both[:1]})
    with pytest.raises(DataError, match="lonely has too few"):
        draw_sample(opened(lonely, tmp_path / "n"), name="lonely", documents=1, seed=0)


def test_a_models_own_queries_are_measured(tiny_models: dict[str, Path], folder: Path) -> None:
    model = load_language_model(LanguageModelConfig(name=str(tiny_models["gpt2"]), device="cpu"))
    values: dict[str, Any] = {"documents": 4, "max_new_tokens": 8, "seed": 0}
    found = on_collection(model, folder, **values)
    assert [row.examples for row in found] == [0, 1, 2]
    assert [row.examples_from for row in found] == ["", "dev", "dev"]
    assert {row.collection for row in found} == {"tiny collection"}
    assert all(row.documents == 4 and 0 <= row.in_top_10 <= row.in_top_30 <= 1 for row in found)
    assert found == on_collection(model, folder, **values)


def test_two_examples_against_none_by_hand() -> None:
    found = {
        "title": [QueryLoss("a", (5.0, 9.0, 3.0), 4), QueryLoss("b", (1.0, 9.0, 1.5), 2)],
        "heading": [QueryLoss("a", (2.0, 9.0, 1.0), 2)],
    }
    ratio = two_to_none(found)
    # Together -2 - 1 + 0.5 nats on 8 tokens.
    assert ratio.ratio == pytest.approx(math.exp(-2.5 / 8), abs=1e-4)
    assert (ratio.queries, ratio.documents) == (3, 2)
    # Of two documents a quarter of the draws takes one twice, and a quarter the other.
    assert ratio.low == pytest.approx(math.exp(-3 / 6), abs=1e-4)
    assert ratio.high == pytest.approx(math.exp(0.5 / 2), abs=1e-4)
    assert two_to_none(dict(reversed(found.items()))) == ratio


def test_a_query_that_was_drawn_again_makes_no_interval_narrower() -> None:
    order = random.Random(0)
    once = [
        QueryLoss(f"document {n}", (9.0, 9.0, 9.0 + order.gauss(-0.5, 1)), 3 + n % 5)
        for n in range(30)
    ]
    one, again = two_to_none({"title": once}), two_to_none({"title": once * 7})
    assert (again.queries, again.documents) == (210, 30)
    assert (one.ratio, one.low, one.high) == (again.ratio, again.low, again.high)


def test_the_interval_is_about_two_standard_errors() -> None:
    order = random.Random(1)
    changes = [order.gauss(-0.2, 1.0) for _ in range(400)]
    found = two_to_none(
        {"title": [QueryLoss(str(n), (8.0, 8.0, 8.0 + x), 5) for n, x in enumerate(changes)]}
    )
    mean = sum(changes) / 400
    error = math.sqrt(sum((x - mean) ** 2 for x in changes) / 399 / 400)
    assert found.ratio == pytest.approx(math.exp(mean / 5), abs=1e-4)
    # The ends of 2,000 draws are known to about a tenth of a standard error.
    for end, sign in ((found.low, -1), (found.high, 1)):
        assert math.log(end) * 5 == pytest.approx(mean + sign * 1.96 * error, abs=0.25 * error)


def test_what_changes_all_queries_alike_is_no_noise() -> None:
    found = two_to_none(
        {"title": [QueryLoss(str(n), (9.0, 9.0, 9.0 - 0.25 * 4), 4) for n in range(20)]}
    )
    assert found.low == found.ratio == found.high == round(math.exp(-0.25), 4)


def test_held_out_queries_are_measured_as_they_are_and_in_one_wording(
    tiny_models: dict[str, Path], pairs_file: Path, tmp_path: Path
) -> None:
    model = load_language_model(
        LanguageModelConfig(name=str(tiny_models["llama"]), device="cpu", dtype="float32")
    )
    chosen = Settings(
        steps=1,
        styles={"question": 1.0, "heading": 1.0, "keywords": 1.0},
        sequence_tokens=200,
        validation_sequences=3,
        dtype="float32",
    )
    found = on_held_out(model, pairs_file, chosen)
    store = PairStore(load_pairs(pairs_file).held_out, chosen.styles)
    template = Template(model, chosen.document_tokens, chosen.query_tokens)
    for kind, share in (("perplexity", 0.0), ("reworded_perplexity", 1.0)):
        assert getattr(found, kind) == perplexity_by_style(
            model.model, store, template, chosen, reworded_share=share
        )
        ratio = found.two_examples_to_none[kind]
        assert ratio.queries == 3 * len(found.perplexity)
        assert 0 < ratio.low <= ratio.ratio <= ratio.high
    assert found.perplexity != found.reworded_perplexity
    rows = [{"style": "question", "source": "s", "query": "a b", "document": "c"}] * 3
    few = tmp_path / "few.jsonl"
    write_jsonl(few, ({**row, "held_out": n > 0} for n, row in enumerate(rows)))
    with pytest.raises(DataError, match="three held-out pairs"):
        on_held_out(model, few, chosen)


@pytest.fixture
def command(tiny_models: dict[str, Path], pairs_file: Path, tmp_path: Path) -> list[str]:
    """The command on a tiny model; its settings ask for less than it measures by itself."""
    settings = {"steps": 1, "styles": {"question": 1, "heading": 1, "keywords": 1}}
    settings |= {"sequence_tokens": 200, "validation_sequences": 2, "dtype": "float32"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["evaluate.py", str(tiny_models["llama"]), "--pairs", str(pairs_file)]
    arguments += ["--settings", str(tmp_path / "settings.yaml")]
    return [*arguments, "--out", str(tmp_path / "found.json")]


def test_the_command_writes_what_it_found(
    command: list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["--collections", str(folder), "--documents", "2", "--max-new-tokens", "6"]
    monkeypatch.setattr("sys.argv", [*command, *more, "--validation-sequences", "3"])
    main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["validation_sequences"] == 3
    assert set(found["perplexity"]) <= {"question", "heading", "keywords"}
    assert found["perplexity"]
    assert list(found["perplexity"]) == list(found["reworded_perplexity"])
    for kind in ("perplexity", "reworded_perplexity"):
        assert all(len(values) == 3 for values in found[kind].values())
        ratio = found["two_examples_to_none"][kind]
        assert set(ratio) == {"ratio", "low", "high", "queries", "documents"}
        assert ratio["queries"] == 3 * len(found[kind])
    assert [row["examples"] for row in found["collections"]] == [0, 1, 2]


def test_64_queries_of_each_style_are_measured_where_nothing_else_is_said(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(model: Any, pairs: Path, settings: Settings) -> HeldOut:
        asked.append(settings.validation_sequences)
        return HeldOut(asked[-1], {}, {}, {})

    monkeypatch.setattr(evaluate, "on_held_out", measured)
    monkeypatch.setattr("sys.argv", command)
    main()
    assert asked == [64]
    monkeypatch.setattr("sys.argv", [*command, "--validation-sequences", "0"])
    with pytest.raises(ConfigError, match="`validation_sequences: 0`"):
        main()
