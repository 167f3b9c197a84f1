"""Methods of which no weak query was trained on: the verdict says so before anything else."""

from __future__ import annotations

from collections.abc import Collection as AnyCollection
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from sptar.data.collection import Collection
from sptar.evaluation.systems import method_title
from sptar.packaged import folder_of
from sptar.report.examples import reason_text
from sptar.report.reader import RunReader

__all__ = ["language_hint", "said_of_nothing", "systems_without_weak_pairs"]

_DOCUMENTS = 200
_CODES = {
    "da": "danish",
    "de": "german",
    "en": "english",
    "es": "spanish",
    "fr": "french",
    "it": "italian",
    "nl": "dutch",
    "no": "norwegian",
    "pt": "portuguese",
    "ru": "russian",
    "sv": "swedish",
    "tr": "turkish",
}


def systems_without_weak_pairs(reader: RunReader) -> set[str]:
    """Systems that write or import weak queries and trained on none of them."""
    return {
        system
        for system in reader.systems
        if reader.has(system, "pairs")
        and reader.has(system, "filter")
        and not reader.get(system, "pairs").manifest.summary["weak"]
    }


def said_of_nothing(
    reader: RunReader,
    systems: AnyCollection[str],
    collection: Collection,
    config: dict[str, Any],
) -> tuple[str, ...]:
    """One sentence for each such method, and one about a likely reason."""
    lines = []
    for system, label in reader.shown("pairs").items():
        if system not in systems:
            continue
        funnel = reader.get(system, "filter").manifest.summary["funnel"]
        written, kept = sum(funnel.values()), funnel.get("kept", 0)
        title = method_title(label)
        if kept:
            lines.append(
                f"{title} trained on the labels alone: another method kept no weak query, and "
                f"equal_pairs takes as many of its {kept:,}."
            )
            continue
        dropped = {reason: count for reason, count in funnel.items() if count}
        most = max(dropped, key=dropped.__getitem__) if dropped else None
        why = "" if most is None else f" (most often: {reason_text(most)}, {dropped[most]:,} times)"
        lines.append(
            f"{title} kept none of its {written:,} weak queries{why} and trained on the labels "
            "alone: this run says nothing about what its weak queries are worth."
        )
    hint = language_hint(collection, config) if lines else None
    return (*lines, *([hint] if hint is not None else []))


def language_hint(collection: Collection, config: dict[str, Any]) -> str | None:
    """What the language of the documents has to do with it, where that can be told."""
    from sptar.retrieval.language import likely_language

    found = likely_language(
        document.full_text for document in islice(collection.corpus, _DOCUMENTS)
    )
    if found is None:
        return None
    written = _language_of_card(config["llm"]["name"]) if config.get("llm") else None
    analysed = config["filter"]["language"]
    reasons = []
    if written is not None and written != found:
        reasons.append(f"the language model was made for {written.capitalize()}")
    elif written is None and config.get("llm") and found != "english":
        reasons.append("the language model may not write it")
    if analysed not in (found, "none"):
        reasons.append(f"BM25 reads them as {analysed.capitalize()} (filter.language)")
    if not reasons:
        return None
    return (
        f"A likely reason: the documents look {found.capitalize()}, and {' and '.join(reasons)}. "
        f"Take weak queries in {found.capitalize()} (llm.name) and set filter.language: {found}."
    )


def _language_of_card(name: str) -> str | None:
    """The one language that a model's card names, where the model lies in a folder."""
    try:
        text = (Path(folder_of(name)) / "README.md").read_text(encoding="utf-8")
        head = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, IndexError):
        return None
    language = head.get("language") if isinstance(head, dict) else None
    if isinstance(language, list) and len(language) == 1:
        language = language[0]
    return _CODES.get(language) if isinstance(language, str) else None
