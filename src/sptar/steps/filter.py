"""Steps ``rank`` and ``filter``: is the source document among BM25's top k for its weak query?

Ranking is the costly part and knows no k; deciding is cheap, so another k costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from sptar.blocks import Block, JsonlBlocks
from sptar.config import FilterConfig, result_settings
from sptar.io import read_jsonl, write_jsonl
from sptar.steps.base import Context, Output, Step
from sptar.steps.resources import bm25_index, open_collection, open_split, queries_of
from sptar.types import WeakQuery
from sptar.weak.reasons import REASONS
from sptar.workspace import Artefact

__all__ = ["FilterStep", "RankStep"]


def _weak_queries(path: Path) -> Iterator[WeakQuery]:
    for _, row in read_jsonl(path):
        yield WeakQuery(**row)


def _outcome(counts: Mapping[str, int], *, written: bool) -> str:
    """What became of the weak queries; and what to do where most of them say the same.

    Behind one example a language model may copy that example for document after document. Queries
    that were imported, not ``written`` here, have no setting to change.
    """
    total = sum(counts.values())
    dropped = ", ".join(
        f"{REASONS.get(reason, reason)} {count:,}"
        for reason, count in counts.items()
        if count and reason != "kept"
    )
    text = f"{counts['kept']:,} of {total:,} weak queries are kept"
    text += f" ({dropped})." if dropped else "."
    if total and not counts["kept"]:
        text += " A retriever trained with them sees the labels alone."
    if 2 * counts["duplicate"] > total:
        text += " Most of them repeat one another."
        if written:
            text += (
                " The model may copy its example or hardly read the document: try more "
                "`prompt.examples`, or sampling at a higher `augment.temperature`."
            )
    return text


@dataclass(frozen=True, kw_only=True)
class RankStep(Step):
    """Finds the exact BM25 rank of the source document for every weak query."""

    name: ClassVar[str] = "rank"
    collection: Step
    bm25_index: Step
    weak: Step
    filter: FilterConfig

    @property
    def settings(self) -> dict[str, Any]:
        """The cut of the query text."""
        return {"max_query_words": self.filter.max_query_words}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Rank the missing blocks and join all of them."""
        from sptar.weak.filters import rank_block, ranked_to_row

        source = inputs["weak"].path("weak_queries.jsonl")
        total = int(inputs["weak"].manifest.summary["rows"])
        blocks = JsonlBlocks.open(
            output.unfinished / "blocks", items=total, block_size=self.filter.block_size
        )
        missing = blocks.missing()
        if missing:
            ranker = bm25_index(inputs, context)
            stream = _weak_queries(source)
            position = 0
            context.progress.start(
                "Ranking source documents", sum(b.stop - b.start for b in missing), "queries"
            )

            def work(block: Block) -> None:
                nonlocal position
                # Blocks come in order: what lies between has been ranked before.
                rows = list(islice(stream, block.start - position, block.stop - position))
                position = block.stop
                ranked = rank_block(rows, ranker, self.filter.max_query_words)
                blocks.write(block, (ranked_to_row(query) for query in ranked))
                context.progress.advance(len(rows))

            for block in missing:
                work(block)
            context.progress.finish()
        blocks.join(output.path("ranked.jsonl"))
        return {"rows": total}


@dataclass(frozen=True, kw_only=True)
class FilterStep(Step):
    """Decides for every weak query: kept, or dropped and why."""

    name: ClassVar[str] = "filter"
    collection: Step
    split: Step
    rank: Step
    filter: FilterConfig
    k: int

    @property
    def settings(self) -> dict[str, Any]:
        """The cut-off and the other filters' thresholds."""
        kept = (
            *("max_query_words", "drop_duplicates", "drop_test_overlap", "max_copied_share"),
            "drop_unfinished",
        )
        settings = result_settings(self.filter)
        return {"k": self.k, **{name: settings[name] for name in kept if name in settings}}

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Decide and count."""
        from sptar.weak.filters import decide, decision_to_row, funnel, ranked_from_row

        collection = open_collection(inputs, context)
        test = queries_of(collection, open_split(inputs, context).test)
        ranked = (
            ranked_from_row(row) for _, row in read_jsonl(inputs["rank"].path("ranked.jsonl"))
        )
        decisions = decide(
            ranked,
            k=self.k,
            settings=self.filter,
            document_text=lambda doc_id: collection.corpus.get(doc_id).full_text,
            test_queries=[query.text for query in test],
        )
        write_jsonl(output.path("decisions.jsonl"), (decision_to_row(row) for row in decisions))
        counts = funnel(decisions)
        written = self.rank.inputs["weak"].name == "augment"
        context.progress.message(_outcome(counts, written=written))
        return {"k": self.k, "rows": len(decisions), "funnel": counts}
