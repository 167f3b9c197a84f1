"""What benchmarks say of the machine they ran on."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch

# At the end: a script's name must never hide a library's.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import machine

BENCHMARKS = Path(machine.__file__).parent

SCRIPTS = sorted(
    path.name
    for path in BENCHMARKS.glob("*.py")
    if path.name not in ("machine.py", "random_model.py", "unpack_gguf.py")
)
"""Everything but what the scripts share, and a tool that measures nothing."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_benchmark_names_its_machine(name: str) -> None:
    called = {
        node.func.id
        for node in ast.walk(ast.parse((BENCHMARKS / name).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "describe_machine" in called


INTEL = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor @ 2.60GHz
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 avx512_vnni
"""
ARM = """processor\t: 0
Features\t: fp asimd i8mm bf16
Hardware\t: Ampere
"""


@pytest.mark.parametrize(
    ("text", "processor", "instructions"),
    [
        (INTEL, "Intel(R) Xeon(R) Processor @ 2.60GHz", ["avx2", "avx512f", "avx512_vnni"]),
        (ARM, "Ampere", ["asimd", "bf16", "i8mm"]),
    ],
)
def test_processor_and_instructions_as_the_system_tells_them(
    monkeypatch: pytest.MonkeyPatch, text: str, processor: str, instructions: list[str]
) -> None:
    monkeypatch.setattr(machine, "_cpu_info", text.splitlines)
    assert machine._processor() == processor
    assert machine.instructions()[:3] == instructions


def test_a_system_that_tells_nothing_has_no_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpu_info", list)
    assert machine.instructions() == []


def test_the_record_and_its_line_hold_the_measured_peaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {torch.float32: (164e9, None), torch.bfloat16: (80e9, 86e9)}
    monkeypatch.setattr(
        machine, "matmul_peak", lambda dtype, device, runs: machine.MatmulPeak(*made[dtype])
    )
    monkeypatch.setattr(machine, "_cpu_info", INTEL.splitlines)
    found = machine.describe_machine()
    assert found["peak_gflops"] == {
        "float32": {"torch": 164.0, "packed": None},
        "bfloat16": {"torch": 80.0, "packed": 86.0},
    }
    assert found["threads"] == torch.get_num_threads()
    line = capsys.readouterr().out
    assert "(avx2 avx512f avx512_vnni avx512_bf16)" in line
    assert line.endswith("GFLOP/s: float32 164, bfloat16 80 (86 packed)\n")


def test_a_slow_product_is_measured_once_and_a_larger_one_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    def slow(work: object, device: torch.device) -> float:
        sizes.append(len(sizes))
        return 2.0

    monkeypatch.setattr(machine, "seconds", slow)
    monkeypatch.setattr(machine, "_can_pack", lambda dtype: False)
    peak = machine.matmul_peak(torch.float32)
    assert len(sizes) == 1
    assert peak.torch == pytest.approx(2 * 1024**3 / 2.0)
