"""The number format ``auto``: whether this machine is clearly faster in bfloat16, tried out.

Processors differ by a factor of eight here: with matrix units or two products an instruction
bfloat16 is two to eight times as fast as float32, elsewhere half as fast, and where it is only
imitated a hundredth. What a processor's list of features says does not settle it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from typing import Any, Literal

import torch

from sptar.tensors.products import PackedLayers

__all__ = ["CLEARLY", "Work", "try_formats"]

Work = Literal["language_model", "training", "encoding"]
"""``language_model``: weights in the format. ``training`` and ``encoding``: products in it, within
``torch.autocast``, with and without gradients."""

CLEARLY = 1.5
"""bfloat16 is taken if it is so many times as fast. It rounds to three digits: less than that is
not worth it, and two trials of one machine do not disagree."""

_WIDTH, _INNER = 384, 1536
_ROWS = (16, 256)
"""A few rows, as in decoding, and many, as in reading documents."""
_SECONDS = 0.1
"""Of the processor. Time that it gives to other processes in between must not count."""
_ROUNDS = 10
_HOPELESS = 4.0
"""What takes so many times as long is not tried further."""


def try_formats(work: Work, device: torch.device) -> dict[str, Any]:
    """Which format is for this work on this device: ``format``, and what it was chosen by.

    On CUDA it is bfloat16 if the device has it, on other accelerators float32; on a processor both
    are timed, which takes one to three tenths of a second.
    """
    if device.type == "cuda":
        there = torch.cuda.is_bf16_supported(including_emulation=False)
        return {"format": "bfloat16" if there else "float32", "device": str(device)}
    if device.type != "cpu":
        return {"format": "float32", "device": str(device)}
    seconds = {"float32": float("inf"), "bfloat16": float("inf")}
    rounds = {name: _round(work, name) for name in seconds}
    begin = time.process_time()
    for number in count(1):
        for name, once in rounds.items():
            seconds[name] = min(seconds[name], once())
        if number == 1:
            continue  # what happens once, such as making a kernel, says nothing
        if seconds["bfloat16"] > _HOPELESS * seconds["float32"]:
            break
        if number >= _ROUNDS and time.process_time() - begin > _SECONDS:
            break
    times = seconds["float32"] / seconds["bfloat16"]
    return {
        "format": "bfloat16" if times >= CLEARLY else "float32",
        "device": str(device),
        "bfloat16_times_as_fast": round(times, 2),
        "threads": torch.get_num_threads(),
    }


def _round(work: Work, name: str) -> Callable[[], float]:
    """Seconds of one round through two products and what lies between them, in this format."""
    dtype: torch.dtype = getattr(torch, name)
    # Numbers of a stream of their own: what is random elsewhere must not move.
    with torch.random.fork_rng(devices=[]):
        layers = torch.nn.Sequential(
            torch.nn.Linear(_WIDTH, _INNER), torch.nn.GELU(), torch.nn.Linear(_INNER, _WIDTH)
        )
        rows = [torch.randn(number, _WIDTH) for number in _ROWS]
    learns = work == "training"
    cast = work != "language_model" and name != "float32"
    if work == "language_model":
        layers, rows = layers.to(dtype), [values.to(dtype) for values in rows]
    packed = None if learns else PackedLayers(layers, dtype)

    def once() -> float:
        begin = time.process_time()
        with ExitStack() as stack:
            if cast:
                stack.enter_context(torch.autocast("cpu", dtype))
            if packed is not None:
                stack.enter_context(torch.inference_mode())
                stack.enter_context(packed.in_use())
            for values in rows:
                result = layers(values)
                if learns:
                    result.float().sum().backward()
        return time.process_time() - begin

    return once
