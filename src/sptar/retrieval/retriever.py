"""What stands behind a row of the table: encoders of a corpus, and rerankers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sptar.types import Corpus, Document, Query, Run, Searcher

if TYPE_CHECKING:
    from sptar.retrieval.ranking import DocumentIds

__all__ = ["CorpusEncoder", "Reranker", "Role"]

Role = Literal["query", "document"]


class CorpusEncoder(Protocol):
    """Turns a corpus, block by block, into what its searcher needs.

    What a document becomes depends on its text alone: the other documents of a block or batch
    change it by rounding only.
    """

    block_suffix: str
    """Ending of a saved block's file, such as ``.npy``."""

    def encode_block(self, documents: Sequence[Document]) -> Any:
        """The encoded documents, in order. Blocks of zero documents are allowed."""
        ...

    def join_blocks(self, blocks: Sequence[Any]) -> Any:
        """One block that holds those of several blocks in order; at least one is given."""
        ...

    def save_block(self, path: Path, block: Any) -> None:
        """Write a block to a file (its name ends on :attr:`block_suffix`); no pickle."""
        ...

    def searcher(self, blocks: Sequence[Any], ids: DocumentIds) -> Searcher:
        """Search over blocks in memory or paths of saved ones, which are memory-mapped.

        Together they hold ``len(ids)`` documents in the order of ``ids``.
        """
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...


class Reranker(Protocol):
    """Orders the candidates of each query anew."""

    def rerank(self, queries: Sequence[Query], candidates: Run, corpus: Corpus, top_k: int) -> Run:
        """The ``top_k`` best candidates of each query; ties broken by document id, ascending.

        A query without candidates gets an empty ranking. The score of a candidate depends on the
        query and the document alone.
        """
        ...
