"""How far two float32 results may lie apart that differ in nothing but the order of their sums."""

from __future__ import annotations

import math

__all__ = ["rounding"]

_UNIT = 2.0**-24


def rounding(products: int = 20, terms: int = 64, size: float = 1.0) -> float:
    """Bound for results behind so many products in a row, each a sum of so many terms.

    Other vector instructions, threads, padding and batches change the order of a sum. Each of its
    additions rounds by ``2⁻²⁴`` of the sum's size at most, in either direction, so n of them add
    ``√n · 2⁻²⁴`` and seldom more; that the errors of all products add up in one direction is the
    reserve. Between instruction sets from SSE to AVX-512 a tenth to a third of it was seen.

    Args:
        products: those of a tiny model are ten in each of its two layers; a gradient has as many
            again.
        terms: of a sum; a tiny model is 32 wide, 64 within its layers.
        size: of what is compared.
    """
    return products * math.sqrt(terms) * _UNIT * size
