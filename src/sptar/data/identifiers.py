"""Millions of ids in a few bytes each: 64-bit hashes, checked against the real ids on disk."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Callable
from types import TracebackType

import numpy as np
import numpy.typing as npt

__all__ = ["HashIndex", "IdRegister", "digest64"]


def digest64(text: str) -> int:
    """A hash of the text from 0 to 2**64 - 1, the same on every machine and in every run.

    >>> digest64("d1") == digest64("d1"), digest64("d1") == digest64("d2")
    (True, False)
    """
    packed = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(packed, "little")


class HashIndex:
    """Hash → the number that was stored with it first.

    New entries wait in a dictionary and are merged into a sorted array when they are more than a
    sixteenth of it, so an entry costs 16 bytes in the long run.
    """

    def __init__(self) -> None:
        self._keys: npt.NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._values: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._recent: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._keys) + len(self._recent)

    def get(self, key: int) -> int | None:
        """The number stored under a hash, or ``None``."""
        found = self._recent.get(key)
        if found is not None:
            return found
        if not len(self._keys):
            return None
        place = int(self._keys.searchsorted(np.uint64(key)))
        if place < len(self._keys) and int(self._keys[place]) == key:
            return int(self._values[place])
        return None

    def add(self, key: int, value: int) -> bool:
        """Store a number unless the hash has one already; ``True`` when it was stored."""
        if self.get(key) is not None:
            return False
        self.add_new(key, value)
        return True

    def add_new(self, key: int, value: int) -> None:
        """Store a number under a hash that is known to have none."""
        self._recent[key] = value
        if len(self._recent) > max(65_536, len(self._keys) // 16):
            self._merge()

    def _merge(self) -> None:
        keys = np.fromiter(self._recent.keys(), dtype=np.uint64, count=len(self._recent))
        values = np.fromiter(self._recent.values(), dtype=np.int64, count=len(self._recent))
        keys = np.concatenate([self._keys, keys])
        values = np.concatenate([self._values, values])
        order = np.argsort(keys)
        self._keys, self._values = keys[order], values[order]
        self._recent.clear()


class IdRegister:
    """Remembers ids and the line where each one stood first.

    The ids themselves lie in a temporary file; memory holds about 32 bytes for each. A hash that
    two ids share is noticed, because every hit is compared with the id on disk.
    """

    def __init__(self, digest: Callable[[str], int] = digest64) -> None:
        self._digest = digest
        self._index = HashIndex()
        self._same_hash: dict[str, int] = {}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._at_end = True
        self._starts = array("q", [0])
        self._lines = array("q")

    def __enter__(self) -> IdRegister:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, identifier: str) -> bool:
        return self._find(identifier) is not None

    def number(self, identifier: str) -> int | None:
        """How many ids came before this one, or ``None`` when it is unknown."""
        return self._find(identifier)

    def add(self, identifier: str, line: int) -> int | None:
        """Remember an id; when it is known already, the line where it stood first."""
        key = self._digest(identifier)
        same = self._index.get(key)
        found = None if same is None else self._compare(identifier, same)
        if found is not None:
            return self._lines[found]
        number = len(self._lines)
        if same is None:
            self._index.add_new(key, number)
        else:
            self._same_hash[identifier] = number
        packed = identifier.encode("utf-8", "surrogatepass")
        if not self._at_end:
            self._file.seek(self._starts[-1])
            self._at_end = True
        self._file.write(packed)
        self._starts.append(self._starts[-1] + len(packed))
        self._lines.append(line)
        return None

    def _find(self, identifier: str) -> int | None:
        number = self._index.get(self._digest(identifier))
        return None if number is None else self._compare(identifier, number)

    def _compare(self, identifier: str, number: int) -> int | None:
        start, end = self._starts[number], self._starts[number + 1]
        self._file.seek(start)
        self._at_end = False
        if self._file.read(end - start) == identifier.encode("utf-8", "surrogatepass"):
            return number
        return self._same_hash.get(identifier)
