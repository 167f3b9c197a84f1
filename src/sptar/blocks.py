"""Long work cut into blocks of the input, so that a killed run loses one block at most.

Blocks are cut by the input, never by the workers: any number of workers can share them, in any
order, and the joined result is the same. The name of a block's file holds a hash of its place and
its content, so that a block that was emptied, cut, changed or swapped is not taken for whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sptar.errors import DataError, WorkspaceError
from sptar.io import atomic_path, publish, read_json, temporary_path, write_json, write_jsonl

__all__ = ["Block", "Blocks", "JsonlBlocks"]

_CHUNK = 1 << 20
_NAME = re.compile(r"block-(\d{6,})-([0-9a-f]{16})\..+")

AnyBlocks = TypeVar("AnyBlocks", bound="Blocks")


@dataclass(frozen=True)
class Block:
    """Items ``start`` (included) to ``stop`` (left out) of the input."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Blocks:
    """Blocks in a folder, a file each."""

    folder: Path
    items: int
    block_size: int

    @classmethod
    def open(
        cls: type[AnyBlocks],
        folder: Path,
        *,
        items: int,
        block_size: int,
        plan: Path | None = None,
        **more: Any,
    ) -> AnyBlocks:
        """Take up the plan that lies in ``folder`` (or at ``plan``), or write a new one.

        A restarted run keeps the block size that it began with, whatever the config says now:
        finished blocks stay valid. A plan that cannot be read is made anew: blocks that were cut in
        another way are not whole then.

        Raises:
            WorkspaceError: the plan there is for another number of items.
        """
        path = folder / "blocks.json" if plan is None else plan
        known = _read_plan(path)
        if known is not None:
            planned, size = known
            if planned != items:
                raise WorkspaceError(
                    f"{folder} holds blocks for {planned} items, not for {items}.",
                    hint="Remove that folder and run again.",
                )
            return cls(folder, items, size, **more)
        write_json(path, {"items": items, "block_size": block_size})
        return cls(folder, items, block_size, **more)

    def all(self) -> list[Block]:
        """Every block, in order.

        >>> [b.stop - b.start for b in JsonlBlocks(Path("x"), 5, 2).all()]
        [2, 2, 1]
        """
        return [
            Block(number, start, min(start + self.block_size, self.items))
            for number, start in enumerate(range(0, self.items, self.block_size))
        ]

    def _files(self) -> dict[int, list[Path]]:
        """Files by the number of their block, whatever they hold."""
        found: dict[int, list[Path]] = {}
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            named = _NAME.fullmatch(path.name)
            if named is not None:
                found.setdefault(int(named[1]), []).append(path)
        return found

    def _whole(self, files: Mapping[int, list[Path]], block: Block) -> Path | None:
        for path in files.get(block.number, []):
            named = _NAME.fullmatch(path.name)
            if named is not None and _seal(block, _chunks(path)) == named[2]:
                return path
        return None

    def missing(self) -> list[Block]:
        """Blocks that are not there, or not as they were written. Reads all that are there."""
        files = self._files()
        return [block for block in self.all() if self._whole(files, block) is None]

    def paths(self) -> list[Path]:
        """The files of all blocks, in order; any other file of the folder is removed.

        Raises:
            WorkspaceError: a block is missing or has changed.
        """
        files = self._files()
        whole = [self._whole(files, block) for block in self.all()]
        found = [path for path in whole if path is not None]
        if len(found) < len(whole):
            raise self._incomplete(len(whole) - len(found))
        wanted = {path.name for path in found} | {"blocks.json"}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name not in wanted and not path.is_dir():
                path.unlink()
        return found

    def _incomplete(self, count: int) -> WorkspaceError:
        return WorkspaceError(
            f"{count} blocks of {self.folder} are missing or have changed since they were written.",
            hint="Run again; they are made anew.",
        )

    @contextmanager
    def writing(self, block: Block, suffix: str) -> Iterator[Path]:
        """Give a temporary path with this suffix; on success it becomes the block's file."""
        stem = f"block-{block.number:06d}"
        with temporary_path(self.folder / f"{stem}{suffix}") as temporary:
            yield temporary
            seal = _seal(block, _chunks(temporary))
            publish(temporary, self.folder / f"{stem}-{seal}{suffix}")


@dataclass(frozen=True)
class JsonlBlocks(Blocks):
    """Blocks of JSONL rows, the same number of them for each item."""

    rows_per_item: int = 1

    def write(self, block: Block, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write a block, whole or not at all; returns the number of rows.

        Raises:
            WorkspaceError: it is not ``rows_per_item`` for each item.
        """
        with self.writing(block, ".jsonl") as temporary:
            count = write_jsonl(temporary, rows)
            self._check(block, count)
        return count

    def _check(self, block: Block, rows: int) -> None:
        expected = (block.stop - block.start) * self.rows_per_item
        if rows != expected:
            raise WorkspaceError(
                f"Block {block.number} of {self.folder} has {rows} rows where {expected} belong.",
                hint="Please report it.",
            )

    def join(self, output: Path) -> int:
        """Write all blocks, in order, as one file; returns the number of rows.

        Raises:
            WorkspaceError: a block is missing, has changed, or has another number of rows.
        """
        files = self._files()
        total = 0
        with atomic_path(output) as temporary, temporary.open("wb") as stream:
            for block in self.all():
                path = self._whole(files, block)
                if path is None:
                    raise self._incomplete(len(self.missing()))
                rows = 0
                for chunk in _chunks(path):
                    rows += chunk.count(b"\n")
                    stream.write(chunk)
                self._check(block, rows)
                total += rows
        return total


def _read_plan(path: Path) -> tuple[int, int] | None:
    try:
        plan = read_json(path)
        items, size = int(plan["items"]), int(plan["block_size"])
    except (FileNotFoundError, DataError, KeyError, TypeError, ValueError):
        return None
    return (items, size) if size > 0 else None


def _seal(block: Block, content: Iterable[bytes]) -> str:
    """16 hexadecimal digits over a block's place in the input and its content."""
    digest = hashlib.sha256(f"{block.start}:{block.stop}\n".encode())
    for chunk in content:
        digest.update(chunk)
    return digest.hexdigest()[:16]


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk
