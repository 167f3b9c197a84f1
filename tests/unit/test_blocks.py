"""Blocks: cut by the input, joined in order, whatever was there before."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptar.blocks import JsonlBlocks
from sptar.errors import WorkspaceError


@given(items=st.integers(0, 50), size=st.integers(1, 12))
def test_blocks_cover_every_item_once(items: int, size: int) -> None:
    blocks = JsonlBlocks(Path("x"), items, size).all()
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(items))


def test_joined_in_order_however_they_were_written(tmp_path: Path) -> None:
    blocks = JsonlBlocks.open(tmp_path, items=5, block_size=2)
    for block in reversed(blocks.all()):
        blocks.write(block, ({"n": n} for n in range(block.start, block.stop)))
    blocks.join(tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_text() == "".join(f'{{"n": {n}}}\n' for n in range(5))


def test_a_restart_keeps_its_block_size(tmp_path: Path) -> None:
    JsonlBlocks.open(tmp_path, items=5, block_size=2)
    assert JsonlBlocks.open(tmp_path, items=5, block_size=4).block_size == 2
    with pytest.raises(WorkspaceError, match="for 5 items, not for 6"):
        JsonlBlocks.open(tmp_path, items=6, block_size=2)


def test_missing_blocks_are_not_joined_over(tmp_path: Path) -> None:
    blocks = JsonlBlocks.open(tmp_path, items=3, block_size=1)
    blocks.write(blocks.all()[1], [{}])
    assert [block.number for block in blocks.missing()] == [0, 2]
    with pytest.raises(WorkspaceError, match="2 blocks"):
        blocks.join(tmp_path / "all.jsonl")
    assert not (tmp_path / "all.jsonl").exists()


def test_nothing_joins_to_an_empty_file(tmp_path: Path) -> None:
    JsonlBlocks.open(tmp_path, items=0, block_size=3).join(tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_text() == ""
