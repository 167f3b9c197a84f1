"""Teachers of a distilled retriever: a cross-encoder for pairs, late interaction within a batch.

Both are scored before the student trains. A teacher is never asked whether a label is right: as in
the TAS-B paper (arXiv 2104.06967, section 2.3) its scores alone are the supervision. What they are
worth depends on where it learned. A teacher trained on the few pairs that the student also gets
brings no knowledge from elsewhere, and its margins are often of a small range. The student learns
margins of the size of the teacher's, whatever the level of either's scores: a cross-encoder's are
logits, those of late interaction grow with the length of the query. Nothing is rescaled. A named
teacher brings the supervision of the labels that it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from sptar.errors import DataError, ModelError, WorkspaceError
from sptar.io import atomic_path, read_json, write_json
from sptar.progress import silent
from sptar.retrieval.late.scores import TokenVectors, late_scores, longest_vector
from sptar.types import Document, Pair, Progress, Query

__all__ = [
    "LateTeacher",
    "PairScorer",
    "TokenEncoder",
    "load_pair_scores",
    "pair_scores",
    "save_pair_scores",
]

PairScorer: TypeAlias = Callable[[Sequence[str], Sequence[str]], npt.NDArray[np.floating]]
"""Scores of query texts and document texts, pairwise: ``[n]``, in order."""

_PAIRS_AT_ONCE = 256
"""Pairs scored between two signs of progress; no influence on the scores."""
_TEXTS_IN_FILE = 1024
"""Texts whose token vectors are in memory at once while they are written."""
_FORMAT = 1
_ONE_OF = {"queries": "query", "documents": "document"}
_Text = TypeVar("_Text")
_Number = TypeVar("_Number", np.float32, np.int64)


def pair_scores(
    reranker_scores: PairScorer,
    pairs: Sequence[Pair],
    negatives: Sequence[Sequence[Document]],
    *,
    progress: Progress = silent,
) -> npt.NDArray[np.float32]:
    """The pairwise teacher's scores of pairs and their hard negatives.

    A pair's scores depend on the pair alone (rounding aside), so long work may be cut into blocks
    of pairs and the results be put together.

    Args:
        reranker_scores: scores texts; a cross-encoder's ``scores``.
        pairs: training pairs, or a block of them.
        negatives: ``negatives[i]`` of ``pairs[i]``, the same number n for each.
        progress: told about each pair.

    Returns:
        [pairs, 1 + n]: the pair's own document, then its negatives in order.

    Raises:
        ModelError: a score is no number.
    """
    if len(negatives) != len(pairs):
        raise ValueError(f"negatives for {len(negatives)} pairs, and {len(pairs)} pairs")
    counts = {len(found) for found in negatives}
    if len(counts) > 1:
        raise ValueError(f"pairs have different numbers of negatives: {sorted(counts)}")
    columns = 1 + (counts.pop() if counts else 0)
    scores = np.empty((len(pairs), columns), dtype=np.float32)
    progress.start("teacher scores", len(pairs), "pairs")
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        stop = min(start + _PAIRS_AT_ONCE, len(pairs))
        queries = [pair.query.text.strip() for pair in pairs[start:stop] for _ in range(columns)]
        documents = [
            document.full_text
            for pair, found in zip(pairs[start:stop], negatives[start:stop], strict=True)
            for document in (pair.document, *found)
        ]
        block = np.asarray(reranker_scores(queries, documents), dtype=np.float32)
        if block.shape != (len(queries),):
            raise ValueError(f"{len(queries)} texts were scored by an array {block.shape}")
        scores[start:stop] = block.reshape(-1, columns)
        if not np.isfinite(block).all():
            row = start + int(np.flatnonzero(~np.isfinite(scores[start:stop]).all(axis=1))[0])
            raise ModelError(
                "The teacher gives no number as score of query "
                f"{pairs[row].query.query_id} and one of its documents.",
                hint="Set train.teacher to another cross-encoder, or train.dtype=float32.",
            )
        progress.advance(stop - start)
    progress.finish()
    return scores


def save_pair_scores(path: str | Path, scores: npt.NDArray[np.floating]) -> None:
    """Write scores [pairs, 1 + n] as a float32 ``.npy`` file, whole or not at all."""
    if scores.ndim != 2 or scores.shape[1] < 1:
        raise ValueError(f"teacher scores are an array [pairs, 1 + n], not {scores.shape}")
    _save(Path(path), scores.astype(np.float32))


def load_pair_scores(
    path: str | Path, pairs: int, negatives: int | None = None
) -> npt.NDArray[np.float32]:
    """Read scores that :func:`save_pair_scores` wrote.

    Args:
        path: the file.
        pairs: how many pairs it must hold.
        negatives: how many negatives of each pair it must hold; any number if not given.

    Raises:
        WorkspaceError: there is no such file, or it is damaged.
        DataError: it holds the scores of other pairs.
    """
    path = Path(path)
    scores = _load(path, np.float32)
    if not np.isfinite(scores).all():
        raise WorkspaceError(f"{path} is damaged: not all of its scores are numbers.")
    if len(scores) != pairs or (negatives is not None and scores.shape[1] != 1 + negatives):
        wanted = "" if negatives is None else f" with {negatives} negatives each"
        raise DataError(
            f"teacher scores of {len(scores)} pairs with {scores.shape[1] - 1} negatives each, "
            f"where {pairs} pairs{wanted} are trained on.",
            path=path,
            hint="Delete the file, and score the pairs again.",
        )
    return scores


class TokenEncoder(Protocol):
    """Encodes texts for late interaction."""

    def encode_queries(self, queries: Sequence[Query]) -> TokenVectors: ...

    def encode_documents(self, documents: Sequence[Document]) -> TokenVectors: ...


class LateTeacher:
    """An :class:`~sptar.retrieval.retriever.InBatchTeacher`: MaxSim of any query and document.

    The score is that of ColBERT (arXiv 2004.12832; TAS-B paper, section 2.1), see
    :func:`~sptar.retrieval.late.scores.late_scores`: it depends on the two texts alone, whatever
    else is in the batch. Each text is encoded once, before training, equal texts only once.
    Vectors lie in memory-mapped files as float32: with d = 128 that is 512 bytes a token, 100 KB
    for a document of 200 tokens.

    Use :meth:`build` once and :meth:`load` afterwards. ``len`` is the number of pairs, ``folder``
    is where it lies.
    """

    def __init__(
        self,
        queries: Sequence[TokenVectors],
        documents: Sequence[TokenVectors],
        texts_in_file: int,
        numbers: npt.NDArray[np.int64],
        folder: Path,
    ) -> None:
        self.folder = folder
        self._queries = queries
        self._documents = documents
        self._texts_in_file = texts_in_file
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @classmethod
    def build(
        cls,
        encoder: TokenEncoder,
        pairs: Sequence[Pair],
        folder: str | Path,
        progress: Progress = silent,
    ) -> LateTeacher:
        """Encode the texts of the training pairs into a folder.

        Args:
            encoder: the teacher.
            pairs: in the order in which they are trained on; one at least.
            folder: made if it is missing. Its description is written last: a folder left by a
                killed run is not taken for a finished one.
            progress: told about each different text.

        Raises:
            ModelError: a vector is no number.
        """
        if not pairs:
            raise ValueError("a teacher needs one pair at least")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "teacher.json").unlink(missing_ok=True)
        queries: dict[str, Query] = {}
        documents: dict[str, Document] = {}
        for pair in pairs:
            queries.setdefault(pair.query.text.strip(), pair.query)
            documents.setdefault(pair.document.full_text, pair.document)
        query_row = {text: row for row, text in enumerate(queries)}
        document_row = {text: row for row, text in enumerate(documents)}
        numbers = np.array(
            [
                (query_row[pair.query.text.strip()], document_row[pair.document.full_text])
                for pair in pairs
            ],
            dtype=np.int64,
        )
        progress.start("teacher's token vectors", len(queries) + len(documents), "texts")
        _encode(encoder.encode_queries, list(queries.values()), folder, "queries", progress)
        _encode(encoder.encode_documents, list(documents.values()), folder, "documents", progress)
        _save(folder / "pairs.npy", numbers)
        write_json(
            folder / "teacher.json",
            {
                "format": _FORMAT,
                "pairs": len(pairs),
                "queries": len(queries),
                "documents": len(documents),
                "texts_in_file": _TEXTS_IN_FILE,
            },
        )
        progress.finish()
        return cls.load(folder)

    @classmethod
    def load(cls, folder: str | Path) -> LateTeacher:
        """Open what :meth:`build` wrote; vectors stay on disk until they are asked for.

        Raises:
            WorkspaceError: the folder holds no finished teacher, or a damaged one.
        """
        folder = Path(folder)
        damaged = WorkspaceError(
            f"{folder} is damaged: its files do not belong together.",
            hint="Delete it; the step that made it makes it again.",
        )
        try:
            description = read_json(folder / "teacher.json")
        except FileNotFoundError:
            raise WorkspaceError(f"{folder} holds no finished in-batch teacher.") from None
        except DataError:
            raise damaged from None
        numbers = _load(folder / "pairs.npy", np.int64)
        try:
            size = int(description["texts_in_file"])
            counts = [int(description["queries"]), int(description["documents"])]
            whole = (description["format"], description["pairs"]) == (_FORMAT, len(numbers))
        except (KeyError, TypeError, ValueError):
            raise damaged from None
        if not whole or size < 1 or numbers.shape[1] != 2 or (numbers < 0).any():
            raise damaged
        if (numbers >= counts).any():
            raise damaged
        queries = _open(folder, "queries", counts[0], size)
        documents = _open(folder, "documents", counts[1], size)
        lengths = [len(part) for part in (*queries, *documents)]
        if lengths != [*_sizes(counts[0], size), *_sizes(counts[1], size)]:
            raise damaged
        if len({part.dimension for part in (*queries, *documents)}) != 1:
            raise damaged
        return cls(queries, documents, size, numbers, folder)

    def scores(self, numbers: Sequence[int]) -> npt.NDArray[np.float32]:
        """[b, b]: score of pair ``numbers[i]``'s query and pair ``numbers[j]``'s document."""
        rows = self._numbers[np.asarray(numbers, dtype=np.int64)]
        return late_scores(
            self._gather(self._queries, rows[:, 0]), self._gather(self._documents, rows[:, 1])
        )

    def _gather(self, parts: Sequence[TokenVectors], rows: npt.NDArray[np.int64]) -> TokenVectors:
        size = self._texts_in_file
        found = (parts[row // size][row % size] for row in rows.tolist())
        return TokenVectors.of(found, parts[0].dimension)


def _file(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}-{number:05d}.safetensors"


def _sizes(texts: int, texts_in_file: int) -> list[int]:
    """Texts in each file."""
    return [min(texts_in_file, texts - first) for first in range(0, texts, texts_in_file)]


def _encode(
    encode: Callable[[Sequence[_Text]], TokenVectors],
    texts: Sequence[_Text],
    folder: Path,
    name: str,
    progress: Progress,
) -> None:
    for number, first in enumerate(range(0, len(texts), _TEXTS_IN_FILE)):
        block = texts[first : first + _TEXTS_IN_FILE]
        tokens = encode(block)
        if len(tokens) != len(block):
            raise ValueError(f"{len(block)} texts were encoded as {len(tokens)}")
        longest_vector(tokens.vectors, f"The in-batch teacher's {_ONE_OF[name]}")
        tokens.save(_file(folder, name, number))
        progress.advance(len(block))


def _open(folder: Path, name: str, texts: int, texts_in_file: int) -> list[TokenVectors]:
    files = len(_sizes(texts, texts_in_file))
    return [TokenVectors.open(_file(folder, name, number)) for number in range(files)]


def _save(path: Path, values: npt.NDArray[np.generic]) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, values, allow_pickle=False)


def _load(path: Path, dtype: type[_Number]) -> npt.NDArray[_Number]:
    """An array of this type with two axes."""
    try:
        values: npt.NDArray[_Number] = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise WorkspaceError(f"There is no file {path}.") from None
    except (OSError, ValueError, EOFError):
        raise WorkspaceError(f"{path} is damaged: it is no whole .npy file.") from None
    if values.dtype != dtype or values.ndim != 2:
        raise WorkspaceError(
            f"{path} is damaged: it holds {values.dtype} values on {values.ndim} axes, not "
            f"{np.dtype(dtype)} on 2."
        )
    return values
