"""What the weak data filter can say of a weak query."""

from __future__ import annotations

__all__ = ["REASONS"]

REASONS = {
    "refused": "refused by the server",
    "empty": "no text",
    "degenerate": "repeated phrase",
    "copied": "copied from document",
    "unfinished": "cut off before its end",
    "duplicate": "duplicate",
    "test_overlap": "equals a test query",
    "not_found": "source not found",
    "rank": "source below cut-off",
    "kept": "kept",
}
"""Every reason of a decision, in the order of the filters' chain, in the reader's words."""
