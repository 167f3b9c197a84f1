"""Names of systems: which method, with which retriever; and how a reader knows both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sptar import methods

__all__ = ["SystemName", "method_title", "parse_system", "retriever_title", "row_title"]

_RETRIEVERS: Mapping[str, str] = {
    "bm25": "BM25",
    "dpr": "DPR",
    "colbert": "ColBERT",
    "tas_b": "TAS-B",
    "contriever": "Contriever",
    "recontriever": "ReContriever",
    "dragon": "DRAGON",
    "splade": "SPLADE",
    "static": "Static embeddings",
    "lora": "LoRA",
    "bm25ce": "BM25CE",
    "bm25dpr": "BM25DPR",
}


@dataclass(frozen=True, slots=True)
class SystemName:
    """A system's name, taken apart.

    Attributes:
        method: where the training data come from, such as ``sptar``.
        variant: what tells several systems of a method apart, such as ``k=30``.
        retriever: row of the table of retrievers or a fusion of two, such as ``bm25+dpr``;
            ``None`` for BM25 alone, and everywhere in a run with a single retriever.
    """

    method: str
    variant: str | None = None
    retriever: str | None = None

    @property
    def row(self) -> str:
        """Method and variant: what stands in a row of a retriever's block."""
        return self.method if self.variant is None else f"{self.method}@{self.variant}"

    def __str__(self) -> str:
        return self.row if self.retriever is None else f"{self.row}/{self.retriever}"


def parse_system(name: str) -> SystemName:
    """Take a name apart; a name of the user's own is a method.

    >>> parse_system("sptar@k=30/bm25+dpr")
    SystemName(method='sptar', variant='k=30', retriever='bm25+dpr')
    >>> str(parse_system("bm25"))
    'bm25'
    """
    row, _, retriever = name.partition("/")
    method, _, variant = row.partition("@")
    return SystemName(method, variant or None, retriever or None)


def retriever_title(retriever: str) -> str:
    """How a reader knows a retriever; an unknown name stays as it is.

    >>> retriever_title("tas_b"), retriever_title("bm25+dpr")
    ('TAS-B', 'BM25 + DPR')
    """
    return " + ".join(_RETRIEVERS.get(part, part) for part in retriever.split("+"))


def row_title(name: str) -> str:
    """Method and variant of a system in a reader's words, without its retriever.

    >>> row_title("sptar@k=30/dpr"), row_title("bm25")
    ('SPTAR (k = 30)', 'BM25')
    """
    system = parse_system(name)
    title = methods.method_title(system.method)
    if system.variant is None:
        return title
    return f"{title} ({system.variant.replace('=', ' = ')})"


def method_title(method: str) -> str:
    """How a reader knows a system; a name of the user's own stays as it is.

    >>> method_title("bm25"), method_title("my_queries"), method_title("sptar/colbert")
    ('BM25', 'my_queries', 'SPTAR, ColBERT')
    """
    retriever = parse_system(method).retriever
    if retriever is None:
        return methods.method_title(method)
    return f"{row_title(method)}, {retriever_title(retriever)}"
