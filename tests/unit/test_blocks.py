"""Blocks: cut by the input, joined in order, whatever was there before."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptar.blocks import Blocks, JsonlBlocks
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


def written(folder: Path, items: int = 6, size: int = 2) -> tuple[JsonlBlocks, list[Path]]:
    """Blocks that are all there, and their files in order."""
    blocks = JsonlBlocks.open(folder, items=items, block_size=size)
    for block in blocks.all():
        blocks.write(block, ({"n": n} for n in range(block.start, block.stop)))
    return blocks, sorted(folder.glob("block-*"))


def emptied(files: list[Path]) -> None:
    files[1].write_bytes(b"")


def cut_at_a_line(files: list[Path]) -> None:
    files[1].write_bytes(files[1].read_bytes().splitlines(keepends=True)[0])


def one_byte_changed(files: list[Path]) -> None:
    content = bytearray(files[1].read_bytes())
    content[6] ^= 1
    files[1].write_bytes(bytes(content))


def contents_swapped(files: list[Path]) -> None:
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(second)
    files[1].write_bytes(first)


def numbers_swapped(files: list[Path]) -> None:
    """The hash goes along: it is of the place too."""
    for number, path in enumerate(files[:2]):
        path.rename(path.with_name(path.name.replace(f"{number:06d}", f"{1 - number:06d}")))


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (emptied, [1]),
        (cut_at_a_line, [1]),
        (one_byte_changed, [1]),
        (contents_swapped, [0, 1]),
        (numbers_swapped, [0, 1]),
    ],
)
def test_a_damaged_block_is_not_joined_and_made_anew(tmp_path: Path, damage, lost) -> None:
    blocks, files = written(tmp_path / "blocks")
    joined = tmp_path / "all.jsonl"
    assert blocks.join(joined) == 6
    expected = joined.read_bytes()
    joined.unlink()
    damage(files)
    assert [block.number for block in blocks.missing()] == lost
    with pytest.raises(WorkspaceError, match=f"{len(lost)} blocks .* have changed"):
        blocks.join(joined)
    assert not joined.exists()
    for block in blocks.missing():
        blocks.write(block, ({"n": n} for n in range(block.start, block.stop)))
    blocks.join(joined)
    assert joined.read_bytes() == expected


def test_a_block_with_too_few_rows_is_refused(tmp_path: Path) -> None:
    blocks = JsonlBlocks.open(tmp_path, items=3, block_size=2, rows_per_item=2)
    with pytest.raises(WorkspaceError, match="Block 0 .* has 3 rows where 4 belong"):
        blocks.write(blocks.all()[0], [{}] * 3)
    assert not list(tmp_path.glob("*block-*"))
    blocks.write(blocks.all()[0], [{}] * 4)
    blocks.write(blocks.all()[1], [{}] * 2)
    assert blocks.join(tmp_path / "all.jsonl") == 6


@pytest.mark.parametrize("plan", [b"", b"\xff", b"[]", b'{"items": 6}', b'{"items": 6, "bl'])
def test_a_damaged_plan_is_made_anew(tmp_path: Path, plan: bytes) -> None:
    written(tmp_path)
    (tmp_path / "blocks.json").write_bytes(plan)
    assert JsonlBlocks.open(tmp_path, items=6, block_size=2).missing() == []
    # Cut in another way, the blocks are of other places.
    (tmp_path / "blocks.json").write_bytes(plan)
    assert len(JsonlBlocks.open(tmp_path, items=6, block_size=3).missing()) == 2


def test_blocks_of_any_format_come_in_order_and_alone(tmp_path: Path) -> None:
    blocks = Blocks.open(tmp_path / "b", items=3, block_size=1, plan=tmp_path / "plan.json")
    for block in reversed(blocks.all()):
        with blocks.writing(block, ".npy") as temporary:
            assert temporary.suffix == ".npy"
            temporary.write_bytes(bytes([block.number]))
    (tmp_path / "b" / "block-000009-0123456789abcdef.npy").write_bytes(b"of another plan")
    assert [path.read_bytes() for path in blocks.paths()] == [b"\0", b"\1", b"\2"]
    assert sorted((tmp_path / "b").iterdir()) == blocks.paths()
    blocks.paths()[2].unlink()
    with pytest.raises(WorkspaceError, match="1 blocks"):
        blocks.paths()


def test_nothing_joins_to_an_empty_file(tmp_path: Path) -> None:
    JsonlBlocks.open(tmp_path, items=0, block_size=3).join(tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_text() == ""
