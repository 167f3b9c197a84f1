"""Token vectors of many texts, the file that holds them, and MaxSim between them."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sptar.errors import ModelError, WorkspaceError
from sptar.io import atomic_path

__all__ = ["MaxSim", "TokenVectors", "late_scores", "longest_vector"]

Vectors = npt.NDArray[np.float32]

_QUERY_TOKENS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class TokenVectors:
    """Token vectors of n texts, one text after the other, without padding.

    ``vectors`` is [t, d] float32; those of text i are the rows ``offsets[i]`` to
    ``offsets[i + 1]``, with ``offsets`` int64 [n + 1]. A text may have none.

    Vectors stay float32 on disk too, 4 · d bytes for each token. The same text in another batch
    gives vectors that differ in the last bits of float32; rounded to float16, some of them would
    come out a step of 5e-4 apart, and scores would depend on batch sizes in the fifth digit
    instead of the seventh.
    """

    vectors: Vectors
    offsets: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.offsets.ndim != 1 or not len(self.offsets):
            raise ValueError("token vectors have two axes, their offsets one")
        if self.vectors.dtype != np.float32 or self.offsets.dtype != np.int64:
            raise ValueError("token vectors are float32, their offsets int64")
        if (
            self.offsets[0] != 0
            or self.offsets[-1] != len(self.vectors)
            or (np.diff(self.offsets) < 0).any()
        ):
            raise ValueError("offsets run from 0 to the number of token vectors")

    @classmethod
    def of(cls, texts: Iterable[npt.NDArray[np.floating]], dimension: int) -> TokenVectors:
        """From one array [t_i, d] for each text; there may be no text."""
        parts = [np.asarray(part, np.float32).reshape(-1, dimension) for part in texts]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        joined = np.concatenate(parts) if parts else np.zeros((0, dimension), np.float32)
        return cls(joined, offsets)

    @classmethod
    def join(cls, parts: Sequence[TokenVectors]) -> TokenVectors:
        """The texts of several, in order; at least one part is given."""
        ends = np.cumsum([0, *(len(part.vectors) for part in parts)], dtype=np.int64)
        offsets = [part.offsets[1:] + end for part, end in zip(parts, ends[:-1], strict=True)]
        return cls(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([np.zeros(1, np.int64), *offsets]),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> Vectors:
        """[t_i, d] of one text."""
        if not 0 <= text < len(self):
            raise IndexError(text)
        return self.vectors[self.offsets[text] : self.offsets[text + 1]]

    def __iter__(self) -> Iterator[Vectors]:
        return (self[text] for text in range(len(self)))

    @property
    def dimension(self) -> int:
        """d, the length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[n] tokens of each text."""
        return np.diff(self.offsets)

    def slice(self, first: int, last: int) -> TokenVectors:
        """The texts from ``first`` up to ``last``, in memory and in one piece."""
        offsets = self.offsets[first : last + 1]
        rows = self.vectors[offsets[0] : offsets[-1]]
        return TokenVectors(np.ascontiguousarray(rows), offsets - offsets[0])

    def take(self, texts: npt.ArrayLike) -> TokenVectors:
        """The texts at these positions, in this order, copied."""
        chosen = np.asarray(texts, np.int64)
        lengths = self.lengths[chosen]
        offsets = np.zeros(len(chosen) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        shift = np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        return TokenVectors(self.vectors[np.arange(offsets[-1]) + shift], offsets)

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        from safetensors.numpy import save_file

        with atomic_path(path) as temporary:
            save_file(
                {
                    "offsets": np.ascontiguousarray(self.offsets),
                    "vectors": np.ascontiguousarray(self.vectors),
                },
                temporary,
            )

    @classmethod
    def open(cls, path: Path) -> TokenVectors:
        """What :meth:`save` wrote, its vectors memory-mapped.

        Raises:
            WorkspaceError: there is no such file, or it holds something else.
        """
        from safetensors import SafetensorError, safe_open

        damaged = WorkspaceError(
            f"{path} is damaged: it holds no token vectors.",
            hint="Delete it; the step that made it makes it again.",
        )
        try:
            with safe_open(path, framework="np"):  # compares the table with the file's length
                pass
            # The library copies what it reads. The format is a length, a table, then the bytes.
            with path.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                table = json.loads(stream.read(size))
        except FileNotFoundError:
            raise WorkspaceError(f"There is no file {path}.") from None
        except (SafetensorError, OSError, ValueError):
            raise damaged from None
        raw = np.memmap(path, np.uint8, "r")
        try:
            vectors = _tensor(raw, table["vectors"], 8 + size, "F32")
            offsets = _tensor(raw, table["offsets"], 8 + size, "I64")
            return cls(vectors.view(np.float32), np.array(offsets, np.int64))
        except (KeyError, TypeError, ValueError):
            raise damaged from None


def _tensor(
    raw: npt.NDArray[np.uint8], entry: dict[str, Any], begin: int, dtype: str
) -> npt.NDArray[Any]:
    if entry["dtype"] != dtype:
        raise ValueError(dtype)
    first, last = entry["data_offsets"]
    values = raw[begin + first : begin + last].view("<f4" if dtype == "F32" else "<i8")
    return values.reshape(entry["shape"])


def longest_vector(vectors: Vectors, whose: str) -> float:
    """Length of the longest of these vectors, 0 for none.

    Raises:
        ModelError: one of them is no number.
    """
    longest = math.sqrt(float(np.einsum("ij,ij->i", vectors, vectors).max(initial=0.0)))
    if not math.isfinite(longest):
        raise ModelError(
            f"{whose} vectors hold values that are no numbers.",
            hint="The retriever's training diverged: lower train.learning_rate.",
        )
    return longest


class MaxSim:
    """MaxSim of some queries with texts that come in pieces (ColBERT, arXiv 2004.12832, eq. 3).

    The score is the sum, over the query's tokens, of the largest dot product with a token of the
    document. A document without tokens gets what one would get whose tokens all point away from
    the query's: minus the sum of the lengths of the query's vectors. A query without tokens scores
    0 everywhere.

    ``rough`` multiplies matrices in float32. ``exact`` computes the dot products again that may be
    the largest, in float64 and in one fixed order, so that an exact score depends on the query
    and the document alone, whatever stands beside them in a piece.
    """

    def __init__(self, queries: TokenVectors) -> None:
        longest_vector(queries.vectors, "Query")
        self.queries = queries
        self._floors = -np.sqrt(np.square(queries.vectors, dtype=np.float64).sum(axis=1))
        # Bound on the error of a float32 dot product of d terms with a vector of length 1, with
        # room to spare.
        self._errors = -2.0 * (queries.dimension + 2) * 2.0**-24 * self._floors
        width = int(queries.lengths.max(initial=1))
        self.queries_at_once = max(1, _QUERY_TOKENS_AT_ONCE // max(1, width))

    def margins(self, longest: float) -> npt.NDArray[np.float64]:
        """[q] by how much a rough score may differ from the exact one.

        ``longest`` bounds the length of a document's vectors.
        """
        ends = np.concatenate([np.zeros(1), np.cumsum(self._errors)])
        offsets = self.queries.offsets
        margins: npt.NDArray[np.float64] = ends[offsets[1:]] - ends[offsets[:-1]]
        return margins * (1.001 * longest)

    def similarities(self, piece: TokenVectors, first: int, last: int) -> Vectors:
        """[t, s] of a piece's tokens with the tokens of queries ``first`` up to ``last``."""
        offsets = self.queries.offsets
        return piece.vectors @ self.queries.vectors[offsets[first] : offsets[last]].T

    def rough(
        self, similar: Vectors, piece: TokenVectors, first: int, last: int
    ) -> npt.NDArray[np.float64]:
        """[q, n] scores of those queries with a piece's texts, up to the :meth:`margins`."""
        offsets = self.queries.offsets[first : last + 1]
        scores = np.empty((last - first, len(piece)), np.float64)
        floors = self._floors[offsets[0] : offsets[-1]]
        _rough()(similar, piece.offsets, offsets - offsets[0], floors, scores)
        return scores

    def exact(
        self,
        similar: Vectors,
        piece: TokenVectors,
        query: int,
        first: int,
        texts: npt.NDArray[np.int64],
        longest: float,
    ) -> npt.NDArray[np.float64]:
        """[r] exact scores of one query with some texts of a piece.

        ``similar`` are the :meth:`similarities` that begin with query ``first``.
        """
        offsets = self.queries.offsets
        tokens = slice(int(offsets[query]), int(offsets[query + 1]))
        scores = np.empty(len(texts), np.float64)
        _exact()(
            similar,
            int(offsets[query] - offsets[first]),
            piece.vectors,
            piece.offsets,
            self.queries.vectors[tokens],
            self._floors[tokens],
            (2.0 * longest * self._errors[tokens]).astype(np.float32),
            texts,
            scores,
        )
        return scores


