"""From the filter's decisions to what a reader looks at: counts by reason, and some examples."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from sptar.report.records import Funnel, MethodExamples, ReasonCount, WeakExample
from sptar.types import Corpus, Decision
from sptar.weak.reasons import REASONS

__all__ = ["choose_examples", "count_funnel", "excerpt", "reason_text"]


def reason_text(reason: str) -> str:
    """A reason in words; one that is not known stays as it is."""
    return REASONS.get(reason, reason)


def excerpt(text: str, words: int = 60) -> str:
    """The first words of a text on one line, with an ellipsis when there are more.

    >>> excerpt("one  two\\nthree", 2)
    'one two …'
    """
    parts = text.split()
    shown = " ".join(parts[:words])
    # Text without blanks (another script, a broken file) must not fill the page either.
    if len(shown) > words * 12:
        return shown[: words * 12].rstrip() + " …"
    return f"{shown} …" if len(parts) > words else shown


def count_funnel(method: str, decisions: Iterable[Decision]) -> Funnel:
    """Count the decisions; every reason that occurs has its row."""
    counts = Counter("kept" if item.kept else item.reason for item in decisions)
    order = [*(reason for reason in REASONS if reason != "kept")]
    order += sorted(set(counts) - set(REASONS))
    return Funnel(
        method=method,
        generated=sum(counts.values()),
        dropped=tuple(ReasonCount(reason, counts[reason]) for reason in order if counts[reason]),
        kept=counts["kept"],
    )


def choose_examples(
    method: str, decisions: Sequence[Decision], corpus: Corpus, each: int = 5
) -> MethodExamples:
    """Up to ``each`` kept and ``each`` dropped weak queries, the reasons taking turns.

    The choice is by a hash of the query id: it looks random, flatters nobody, and is the same
    whatever the order of the decisions. A document that the corpus lacks is shown as such.
    """
    ordered = sorted(decisions, key=lambda item: _lot(item.query_id))
    kept = [item for item in ordered if item.kept][:each]
    by_reason: dict[str, list[Decision]] = {}
    for item in ordered:
        if not item.kept:
            by_reason.setdefault(item.reason, []).append(item)
    known = [reason for reason in REASONS if reason in by_reason]
    queues = [by_reason[reason] for reason in (*known, *sorted(set(by_reason) - set(known)))]
    dropped: list[Decision] = []
    for turn in range(each):
        dropped.extend(queue[turn] for queue in queues if turn < len(queue))
    return MethodExamples(
        method=method,
        kept=tuple(_example(item, corpus) for item in kept),
        dropped=tuple(_example(item, corpus) for item in dropped[:each]),
    )


def _lot(query_id: str) -> tuple[str, str]:
    return hashlib.sha256(query_id.encode("utf-8")).hexdigest(), query_id


def _example(item: Decision, corpus: Corpus) -> WeakExample:
    try:
        document = excerpt(corpus.get(item.doc_id).full_text)
    except KeyError:
        document = f"(document {item.doc_id} is not in the corpus)"
    return WeakExample(
        query=excerpt(item.text), document=document, reason=item.reason, rank=item.rank
    )
