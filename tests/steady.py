"""Training whose result can be compared where sums are made in another order."""

from __future__ import annotations

import functools

import torch

__all__ = ["EPSILON", "steady_adam"]

EPSILON = 1e-3

_AdamW = torch.optim.AdamW


def steady_adam() -> functools.partial[torch.optim.AdamW]:
    """AdamW whose steps are smooth in the gradient: put in place of ``torch.optim.AdamW``.

    A step is ``lr · m / (√v + ε)``. With the usual ε = 1e-8 an element whose gradient happens to be
    as small as its rounding error, some 1e-8, still takes a step of the size of the learning rate,
    in a direction that depends on the processor. With this ε a difference δ of a gradient moves a
    weight by ``2 · lr · δ / ε`` at most: δ / ε through m, and as much through √v.
    """
    return functools.partial(_AdamW, eps=EPSILON)
