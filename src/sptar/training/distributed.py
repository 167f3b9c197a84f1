"""Training with several processes: what each does of a batch, and what they tell one another.

Every process embeds its share of a batch's texts and gets the vectors of the other shares, so that
all compute one and the same loss over the whole batch. Backwards each process follows the gradient
of its own rows alone; the sum over the processes is the gradient of the whole batch. So negatives
span all processes, and no process needs a gradient of another one's vectors.

In a process that was started by itself all of this does nothing.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from sptar.errors import ConfigError, ModelError

__all__ = [
    "DistributedContext",
    "all_gather_rows",
    "all_reduce_gradients",
    "broadcast",
    "distributed_context",
    "padded",
    "process_group",
    "refuse_idle_processes",
    "require_identical",
    "training_device",
]

_PATIENCE = datetime.timedelta(days=30)
"""How long a process waits for the others: the first one scores dev while the rest wait. A process
that died ends the others through their launcher."""

_BUCKET = 1 << 24
"""Numbers of a gradient that are sent at once: 64 MiB."""


@dataclass(frozen=True, slots=True)
class DistributedContext:
    """Those that train together; ``rank`` is this one's number, from 0."""

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that scores, writes, and talks to people."""
        return self.rank == 0


def distributed_context() -> DistributedContext:
    """The processes that this one trains with: none but itself outside :func:`process_group`."""
    if not (dist.is_available() and dist.is_initialized()):
        return DistributedContext(0, 1)
    return DistributedContext(dist.get_rank(), dist.get_world_size())


def training_device(name: str, count: int) -> str:
    """Kind of device, ``cuda`` or ``cpu``, on which so many processes of this machine train.

    Args:
        name: ``train.device``.
        count: of processes.

    Raises:
        ConfigError: there are too few GPUs, or the name means one device for all.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise ConfigError(
            f"train.processes={count} and train.device={name} contradict each other: each process "
            "needs a device of its own.",
            hint="Set train.device=auto, or train.processes=1.",
        )
    found = torch.cuda.device_count()
    if found < count:
        raise ConfigError(
            f"train.processes={count}: each process takes one GPU, and there are {found}.",
            hint=f"Set train.processes={max(1, found)}, or train.device=cpu.",
        )
    return "cuda"


def refuse_idle_processes(count: int, batch_size: int) -> None:
    """Refuse more training processes than a batch has queries: the rest would only take memory.

    Raises:
        ConfigError: there are more.
    """
    if count > batch_size:
        raise ConfigError(
            f"train.processes={count} and train.batch_size={batch_size} contradict each other: "
            "each process takes a share of a batch, one query at least.",
            hint="Lower train.processes; there is one for each GPU.",
        )


@contextmanager
def process_group(device: str) -> Iterator[DistributedContext]:
    """Meet the processes that torchrun (or another launcher that speaks like it) has started.

    Args:
        device: ``cuda`` takes NCCL and gives this process the GPU of its local rank; ``cpu`` takes
            gloo.
    """
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # What is not about vectors and gradients lies in plain memory and goes through gloo.
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    yield distributed_context()
    # After an error there is no goodbye: it would wait for processes that wait for this one.
    dist.destroy_process_group()


def broadcast(make: Callable[[], Any]) -> Any:
    """What ``make`` gives in the first process, in all of them; the others do not call it.

    Only JSON values; numbers arrive exactly.
    """
    here = distributed_context()
    if here.size == 1:
        return make()
    content = json.dumps(make()).encode() if here.is_first else b""
    length = torch.tensor([len(content)])
    dist.broadcast(length, src=0)
    message = torch.empty(int(length), dtype=torch.uint8)
    if here.is_first:
        message = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    dist.broadcast(message, src=0)
    return json.loads(message.numpy().tobytes())


def require_identical(value: str, what: str) -> None:
    """Make sure that all processes hold the same value.

    Raises:
        ModelError: they do not; ``what`` says of what they hold different ones. In all processes.
    """
    here = distributed_context()
    if here.size == 1:
        return
    own = torch.frombuffer(bytearray(hashlib.sha256(value.encode()).digest()), dtype=torch.uint8)
    found = [torch.empty_like(own) for _ in range(here.size)]
    dist.all_gather(found, own)
    if any(not torch.equal(own, other) for other in found):
        raise ModelError(
            f"The {here.size} training processes do not agree on {what}.",
            hint="Give them machines and devices of one kind, one work folder, and the same "
            "versions; or set train.processes=1.",
        )


def padded(tensor: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """The tensor with zeros (false) behind it, up to these sizes of its last dimensions.

    >>> padded(torch.ones(1, 2), [3])
    tensor([[1., 1., 0.]])
    """
    missing = [
        (0, wanted - size)
        for size, wanted in zip(tensor.shape[tensor.ndim - len(sizes) :], sizes, strict=True)
    ]
    if not any(behind for _, behind in missing):
        return tensor
    return torch.nn.functional.pad(tensor, [side for pair in reversed(missing) for side in pair])


class _Gather(torch.autograd.Function):
    """Rows of all processes, one process after another; backwards, the own ones."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, counts: list[int], rank: int) -> torch.Tensor:
        ctx.own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        mine = padded(rows, [max(counts), *rows.shape[1:]]).contiguous()
        parts = [torch.empty_like(mine) for _ in counts]
        dist.all_gather(parts, mine)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0][ctx.own], None, None


def all_gather_rows(rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """The rows of all processes, [sum of counts, …], one process after another.

    Args:
        rows: those of this process, [count, …]. Their further sizes may differ from process to
            process: all are padded with zeros (or false) to the largest.
        counts: rows of each process; a process may have none, but then its tensor too tells the
            number of dimensions and asks for a gradient.

    The gradient of ``rows`` is the own part of the result's: right when every process computes the
    same from the result, and :func:`all_reduce_gradients` follows.
    """
    here = distributed_context()
    if here.size == 1:
        return rows
    if rows.ndim > 1:
        sizes = torch.tensor(rows.shape[1:])
        dist.all_reduce(sizes, dist.ReduceOp.MAX)
        rows = padded(rows, sizes.tolist())
    if rows.dtype == torch.bool:
        return all_gather_rows(rows.to(torch.uint8), counts).bool()
    # Torch types this method as untyped.
    gathered: torch.Tensor = _Gather.apply(rows, list(counts), here.rank)  # type: ignore[no-untyped-call]
    return gathered


def all_reduce_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Give every process the sum of all processes' gradients.

    A parameter without a gradient in any process is left without one, as optimisers leave it alone
    then.
    """
    if distributed_context().size == 1:
        return
    used = torch.tensor([parameter.grad is not None for parameter in parameters]).to(torch.uint8)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    waiting: list[torch.Tensor] = []
    for parameter, is_used in zip(parameters, used.tolist(), strict=True):
        if not is_used:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if waiting and (
            waiting[0].dtype != parameter.grad.dtype
            or sum(part.numel() for part in waiting) + parameter.grad.numel() > _BUCKET
        ):
            _add(waiting)
            waiting = []
        waiting.append(parameter.grad)
    if waiting:
        _add(waiting)


def _add(gradients: Sequence[torch.Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    first = 0
    for gradient in gradients:
        gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
        first += gradient.numel()
