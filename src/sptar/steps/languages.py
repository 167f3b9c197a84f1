"""Do documents, language model and BM25 speak one language? Told as far as it is cheap to tell."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from sptar.data.collection import Collection
from sptar.packaged import folder_of

__all__ = ["language_hint"]

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


def language_hint(collection: Collection, config: Mapping[str, Any]) -> str | None:
    """Half a sentence on documents in another language, and what to set; ``None``: nothing to say.

    ``config`` holds the settings of a run as plain values.
    """
    from sptar.retrieval.lexical.language import likely_language

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
        f"the documents look {found.capitalize()}, and {' and '.join(reasons)}. "
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
