"""The number format ``auto``: what is taken for which measured times."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sptar.tensors import formats, products

CPU = torch.device("cpu")


class Times:
    """Rounds that take given milliseconds, without taking them."""

    def __init__(self, float32: float, bfloat16: float) -> None:
        self.milliseconds = {"float32": float32, "bfloat16": bfloat16}
        self.rounds: list[str] = []

    def __call__(self, work: formats.Work, name: str) -> Callable[[], float]:
        def once() -> float:
            self.rounds.append(name)
            return self.milliseconds[name] / 1000

        return once


@pytest.mark.parametrize(
    ("float32", "bfloat16", "taken"),
    [
        # GFLOP/s measured on an AMD processor and on an Intel one, as times.
        (1 / 114, 1 / 226, "bfloat16"),
        (1 / 164, 1 / 86, "float32"),
        (1.0, 1.0, "float32"),
        (1.49, 1.0, "float32"),
        (1.5, 1.0, "bfloat16"),
    ],
)
def test_bfloat16_is_taken_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, float32: float, bfloat16: float, taken: str
) -> None:
    monkeypatch.setattr(formats, "_SECONDS", 0.0)
    monkeypatch.setattr(formats, "_round", Times(float32, bfloat16))
    found = formats.try_formats("language_model", CPU)
    assert found["format"] == taken
    assert found["bfloat16_times_as_fast"] == round(float32 / bfloat16, 2)


def test_both_are_timed_by_turns_and_a_hopeless_one_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times(1.0, 0.5)
    monkeypatch.setattr(formats, "_SECONDS", 0.01)
    monkeypatch.setattr(formats, "_round", times)
    formats.try_formats("training", CPU)
    assert len(times.rounds) >= 2 * formats._ROUNDS
    assert times.rounds == ["float32", "bfloat16"] * (len(times.rounds) // 2)
    times = Times(1.0, 100.0)
    monkeypatch.setattr(formats, "_round", times)
    assert formats.try_formats("training", CPU)["format"] == "float32"
    assert times.rounds == ["float32", "bfloat16"] * 2


def test_time_given_to_other_processes_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.functional.linear

    def waiting(*given: Any) -> torch.Tensor:
        time.sleep(0.02)
        return real(*given)

    monkeypatch.setattr(formats, "PackedLayers", lambda model, dtype: products.PackedLayers(empty))
    empty = torch.nn.Identity()
    monkeypatch.setattr(torch.nn.functional, "linear", waiting)
    begin = time.perf_counter()
    took = formats._round("language_model", "float32")()
    assert time.perf_counter() - begin > 0.08  # four products
    assert took < 0.07


@pytest.mark.parametrize("work", ["language_model", "training", "encoding"])
def test_real_rounds_run_in_every_format_and_leave_random_numbers_alone(
    monkeypatch: pytest.MonkeyPatch, work: formats.Work
) -> None:
    monkeypatch.setattr(formats, "_SECONDS", 0.0)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    found = formats.try_formats(work, CPU)
    assert torch.equal(torch.rand(4), expected)
    assert found["format"] in ("float32", "bfloat16")
    assert found["bfloat16_times_as_fast"] > 0


@pytest.mark.parametrize(("there", "taken"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_that_has_it_takes_it(
    monkeypatch: pytest.MonkeyPatch, there: bool, taken: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: there)
    assert formats.try_formats("encoding", torch.device("cuda"))["format"] == taken
    assert formats.try_formats("encoding", torch.device("mps"))["format"] == "float32"