def late_scores(queries: TokenVectors, documents: TokenVectors) -> Vectors:
    """[q, n] MaxSim of every query with every document, each computed exactly, as float32."""
    compare = MaxSim(queries)
    longest = longest_vector(documents.vectors, "Document")
    everything = np.arange(len(documents))
    scores = np.empty((len(queries), len(documents)), np.float32)
    piece = documents.slice(0, len(documents))
    for query in range(len(queries)):
        similar = compare.similarities(piece, query, query + 1)
        scores[query] = compare.exact(similar, piece, query, query, everything, longest)
    return scores


@functools.cache
def _rough() -> Callable[..., None]:
    import numba

    compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(nogil=True)

    @compiled
    def walk(similar: Any, offsets: Any, query_offsets: Any, floors: Any, scores: Any) -> None:
        width = similar.shape[1]
        best = np.empty(width, dtype=np.float32)
        for text in range(len(offsets) - 1):
            first, last = offsets[text], offsets[text + 1]
            best[:] = -np.inf
            for token in range(first, last):
                row = similar[token]
                for column in range(width):
                    value = row[column]
                    best[column] = value if value > best[column] else best[column]
            for query in range(len(query_offsets) - 1):
                total = 0.0
                for column in range(query_offsets[query], query_offsets[query + 1]):
                    total += floors[column] if first == last else np.float64(best[column])
                scores[query, text] = total

    return walk


@functools.cache
def _exact() -> Callable[..., None]:
    import numba

    compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(nogil=True)

    @compiled
    def walk(
        similar: Any,
        column: int,
        vectors: Any,
        offsets: Any,
        query: Any,
        floors: Any,
        slack: Any,
        texts: Any,
        scores: Any,
    ) -> None:
        for place in range(len(texts)):
            first, last = offsets[texts[place]], offsets[texts[place] + 1]
            total = 0.0
            for word in range(len(query)):
                if first == last:
                    total += floors[word]
                    continue
                largest = similar[first, column + word]
                for token in range(first + 1, last):
                    if similar[token, column + word] > largest:
                        largest = similar[token, column + word]
                # Any token this close in float32 may be the largest one in float64.
                enough = largest - slack[word]
                best = -np.inf
                for token in range(first, last):
                    if similar[token, column + word] >= enough:
                        product = 0.0
                        for axis in range(query.shape[1]):
                            product += np.float64(vectors[token, axis]) * np.float64(
                                query[word, axis]
                            )
                        if product > best:
                            best = product
                total += best
            scores[place] = total

    return walk
