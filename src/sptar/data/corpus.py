"""A corpus on disk: documents are read when they are asked for, never held.

``corpus.jsonl`` lies beside three arrays: where each line starts, the sorted hashes of the ids,
and the position that belongs to each hash. All of it is memory-mapped, so processes share it.
"""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sptar.data.identifiers import digest64
from sptar.errors import DataError
from sptar.io import atomic_path
from sptar.types import Document

__all__ = ["DiskCorpus", "build_index"]

CORPUS_FILE = "corpus.jsonl"
OFFSETS_FILE = "corpus.offsets.npy"
HASHES_FILE = "corpus.hashes.npy"
POSITIONS_FILE = "corpus.positions.npy"

_ID_START = b'{"_id": "'


def _id_of_line(line: bytes) -> str:
    """Id of a BEIR line; a line written by this package is not parsed beyond its id."""
    if line.startswith(_ID_START):
        end = line.find(b'"', len(_ID_START))
        packed = line[len(_ID_START) : end]
        if end > 0 and b"\\" not in packed:
            return packed.decode("utf-8")
    return str(json.loads(line)["_id"])


def build_index(
    corpus_jsonl: str | Path, folder: str | Path, *, digest: Callable[[str], int] = digest64
) -> int:
    """Write the index arrays of a validated corpus file into ``folder``.

    Returns:
        The number of documents.

    Raises:
        DataError: a line has no id, or an id stands twice (file and line are named).
    """
    corpus_jsonl, folder = Path(corpus_jsonl), Path(folder)
    starts, hashes, offset = array("q"), array("Q"), 0
    with corpus_jsonl.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                try:
                    hashes.append(digest(_id_of_line(line)))
                except (KeyError, TypeError, ValueError):
                    raise DataError(
                        "no JSON object with an `_id`.", path=corpus_jsonl, line=number
                    ) from None
                starts.append(offset)
            offset += len(line)
    starts.append(offset)
    offsets = np.frombuffer(starts, dtype=np.int64)
    unsorted = np.frombuffer(hashes, dtype=np.uint64) if hashes else np.empty(0, dtype=np.uint64)
    positions = np.argsort(unsorted, kind="stable").astype(np.int64)
    ordered = unsorted[positions]
    _refuse_duplicates(corpus_jsonl, offsets, ordered, positions)
    for name, values in (
        (HASHES_FILE, ordered),
        (POSITIONS_FILE, positions),
        (OFFSETS_FILE, offsets),
    ):
        with atomic_path(folder / name) as temporary:
            np.save(temporary, values, allow_pickle=False)
    return len(positions)


def _refuse_duplicates(
    path: Path,
    offsets: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.uint64],
    positions: npt.NDArray[np.int64],
) -> None:
    same = np.flatnonzero(hashes[1:] == hashes[:-1])
    if not len(same):
        return
    seen: dict[str, int] = {}
    suspects = sorted({int(positions[place + step]) for place in same for step in (0, 1)})
    with path.open("rb") as stream:
        for position in suspects:
            stream.seek(int(offsets[position]))
            doc_id = _id_of_line(stream.readline())
            if doc_id in seen:
                raise DataError(
                    f"the document id {doc_id!r} stands twice: documents {seen[doc_id] + 1} and "
                    f"{position + 1} of the corpus.",
                    path=path,
                    hint="Give each document an id of its own.",
                )
            seen[doc_id] = position


class DiskCorpus:
    """The documents of a collection; implements :class:`sptar.types.Corpus`.

    Cheap to open and to pickle: what travels is the folder's path.
    """

    def __init__(self, folder: str | Path, *, digest: Callable[[str], int] = digest64) -> None:
        self.folder = Path(folder)
        self._digest = digest
        path = self.folder / CORPUS_FILE
        try:
            self._offsets: npt.NDArray[np.int64] = self._load(OFFSETS_FILE)
            self._hashes: npt.NDArray[np.uint64] = self._load(HASHES_FILE)
            self._positions: npt.NDArray[np.int64] = self._load(POSITIONS_FILE)
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise DataError(
                "the corpus is not complete: a file is missing.",
                path=error.filename,
                hint="Convert the collection again.",
            ) from None
        if int(self._offsets[-1]) != size:
            raise DataError(
                f"the index was made for {int(self._offsets[-1])} bytes, the file has {size}.",
                path=path,
                hint="The corpus was changed after its conversion: convert the collection again.",
            )
        with path.open("rb") as stream:
            # An empty file cannot be mapped.
            self._bytes: mmap.mmap | bytes = (
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            )

    def _load(self, name: str) -> npt.NDArray[Any]:
        loaded: npt.NDArray[Any] = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        return loaded

    @classmethod
    def open(cls, folder: str | Path) -> DiskCorpus:
        """Open a folder with ``corpus.jsonl`` and its index.

        Raises:
            DataError: a file is missing, or the index does not fit the corpus.
        """
        return cls(folder)

    def __reduce__(self) -> tuple[type[DiskCorpus], tuple[str]]:
        return (DiskCorpus, (str(self.folder),))

    def __len__(self) -> int:
        return len(self._positions)

    def _line(self, position: int) -> bytes:
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of a corpus of {len(self)} documents")
        return self._bytes[int(self._offsets[position]) : int(self._offsets[position + 1])]

    def __getitem__(self, position: int) -> Document:
        values = json.loads(self._line(position))
        return Document(values["_id"], values["text"], values.get("title") or "")

    def __iter__(self) -> Iterator[Document]:
        for position in range(len(self)):
            yield self[position]

    def doc_id(self, position: int) -> str:
        """Id of the document at a position; ``IndexError`` outside the corpus."""
        return _id_of_line(self._line(position))

    def _find(self, doc_id: str) -> int | None:
        key = np.uint64(self._digest(doc_id))
        place = int(np.searchsorted(self._hashes, key))
        # Documents that share a hash stand side by side: compare the ids themselves.
        while place < len(self._hashes) and self._hashes[place] == key:
            position = int(self._positions[place])
            if self.doc_id(position) == doc_id:
                return position
            place += 1
        return None

    def __contains__(self, doc_id: object) -> bool:
        return isinstance(doc_id, str) and self._find(doc_id) is not None

    def position(self, doc_id: str) -> int:
        """Position of a document id; ``KeyError`` when the corpus does not hold it."""
        found = self._find(doc_id)
        if found is None:
            raise KeyError(doc_id)
        return found

    def get(self, doc_id: str) -> Document:
        """The document with this id; ``KeyError`` when the corpus does not hold it."""
        return self[self.position(doc_id)]
