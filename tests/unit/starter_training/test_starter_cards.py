"""Model cards: where the text came from, what was done, and what the models descend from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cards import main
from starter_text import passage_rows, question_rows
from training_record import read_log, sources, style_counts, weights_of

from sptar.errors import ConfigError, DataError

TOOLS = Path(__file__).parents[3] / "tools" / "starter"
LOG = [
    {"step": 0, "perplexity": {"question": [50.0, 51.5, 52.0]}},
    {"step": 10, "loss": 4.5, "tokens": 900, "seconds": 30.0},
    {"step": 20, "loss": 2.25, "tokens": 1900, "seconds": 90.0},
    {"step": 20, "perplexity": {"question": [20.0, 12.5, 9.75]}},
]
ENCODER_LOG = [
    {"step": 0, "held_out_perplexity": 900.5},
    {"step": 50, "loss": 3.5, "tokens": 4000, "seconds": 120.0},
    {"step": 50, "held_out_perplexity": 33.25},
]


@pytest.fixture
def work(tiny_models: dict[str, Path], tiny_encoder: Path, tmp_path: Path) -> Path:
    """What both trainings leave behind."""
    for name, model, log in (
        ("language_model", tiny_models["bert"], LOG),
        ("encoder", tiny_encoder, ENCODER_LOG),
    ):
        folder = tmp_path / name
        (folder / "model").mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            (folder / "model" / file).write_bytes((model / file).read_bytes())
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    settings = {"steps": 20, "styles": {"question": 1.0}, "learning_rate": 0.0003}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def arguments(work: Path, text_folder: Path, pairs_file: Path, *more: str) -> list[str]:
    found = ["cards.py", "--text", str(text_folder), "--pairs", str(pairs_file)]
    found += ["--language-model", str(work / "language_model"), "--encoder", str(work / "encoder")]
    return [*found, "--settings", str(work / "settings.yaml"), *more]


def test_both_cards_tell_what_was_done_and_where_it_came_from(
    work: Path, text_folder: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = TOOLS / "origin_cpu.md"
    evaluation = {
        "perplexity": {"question": [21.0, 11.0, 10.5]},
        "collections": [
            {
                **{"collection": "some", "examples": 1, "examples_from": "dev", "documents": 40},
                **{"in_top_10": 0.775, "in_top_30": 0.85, "empty": 0.025, "distinct": 0.95},
                **{"in_document": 0.8125, "words": 7.0},
            }
        ],
    }
    (work / "after.json").write_text(json.dumps(evaluation))
    more = ["--origin", str(origin), "--machine", "one core", "--after", str(work / "after.json")]
    monkeypatch.setattr("sys.argv", arguments(work, text_folder, pairs_file, *more))
    main()
    card = (work / "language_model" / "model" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "apache-2.0"
    for said in (
        "| guides/keeping | CC BY 4.0 |",
        "| medquad | CC BY-SA 4.0 |",
        "20 steps, 1,900 tokens read, 2 minutes on one core",
        "| 20 | 2.250 |",
        origin.read_text().strip(),
        "| question | 21.00 | 11.00 | 10.50 |",
        "| some | 1 | 40 | 0.775 | 0.850 | 0.950 | 0.812 | 0.025 |",
        "shared alike",
        "| `learning_rate` | 0.0003 |",
        "The weights are under the Apache License 2.0.",
    ):
        assert said in card, said
    # A file from before there were wordings has neither their table nor an interval.
    assert "Perplexity of queries of pages that were kept aside" in card
    assert "The same, each query worded" not in card
    assert "Over all styles" not in card
    assert "worded alike" not in card
    assert "one to three of them" in card
    for entry in style_counts(pairs_file):
        assert f"| {entry.style} | {entry.trained:,} | {entry.held_out:,} |" in card
    card = (work / "encoder" / "model" / "README.md").read_text()
    for said in (
        "first 2 layers of starter-lm",
        *(f"> {line}" for line in origin.read_text().splitlines() if line),
        "beyond that origin",
        "33.25 (at the start 900.50)",
        "50 steps, 4,000 tokens read, 2 minutes on one core",
        "SentenceTransformer(FOLDER)",
    ):
        assert said in card, said
    assert "medquad" not in card.split("## Text")[1]
    stage = ["--encoder-start", "the second stage of starter-lm"]
    monkeypatch.setattr("sys.argv", arguments(work, text_folder, pairs_file, *more, *stage))
    main()
    card = (work / "encoder" / "model" / "README.md").read_text()
    assert "With the first 2 layers of the second stage of starter-lm, now" in card
    assert "lies beside it" not in card


def ratio(value: float, low: float, high: float) -> dict[str, float]:
    return {"ratio": value, "low": low, "high": high, "queries": 1024, "documents": 980}


def test_the_card_tells_what_examples_of_one_wording_change(
    work: Path, text_folder: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = yaml.safe_load((work / "settings.yaml").read_text())
    settings |= {"most_pairs": 4, "reworded_share": 0.5}
    (work / "settings.yaml").write_text(yaml.safe_dump(settings))
    before: dict[str, Any] = {
        "validation_sequences": 64,
        "perplexity": {"question": [30.0, 31.0, 32.0]},
        "reworded_perplexity": {"question": [40.0, 41.0, 42.0]},
        "two_examples_to_none": {
            "perplexity": ratio(1.06, 1.02, 1.1),
            "reworded_perplexity": ratio(1.05, 1.01, 1.09),
        },
        "collections": [],
    }
    after: dict[str, Any] = {
        **before,
        "perplexity": {"question": [21.0, 11.0, 10.5]},
        "reworded_perplexity": {"question": [25.0, 16.0, 15.5]},
        "two_examples_to_none": {
            "perplexity": ratio(0.98, 0.95, 1.01),
            "reworded_perplexity": ratio(0.9, 0.87, 0.93),
        },
    }

    def card_of(before: dict[str, Any], after: dict[str, Any]) -> str:
        more = ["--origin", str(TOOLS / "origin_cpu.md")]
        for name, measured in (("before", before), ("after", after)):
            (work / f"{name}.json").write_text(json.dumps(measured))
            more += [f"--{name}", str(work / f"{name}.json")]
        monkeypatch.setattr("sys.argv", arguments(work, text_folder, pairs_file, *more))
        main()
        return (work / "language_model" / "model" / "README.md").read_text()

    card = card_of(before, after)
    for said in (
        "one to four of them",
        "in 50% of the sequences all queries are worded alike",
        "keywords only",
        "| `most_pairs` | 4 |",
        "| `reworded_share` | 0.5 |",
        "Perplexity of 64 queries of each style of pages that were kept aside",
        "| question | 21.00 | 11.00 | 10.50 | 30.00 | 31.00 | 32.00 |",
        "behind two examples is 0.980 times that behind none (95 % interval 0.950 to 1.010, 1,024 "
        "queries of 980 documents): no change that can be told from chance. At the start it was "
        "1.060 times (1.020 to 1.100).",
        "| question | 25.00 | 16.00 | 15.50 | 40.00 | 41.00 | 42.00 |",
        "behind two examples is 0.900 times that behind none (95 % interval 0.870 to 0.930, 1,024 "
        "queries of 980 documents): it falls. At the start it was 1.050 times",
    ):
        assert said in card, said
    assert "it rises. At the start" in card_of(after, before)
    # The start measured by the old form: no numbers are made up for it.
    old = {"perplexity": before["perplexity"], "collections": []}
    card = card_of(old, after)
    assert "64 queries of each style (at the start another number) of pages" in card
    assert "| question | 21.00 | 11.00 | 10.50 | 30.00 | 31.00 | 32.00 |" in card
    assert "| question | 25.00 | 16.00 | 15.50 | – | – | – |" in card
    assert "it falls." in card
    assert "At the start it was" not in card
    # And the end by the old form.
    card = card_of(before, old)
    assert "The same, each query worded" not in card
    assert "Over all styles" not in card


def test_the_card_of_a_log_shows_both_its_tables(
    work: Path, text_folder: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = [dict(row) for row in LOG]
    for row, values in ((log[0], [60.0, 61.0, 62.0]), (log[-1], [22.0, 14.0, 13.5])):
        row["reworded_perplexity"] = {"question": values}
    (work / "language_model" / "log.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in log)
    )
    more = ["--origin", str(TOOLS / "origin_cpu.md")]
    monkeypatch.setattr("sys.argv", arguments(work, text_folder, pairs_file, *more))
    main()
    card = (work / "language_model" / "model" / "README.md").read_text()
    assert "| question | 20.00 | 12.50 | 9.75 | 50.00 | 51.50 | 52.00 |" in card
    assert "| question | 22.00 | 14.00 | 13.50 | 60.00 | 61.00 | 62.00 |" in card
    assert "(at the start" not in card.split("## Measured")[1]


def test_models_from_random_numbers_have_no_ancestors(
    work: Path, text_folder: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = yaml.safe_load((work / "settings.yaml").read_text()) | {"shape": {"hidden_size": 8}}
    (work / "settings.yaml").write_text(yaml.safe_dump(settings))
    more = ["--encoder-settings", str(TOOLS / "encoder_gpu.yaml")]
    monkeypatch.setattr("sys.argv", arguments(work, text_folder, pairs_file, *more))
    main()
    for name in ("language_model", "encoder"):
        card = (work / name / "model" / "README.md").read_text()
        assert "From random numbers; nothing but the text below" in card
        assert "MiniLM" not in card
    # Without evaluate.py's file the log's own measurements stand there, start and end.
    card = (work / "language_model" / "model" / "README.md").read_text()
    assert "| question | 20.00 | 12.50 | 9.75 | 50.00 | 51.50 | 52.00 |" in card
    monkeypatch.setattr(
        "sys.argv",
        arguments(work, text_folder, pairs_file, "--origin", str(work / "settings.yaml")),
    )
    with pytest.raises(ConfigError, match="--origin"):
        main()


def test_a_continued_model_needs_an_origin(
    work: Path, text_folder: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", arguments(work, text_folder, pairs_file))
    with pytest.raises(ConfigError, match="needs --origin"):
        main()


def test_sources_are_counted() -> None:
    found = sources([*passage_rows(), *question_rows()])
    assert sum(source.rows for source in found) == len(passage_rows()) + len(question_rows())
    assert [source.rows for source in found] == sorted((s.rows for s in found), reverse=True)
    (medquad,) = [source for source in found if source.name == "medquad"]
    words = [len(row["text"].split()) for row in question_rows() if row["source"] == "medquad"]
    assert (medquad.rows, medquad.words) == (len(words), sum(words))


def test_a_log_without_counted_tokens_gives_about(tmp_path: Path) -> None:
    rows = [
        {"step": 10, "loss": 3.0, "tokens_per_second": 50},
        {"step": 10, "perplexity": {"title": [3.0, 2.0, 1.5]}},
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = read_log(path, step_tokens=100)
    assert (record.tokens, record.seconds, record.exact, record.first) == (1000, 20.0, False, None)
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(DataError):
        read_log(path, step_tokens=100)


def test_weights_are_counted_from_the_file(tiny_models: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    file = tiny_models["qwen"] / "model.safetensors"
    found = weights_of(tiny_models["qwen"])
    assert found.parameters == sum(tensor.numel() for tensor in load_file(file).values())
    assert found.size == file.stat().st_size
    assert found.config["model_type"] == "qwen3"
