"""Losses over large batches in the memory of small ones, on one device or several.

An in-batch loss needs the vectors of all texts of a batch at once, but not what the model remembers
for their gradients. So texts are embedded piece by piece, each piece forgets all but its vectors,
and the backward pass embeds it again when its turn has come: as in Gao, Zhang, Han and Callan,
*Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup*, RepL4NLP 2021 (arXiv
2101.06983). The gradients are those of the same pieces kept in memory, dropout included. Torch's
activation checkpointing does the work; what is ours is to cut a batch into pieces, and to share
these out to the processes that train together (:mod:`sptar.training.distributed`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar, cast

import torch
from torch.utils.checkpoint import checkpoint

from sptar.training.distributed import all_gather_rows, distributed_context, padded

__all__ = ["embed_batch", "embed_in_pieces", "vectors_in_pieces"]

Embedded = TypeVar("Embedded")

Embed: TypeAlias = Callable[[Sequence[int]], tuple[torch.Tensor, ...]]


def embed_in_pieces(
    embed: Callable[[Sequence[int]], Embedded],
    order: Sequence[int],
    size: int,
    device: torch.device,
) -> list[Embedded]:
    """Embed the texts of a batch, ``size`` at once, and remember only what comes out.

    Args:
        embed: gives the tensor (or the tuple of tensors) of the texts with these numbers. It is
            called twice for a piece whose gradient is needed and must do the same both times; the
            state of the random numbers and of autocast is put back for the second call.
        order: numbers of all texts, in the order in which they are cut into pieces. Texts of
            similar length beside one another save padding.
        size: texts in a piece at most.
        device: on which the model works.

    Returns:
        The pieces in order. Whatever loss is made of them, its ``backward`` goes through the
        model, piece after piece, with the memory of one.

    >>> weight = torch.ones(1, requires_grad=True)
    >>> texts = torch.tensor([1.0, 2.0, 3.0])
    >>> cpu = torch.device("cpu")
    >>> pieces = embed_in_pieces(lambda rows: texts[list(rows)] * weight, range(3), 2, cpu)
    >>> [len(piece) for piece in pieces]
    [2, 1]
    >>> torch.cat(pieces).sum().backward()
    >>> weight.grad
    tensor([6.])
    """
    if size < 1:
        raise ValueError("size is at least 1")
    # Torch tells from its tensor arguments whose random state it has to keep.
    witness = torch.empty(0, device=device)

    def piece(_: torch.Tensor, numbers: Sequence[int]) -> Embedded:
        return embed(numbers)

    return [
        cast(
            "Embedded",
            checkpoint(piece, witness, order[first : first + size], use_reentrant=False),
        )
        for first in range(0, len(order), size)
    ]


def embed_batch(
    embed: Embed, lengths: Sequence[int], size: int | None, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Embed a batch of n texts: at once (no size), in pieces, or each process its pieces.

    With a size the pieces, and their random numbers (dropout), are the same for any number of
    processes, so the result is too, up to rounding. Without one a batch makes as many pieces as
    there are processes, and dropout depends on their number.

    Args:
        embed: gives the tensors of the texts with these numbers, each [m, …]; see
            :func:`embed_in_pieces`. All processes embed the same batch with the same weights.
        lengths: of the texts, n of them, one at least: texts of similar length share a piece.
        size, device: see :func:`embed_in_pieces`.

    Returns:
        Tensors [n, …] in the order of the texts, further dimensions padded with zeros (false) to
        the longest. Gradients are those of :func:`sptar.training.distributed.all_gather_rows`.
    """
    here = distributed_context()
    pieces = _pieces(lengths, size, here.size)
    if size is None and here.size == 1:
        return embed(pieces[0])
    # Each piece has a random stream of its own, named by a number that is drawn from the common
    # one: so it does not matter which process embeds it.
    stream = int(torch.randint(1 << 62, ()))

    def draws_its_own(number: int) -> Embed:
        def embed_piece(rows: Sequence[int]) -> tuple[torch.Tensor, ...]:
            torch.manual_seed(_seed_of(stream, number))
            return embed(rows)

        return embed_piece

    own = range(here.rank, len(pieces), here.size)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if len(own) == 0:
            # One text tells what the tensors are like; none of it goes into the result.
            witness = embed(pieces[-1][-1:])
            parts = [tuple(tensor[:0] for tensor in witness)]
        elif len(own) == 1:
            parts = [draws_its_own(own[0])(pieces[own[0]])]
        else:
            parts = [
                part
                for number in own
                for part in embed_in_pieces(
                    draws_its_own(number), pieces[number], len(pieces[number]), device
                )
            ]
    shares = [
        [row for piece in pieces[rank :: here.size] for row in piece] for rank in range(here.size)
    ]
    counts = [len(share) for share in shares]
    order = torch.tensor([row for share in shares for row in share])
    places = torch.argsort(order).to(device)
    return tuple(
        all_gather_rows(_joined(tensors), counts)[places] for tensors in zip(*parts, strict=True)
    )


def _pieces(lengths: Sequence[int], size: int | None, count: int) -> list[list[int]]:
    """Numbers of the texts in each piece, none of them empty, the longest texts first."""
    numbers = range(len(lengths))
    if count == 1 if size is None else size >= len(lengths):
        return [list(numbers)]
    order = sorted(numbers, key=lambda number: -lengths[number])
    if size is None:
        # Dealt like cards, so that all processes have texts of all lengths.
        return [order[first::count] for first in range(min(count, len(order)))]
    return [order[first : first + size] for first in range(0, len(order), size)]


def _seed_of(stream: int, piece: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{stream}:{piece}".encode()).digest()[:7], "big")


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tensor of several, further dimensions padded to the longest."""
    sizes = [max(column) for column in zip(*(part.shape[1:] for part in parts), strict=True)]
    return torch.cat([padded(part, sizes) for part in parts])


def vectors_in_pieces(
    embed: Callable[[Sequence[str]], torch.Tensor],
    texts: Sequence[str],
    size: int | None,
    device: torch.device,
) -> torch.Tensor:
    """Vectors [n, d] of texts in their order, see :func:`embed_batch`.

    Args:
        embed: gives the vectors [m, d] of m texts.
        texts: n of them, one at least.
        size, device: see :func:`embed_in_pieces`.
    """
    (vectors,) = embed_batch(
        lambda numbers: (embed([texts[number] for number in numbers]),),
        [len(text) for text in texts],
        size,
        device,
    )
    return vectors
