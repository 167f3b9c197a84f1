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


def describe_machine() -> dict[str, Any]:
    """Processor, threads, memory, accelerator and the versions of what was measured."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    described: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
        described["gpu_memory_gib"] = round(
            torch.cuda.get_device_properties(0).total_memory / 2**30, 1
        )
    return described


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


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
        if device.type == "cpu" and torch.backends.mkldnn.is_available():
            packed = torch.ops.mkldnn._reorder_linear_weight(right)
            works["packed"] = lambda a=left, b=packed: torch.ops.mkldnn._linear_pointwise(
                a, b, None, "none", [], ""
            )
        with torch.inference_mode():
            for name, work in works.items():
                work()
                took = min(seconds(work, device) for _ in range(runs))
                best[name] = max(best[name], 2 * size**3 / took)
    return MatmulPeak(best["torch"], best["packed"] or None)


def as_record(value: Any) -> dict[str, Any]:
    """A dataclass of this file as JSON has it."""
    return asdict(value)
