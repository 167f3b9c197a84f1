"""Long work cut into blocks of the input, so that a killed run loses one block at most.

Blocks are cut by the input, never by the workers: any number of workers can share them, in any
order, and the joined result is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sptar.errors import WorkspaceError
from sptar.io import atomic_path, read_json, write_json, write_jsonl

__all__ = ["Block", "JsonlBlocks"]


@dataclass(frozen=True)
class Block:
    """Items ``start`` (included) to ``stop`` (left out) of the input."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class JsonlBlocks:
    """Blocks of JSONL rows in a folder."""

    folder: Path
    items: int
    block_size: int

    @classmethod
    def open(cls, folder: Path, *, items: int, block_size: int) -> JsonlBlocks:
        """Take up the plan that lies in ``folder``, or write a new one.

        A restarted run keeps the block size that it began with, whatever the config says now:
        finished blocks stay valid.

        Raises:
            WorkspaceError: the plan there is for another number of items.
        """
        plan_path = folder / "blocks.json"
        if plan_path.exists():
            plan = read_json(plan_path)
            if plan["items"] != items:
                raise WorkspaceError(
                    f"{folder} holds blocks for {plan['items']} items, not for {items}.",
                    hint="Remove that folder and run again.",
                )
            return cls(folder, items, int(plan["block_size"]))
        write_json(plan_path, {"items": items, "block_size": block_size})
        return cls(folder, items, block_size)

    def all(self) -> list[Block]:
        """Every block, in order.

        >>> [b.stop - b.start for b in JsonlBlocks(Path("x"), 5, 2).all()]
        [2, 2, 1]
        """
        return [
            Block(number, start, min(start + self.block_size, self.items))
            for number, start in enumerate(range(0, self.items, self.block_size))
        ]

    def path(self, block: Block) -> Path:
        """File of a block."""
        return self.folder / f"block-{block.number:06d}.jsonl"

    def missing(self) -> list[Block]:
        """Blocks that are not written yet."""
        return [block for block in self.all() if not self.path(block).exists()]

    def write(self, block: Block, rows: Iterable[Mapping[str, Any]]) -> int:
        """Write a block, whole or not at all."""
        return write_jsonl(self.path(block), rows)

    def _chunks(self) -> Iterator[bytes]:
        for block in self.all():
            with self.path(block).open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    yield chunk

    def join(self, output: Path) -> None:
        """Write all blocks, in order, as one file.

        Raises:
            WorkspaceError: a block is missing.
        """
        missing = self.missing()
        if missing:
            raise WorkspaceError(
                f"{len(missing)} blocks of {self.folder} are missing.", hint="Run again."
            )
        with atomic_path(output) as temporary, temporary.open("wb") as stream:
            for chunk in self._chunks():
                stream.write(chunk)
