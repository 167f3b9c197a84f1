"""Losses by which a student learns the margins of its teachers (margin-MSE, TAS-B).

A margin is the score of a pair's own document minus that of another one. Only margins are compared,
so a constant added to all scores of a query changes nothing; their *scale* counts, though. A
student of dot products can reach any scale, one of cosines cannot. A teacher trained on few pairs
gives margins of a small range: then these losses, and their gradients, are small too.
"""

from __future__ import annotations

import torch

__all__ = ["in_batch_margin_mse", "margin_mse", "tas_b_loss"]


def margin_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared difference between the margins of student and teacher.

    Hofstätter et al., *Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation* (arXiv 2010.02666); L_Pair in section 2.3 of the TAS-B paper (arXiv 2104.06967).

    Args:
        student: [b, 1 + n], the positive's score in column 0, n ≥ 1 negatives behind it.
        teacher: the same for the teacher; no gradient reaches it.

    Returns:
        A scalar, the mean over the b · n margins.
    """
    student, teacher = _comparable(student, teacher)
    if student.shape[0] < 1 or student.shape[1] < 2:
        raise ValueError("margins need one pair with one negative at least")
    wanted = teacher[:, :1] - teacher[:, 1:]
    return (student[:, :1] - student[:, 1:] - wanted).square().mean()


def in_batch_margin_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Margin-MSE of each pair's own document against the other pairs' documents.

    L_InB in section 2.3 of the TAS-B paper, taken as the mean over margins as in the authors' code
    (the printed formula divides by the number of queries only). There the other pairs' negatives
    are a second half of the loss; here only their positives take part, whose teacher scores an
    :class:`~sptar.retrieval.retriever.InBatchTeacher` gives.

    Args:
        student: [b, b], query i against the document of pair j; own documents on the diagonal.
        teacher: the same for the teacher; no gradient reaches it.

    Returns:
        A scalar, the mean over the b · (b - 1) margins. A batch of one pair has none: its loss is
        0, with a gradient of 0.
    """
    student, teacher = _comparable(student, teacher)
    size = len(student)
    if student.shape[1] != size or not size:
        raise ValueError(f"in-batch scores are a square array, not {tuple(student.shape)}")
    if size == 1:
        return (student * 0.0).sum()
    others = ~torch.eye(size, dtype=torch.bool, device=student.device)
    margins = student.diagonal()[:, None] - student
    wanted = teacher.diagonal()[:, None] - teacher
    return (margins - wanted)[others].square().mean()


def tas_b_loss(
    pair_student: torch.Tensor,
    pair_teacher: torch.Tensor,
    in_batch_student: torch.Tensor | None,
    in_batch_teacher: torch.Tensor | None,
    weight: float,
) -> torch.Tensor:
    """Dual-teacher supervision: L_Pair + weight · L_InB (TAS-B paper, section 2.3).

    Args:
        pair_student, pair_teacher: [b, 1 + n], see :func:`margin_mse`.
        in_batch_student, in_batch_teacher: [b, b], see :func:`in_batch_margin_mse`; without an
            in-batch teacher the second is ``None`` and only the pairs count.
        weight: of the in-batch part; 0.75 in the paper (α, section 4.2), which brings both parts
            into the same range there.
    """
    loss = margin_mse(pair_student, pair_teacher)
    if in_batch_teacher is None:
        return loss
    if in_batch_student is None:
        raise ValueError("scores of an in-batch teacher need the student's")
    return loss + weight * in_batch_margin_mse(in_batch_student, in_batch_teacher)


def _comparable(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in float32 at least, on the student's device, the teacher without gradient."""
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            "scores of student and teacher are arrays of the same two axes, not "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    return student.to(dtype), teacher.detach().to(device=student.device, dtype=dtype)
