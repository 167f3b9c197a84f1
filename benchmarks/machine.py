"""What a measurement was made on: machine, versions, the peak of its matrix products.

Imported by the other scripts of this folder, which run as ``python benchmarks/NAME.py``.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_ne_convert",
    "amx_tile",
    "amx_bf16",
    "asimd",
    "bf16",
    "i8mm",
    "sve",
)
"""Instructions that decide how fast matrix products are, as Linux calls them."""

PACKAGES = ("torch", "transformers", "sentence-transformers", "peft", "numpy", "numba", "bm25s")


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of repeated measurements."""

    median: float
    smallest: float
    largest: float
    runs: int


def spread(values: Sequence[float]) -> Spread:
    """Median and range of measurements that were made in several rounds."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def describe_machine(
    device: torch.device | str = "cpu", threads: int | None = None
) -> dict[str, Any]:
    """Processor, instructions, threads, memory, accelerator, the versions of what was measured and
    the peaks of matrix products, measured now; what matters of it is printed in a line.

    Args:
        device: whose peaks.
        threads: of the processes that are measured, where these are others than this one.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    described: dict[str, Any] = {
        "processor": _processor(),
        "instructions": instructions(),
        "torch_instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "load_before": load,
        "peak_gflops": peaks(device),
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
        described["gpu_memory_gib"] = round(
            torch.cuda.get_device_properties(0).total_memory / 2**30, 1
        )
    print(in_words(described), flush=True)
    return described


def in_words(described: dict[str, Any]) -> str:
    """A machine of :func:`describe_machine` in one line."""
    measured = ", ".join(
        f"{name} {peak['torch']:,.0f}"
        + (f" ({peak['packed']:,.0f} packed)" if peak["packed"] else "")
        for name, peak in described["peak_gflops"].items()
    )
    return (
        f"{described.get('gpu') or described['processor']} "
        f"({' '.join(described['instructions']) or described['torch_instructions']}), "
        f"{described['threads']} of {described['cores']} threads, GFLOP/s: {measured}"
    )


def peaks(device: torch.device | str = "cpu") -> dict[str, dict[str, float | None]]:
    """Number format → peak in GFLOP/s, ``torch`` and ``packed``, with the threads of now."""
    found: dict[str, dict[str, float | None]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        peak = matmul_peak(dtype, device, runs=3)
        found[str(dtype).removeprefix("torch.")] = {
            "torch": round(peak.torch / 1e9, 1),
            "packed": None if peak.packed is None else round(peak.packed / 1e9, 1),
        }
    return found


def _processor() -> str:
    for key in ("model name", "Model", "Hardware"):
        for line in _cpu_info():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def instructions() -> list[str]:
    """Those of :data:`FEATURES` that the processor has; empty where the system does not tell."""
    for line in _cpu_info():
        if line.startswith(("flags", "Features")):
            there = set(line.partition(":")[2].split())
            return [name for name in FEATURES if name in there]
    return []


def _cpu_info() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """How long ``work`` takes, what it left running on the device included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


@dataclass(frozen=True)
class MatmulPeak:
    """Floating-point operations each second of a large square product, the best of several runs.

    ``torch`` is ``torch.matmul``. ``packed`` multiplies with a weight in oneDNN's own layout
    (processors only); for float32 the two can differ by a factor, because torch takes another
    library for its own.
    """

    torch: float
    packed: float | None

    @property
    def best(self) -> float:
        """The faster of the two."""
        return max(self.torch, self.packed or 0.0)


def _can_pack(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


_LONG = 1.0
"""Seconds. A product that takes longer is measured once."""


def matmul_peak(
    dtype: torch.dtype, device: torch.device | str = "cpu", runs: int = 7
) -> MatmulPeak:
    """The peak of this machine, measured now; with other work beside it, that of what is left."""
    device = torch.device(device)
    best = {"torch": 0.0, "packed": 0.0}
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        left = torch.randn(size, size, device=device).to(dtype)
        right = torch.randn(size, size, device=device).to(dtype)
        works: dict[str, Callable[[], Any]] = {"torch": lambda a=left, b=right: a @ b}
        if device.type == "cpu" and _can_pack(dtype):
            packed = torch.ops.mkldnn._reorder_linear_weight(right)
            works["packed"] = lambda a=left, b=packed: torch.ops.mkldnn._linear_pointwise(
                a, b, None, "none", [], ""
            )
        with torch.inference_mode():
            for name, work in works.items():
                took = seconds(work, device)
                if took < _LONG:
                    took = min(seconds(work, device) for _ in range(runs))
                best[name] = max(best[name], 2 * size**3 / took)
        if 2 * size**3 / min(filter(None, best.values())) > _LONG:
            break  # a format that is imitated here; a larger product would say the same
    return MatmulPeak(best["torch"], best["packed"] or None)


def as_record(value: Any) -> dict[str, Any]:
    """A dataclass of this file as JSON has it."""
    return asdict(value)
