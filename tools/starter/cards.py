"""Model cards of both starter models, from what their training left behind.

    python tools/starter/cards.py --text TEXT --pairs WORK/pairs/pairs.jsonl \
        --language-model WORK/language_model --settings tools/starter/language_model_cpu.yaml \
        --origin tools/starter/origin_cpu.md --encoder WORK/encoder

Writes ``model/README.md`` below both folders. ``--before`` and ``--after`` take what
``evaluate.py`` wrote of the language model at its start and at its end.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import encoder
import language_model
from card_tables import (
    loss_table,
    perplexity_tables,
    settings_table,
    source_table,
    table,
    worth_table,
)
from command import run_command
from settings import read_settings
from text_rows import passages, questions
from training_record import (
    Source,
    StyleCount,
    TrainingRecord,
    Weights,
    read_log,
    sources,
    style_counts,
    weights_of,
)

from sptar.errors import ConfigError
from sptar.io import atomic_write_text, read_json

_BESIDE = "starter-lm, which lies beside it"
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


@dataclass(frozen=True)
class TextRecord:
    """The text folder, by origin."""

    passages: list[Source]
    questions: list[Source]


@dataclass(frozen=True)
class Origin:
    """Where a model began.

    ``text`` tells of the model that was trained further; ``None`` when it began from random
    numbers.
    """

    text: str | None


def _front_matter(library: str, task: str) -> str:
    head = {"license": "apache-2.0", "language": "en", "library_name": library}
    head["pipeline_tag"] = task
    return "\n".join(["---", *(f"{key}: {value}" for key, value in head.items()), "---"])


def _effort(record: TrainingRecord, machine: str) -> str:
    about = "" if record.exact else "about "
    return (
        f"{record.steps:,} steps, {about}{record.tokens:,} tokens read, "
        f"{about}{record.seconds / 60:.0f} minutes on {machine}, measuring not counted."
    )


def _size(weights: Weights) -> str:
    return f"{weights.parameters / 1e6:.1f} million parameters, {weights.size / 1e6:.0f} MB"


def _sequence_pairs(most: int) -> str:
    return f"one to {_NUMBERS.get(most, most)} of them" if most > 1 else "one in each"


def _share_alike(text: TextRecord) -> str:
    names = sorted({s.name for s in [*text.passages, *text.questions] if "SA" in s.licence})
    if not names:
        return ""
    return (
        f"{', '.join(names)}: the licence (CC BY-SA) asks that changed versions of the text be "
        "shared alike. No such text is here, but whoever lets the model write text should know of "
        "it. "
    )


def _text_section(text: TextRecord) -> str:
    return (
        "## Text\n"
        "The text is not part of this package; the licences ask to name it. It was cut into "
        "passages, and queries were made out of headings, sentences, telling words, glossary terms "
        "and the questions below.\n\n"
        "Passages:\n\n"
        f"{source_table(text.passages)}\n\n"
        "Questions, glossary terms and exercises:\n\n"
        f"{source_table(text.questions)}\n\n"
        f"{_share_alike(text)}One page in fifty was kept aside for measuring, with all its "
        "passages and questions."
    )


def language_model_card(
    *,
    weights: Weights,
    settings: language_model.Settings,
    record: TrainingRecord,
    text: TextRecord,
    styles: Sequence[StyleCount],
    origin: Origin,
    machine: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> str:
    """The card of the language model, as Markdown.

    ``before`` and ``after`` are the contents of ``evaluate.py``'s files; without the latter the
    log's own measurements stand in the card.
    """
    config = weights.config
    measured = after if after is not None else record.last
    first = before if after is not None else record.first
    began = origin.text or "From random numbers; nothing but the text below went into it.\n"
    plain = (
        f" {settings.plain_share:.0%} of the steps read whole documents as plain language."
        if settings.plain_share
        else ""
    )
    reworded = (
        f" After that, in {settings.reworded_share:.0%} of the sequences all queries are worded "
        'alike as well: in a frame of their style ("what is …?", "steps to …", "is it true that '
        '…?") or as keywords only. So more than the style can be read from what stands before.'
        if settings.reworded_share
        else ""
    )
    counts = [[s.style, f"{s.trained:,}", f"{s.held_out:,}"] for s in styles]
    return f"""{_front_matter("transformers", "text-generation")}

# starter-lm
A causal language model ({config["model_type"]}-shaped, {_size(weights)} in bfloat16, \
{config["num_hidden_layers"]} layers of width {config["hidden_size"]}, \
{config["max_position_embeddings"]:,} positions) that writes a search query for a document. It was \
made so that sptar can be tried on a laptop: in English, in lower case, in the prompt

    Document: … \\n Relevant Query: … \\n Document: … \\n Relevant Query:

A query ends with the newline. Tokenise with `add_special_tokens=False`.

## How it began
{began.strip()}

{_text_section(text)}

## Pairs
Each pair is a document and a query of one style, and pairs of one style stand together in a \
sequence, {_sequence_pairs(settings.most_pairs)}, so that the style can be read from what stands \
before. A pair was kept when BM25 finds the document among the best for its query.{reworded}

{table(["style", "trained", "kept aside"], counts)}

## Training
{_effort(record, machine)} The loss counts the queries' tokens.{plain}

{settings_table(asdict(settings))}

{loss_table(record)}

## Measured
{perplexity_tables(first, measured)}

{worth_table(after) if after is not None and after["collections"] else ""}

