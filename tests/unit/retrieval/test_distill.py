"""Margin losses: by hand, against loops, gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.training.losses.margin_mse import in_batch_margin_mse, margin_mse, tas_b_loss


def scores(rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def slow_margin_mse(student, teacher) -> float:
    errors = []
    for own, wanted in zip(student.tolist(), teacher.tolist(), strict=True):
        for j in range(1, len(own)):
            errors.append(((own[0] - own[j]) - (wanted[0] - wanted[j])) ** 2)
    return sum(errors) / len(errors)


def slow_in_batch(student, teacher) -> float:
    own, wanted = student.tolist(), teacher.tolist()
    errors = [
        ((own[i][i] - own[i][j]) - (wanted[i][i] - wanted[i][j])) ** 2
        for i in range(len(own))
        for j in range(len(own))
        if i != j
    ]
    return sum(errors) / len(errors)


def finite_differences(function, point: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    slopes = torch.zeros_like(point)
    for i in range(point.shape[0]):
        for j in range(point.shape[1]):
            up, down = point.clone(), point.clone()
            up[i, j] += step
            down[i, j] -= step
            slopes[i, j] = (function(up) - function(down)) / (2 * step)
    return slopes


def test_margin_mse_by_hand():
    # Margins: student 2 and 4, -1 and 0; teacher 3 and 3, 1 and 0. Squares 1, 1, 4, 0.
    student = torch.tensor([[5.0, 3.0, 1.0], [0.0, 1.0, 0.0]])
    teacher = torch.tensor([[4.0, 1.0, 1.0], [9.0, 8.0, 9.0]])
    assert margin_mse(student, teacher).item() == pytest.approx(6 / 4)


def test_in_batch_margin_mse_by_hand():
    # Margins: student 1 and 2, teacher 4 and 2. Squares 9 and 0.
    student = torch.tensor([[3.0, 2.0], [0.0, 2.0]])
    teacher = torch.tensor([[5.0, 1.0], [6.0, 8.0]])
    assert in_batch_margin_mse(student, teacher).item() == pytest.approx(4.5)


def test_tas_b_loss_by_hand():
    pair_student, pair_teacher = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.zeros(2, 2)
    student, teacher = (
        torch.tensor([[3.0, 2.0], [0.0, 2.0]]),
        torch.tensor([[5.0, 1.0], [6.0, 8.0]]),
    )
    # Pairs: (1 + 4) / 2; in batch: 4.5.
    loss = tas_b_loss(pair_student, pair_teacher, student, teacher, 0.75)
    assert loss.item() == pytest.approx(2.5 + 0.75 * 4.5)
    assert tas_b_loss(pair_student, pair_teacher, None, None, 0.75).item() == pytest.approx(2.5)
    assert tas_b_loss(pair_student, pair_teacher, student, None, 0.75).item() == pytest.approx(2.5)
    assert tas_b_loss(pair_student, pair_teacher, student, teacher, 0).item() == pytest.approx(2.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 1000))
def test_losses_equal_loops(pairs, negatives, seed):
    student, teacher = scores(pairs, 1 + negatives, seed), scores(pairs, 1 + negatives, seed + 1)
    assert margin_mse(student, teacher).item() == pytest.approx(slow_margin_mse(student, teacher))
    student, teacher = scores(pairs + 1, pairs + 1, seed), scores(pairs + 1, pairs + 1, seed + 1)
    loss = in_batch_margin_mse(student, teacher).item()
    assert loss == pytest.approx(slow_in_batch(student, teacher))


@pytest.mark.parametrize("loss", [margin_mse, in_batch_margin_mse])
def test_gradients_equal_finite_differences(loss):
    student, teacher = scores(4, 4, 0), scores(4, 4, 1)
    point = student.clone().requires_grad_()
    loss(point, teacher).backward()
    expected = finite_differences(lambda at: loss(at, teacher), student)
    torch.testing.assert_close(point.grad, expected, rtol=1e-6, atol=1e-8)
    assert point.grad.abs().max() > 0.01


def test_gradient_of_both_parts_together():
    pair, pair_teacher = scores(3, 2, 0), scores(3, 2, 1)
    batch, batch_teacher = scores(3, 3, 2), scores(3, 3, 3)
    left, right = pair.clone().requires_grad_(), batch.clone().requires_grad_()
    tas_b_loss(left, pair_teacher, right, batch_teacher, 0.75).backward()

    def at_pair(point):
        return tas_b_loss(point, pair_teacher, batch, batch_teacher, 0.75)

    def at_batch(point):
        return tas_b_loss(pair, pair_teacher, point, batch_teacher, 0.75)

    torch.testing.assert_close(left.grad, finite_differences(at_pair, pair), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(
        right.grad, finite_differences(at_batch, batch), rtol=1e-6, atol=1e-8
    )


def test_only_margins_count():
    student, teacher = scores(3, 3, 0), scores(3, 3, 1)
    moved = teacher + torch.tensor([[10.0], [-4.0], [0.5]])
    for loss in (margin_mse, in_batch_margin_mse):
        assert loss(student, moved).item() == pytest.approx(loss(student, teacher).item())
        assert loss(student, student + 3).item() == pytest.approx(0, abs=1e-12)


def test_one_pair_has_no_in_batch_part():
    student = torch.tensor([[2.0]], requires_grad=True)
    loss = in_batch_margin_mse(student, torch.tensor([[7.0]]))
    loss.backward()
    assert loss.item() == 0
    assert student.grad.tolist() == [[0.0]]
    pair = torch.tensor([[1.0, 0.0]], requires_grad=True)
    tas_b_loss(pair, torch.zeros(1, 2), student, torch.tensor([[7.0]]), 0.75).backward()
    assert pair.grad.tolist() == [[2.0, -2.0]]


def test_no_gradient_reaches_the_teacher():
    student = scores(2, 2, 0).requires_grad_()
    teacher = scores(2, 2, 1).requires_grad_()
    tas_b_loss(student, teacher, student, teacher, 0.75).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_half_precision_is_computed_in_float32():
    student, teacher = scores(5, 3, 0).bfloat16(), scores(5, 3, 1).float()
    loss = margin_mse(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_margin_mse(student.float(), teacher), rel=1e-6)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="same two axes"):
        margin_mse(torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="one negative"):
        margin_mse(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="square"):
        in_batch_margin_mse(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="square"):
        in_batch_margin_mse(torch.zeros(0, 0), torch.zeros(0, 0))
    with pytest.raises(ValueError, match="student"):
        tas_b_loss(torch.zeros(2, 2), torch.zeros(2, 2), None, torch.zeros(2, 2), 0.75)