## What it is not
- No assistant: it answers nothing, follows no instruction and knows next to nothing.
- No measure of the method: much larger models write better queries. A verdict on SPTAR should not \
rest on this one.
- Not checked: its queries can be wrong, repeat themselves or ask what the document does not \
answer. The weak data filter exists for that.
- Narrow: it knows English of the sources above and no other. What is biased there is biased here.

## Licence
The weights are under the Apache License 2.0.
"""


def encoder_card(
    *,
    weights: Weights,
    settings: encoder.Settings,
    record: TrainingRecord,
    text: TextRecord,
    origin: Origin,
    machine: str,
    start: str = _BESIDE,
) -> str:
    """The card of the encoder, as Markdown.

    ``origin`` is that of the language model, ``start`` names the stage of it that gave its layers.
    """
    config = weights.config
    if settings.shape:
        began = "From random numbers; nothing but the text below went into it."
        retrieval = "It has not been trained for retrieval: it has seen no query and no pair."
    else:
        began = (
            f"With the first {settings.layers} layers of {start}, now "
            "attending both ways. So everything that went into that model went into this one, its "
            "documents with queries included."
        )
        retrieval = (
            "This training showed it no query and no pair, but it descends from a model that wrote "
            "queries for documents."
        )
        if origin.text:
            began += " Of that model its card says:\n\n" + "\n".join(
                f"> {line}".rstrip() for line in origin.text.strip().splitlines()
            )
            retrieval += (
                " It also descends from the weights of a sentence encoder that was trained on "
                "search queries with passages, among much else (see above). Nothing here was "
                "trained for retrieval beyond that origin; what is left of it was not measured."
            )
    first = record.first or {}
    start = (
        f" (at the start {first['held_out_perplexity']:,.2f})"
        if "held_out_perplexity" in first
        else ""
    )
    text_section = (
        "## Text\nPassages alone, their headings and all questions left out:\n\n"
        f"{source_table(text.passages)}\n\n"
        "One page in fifty was kept aside for measuring, the same as with starter-lm. The text is "
        "not part of this package; the licences ask to name it."
    )
    return f"""{_front_matter("sentence-transformers", "feature-extraction")}

# starter-encoder
An encoder of text ({config["model_type"]}-shaped, {_size(weights)} in bfloat16, \
{config["num_hidden_layers"]} layers of width {config["hidden_size"]}, \
{config["max_position_embeddings"]:,} positions), English and lower case. It is the start that \
sptar's retrievers are trained from when it is tried on a laptop. \
`SentenceTransformer(FOLDER)` loads it with mean pooling.

## How it began
{began}

{text_section}

## Training
Masked language modelling: {settings.masked_share:.0%} of the words of pieces of \
{settings.tokens} tokens are asked for. {_effort(record, machine)}

{settings_table(asdict(settings))}

{loss_table(record)}

Perplexity of masked words on pages that were kept aside: \
{record.last["held_out_perplexity"]:,.2f}{start}.

## What it is not
- No retriever: as it is, it finds little. {retrieval}
- No stand-in for a full-size encoder: it is small, and was trained for minutes where such models \
take days.
- Narrow: it knows English of the sources above and no other. What is biased there is biased here.
- Its pooler (`pooler.*`) holds random numbers and is not used.

## Licence
The weights are under the Apache License 2.0.
"""


def main() -> None:
    """Write both cards."""
    parser = argparse.ArgumentParser(description="Write the model cards of the starter models.")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument(
        "--origin", type=Path, help="Markdown on the model that was trained further"
    )
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--encoder-settings", type=Path)
    parser.add_argument("--before", type=Path, help="evaluate.py's file of the start")
    parser.add_argument("--after", type=Path, help="evaluate.py's file of the trained model")
    parser.add_argument(
        "--encoder-start", default=_BESIDE, help="in words, where it is an earlier stage"
    )
    parser.add_argument("--machine", default="a CPU", help="what it was trained on, in words")
    options = parser.parse_args()
    settings = read_settings(options.settings, language_model.Settings)
    if bool(settings.shape) == bool(options.origin):
        raise ConfigError(
            "A model that was trained further needs --origin, one with a `shape` has none."
        )
    encoder_settings = encoder.Settings()
    if options.encoder_settings:
        encoder_settings = read_settings(options.encoder_settings, encoder.Settings)
    text = TextRecord(sources(passages(options.text)), sources(questions(options.text)))
    origin = Origin(options.origin.read_text(encoding="utf-8") if options.origin else None)
    card = language_model_card(
        weights=weights_of(options.language_model / "model"),
        settings=settings,
        record=read_log(options.language_model / "log.jsonl", step_tokens=settings.step_tokens),
        text=text,
        styles=style_counts(options.pairs),
        origin=origin,
        machine=options.machine,
        before=read_json(options.before) if options.before else None,
        after=read_json(options.after) if options.after else None,
    )
    atomic_write_text(options.language_model / "model" / "README.md", card)
    card = encoder_card(
        weights=weights_of(options.encoder / "model"),
        settings=encoder_settings,
        record=read_log(
            options.encoder / "log.jsonl",
            step_tokens=encoder_settings.rows * encoder_settings.tokens,
        ),
        text=text,
        origin=origin,
        machine=options.machine,
        start=options.encoder_start,
    )
    atomic_write_text(options.encoder / "model" / "README.md", card)


if __name__ == "__main__":
    run_command(main)
