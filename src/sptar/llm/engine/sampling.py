"""Sampling of tokens: one random stream for each answer, one row's logits for each draw."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

__all__ = ["DRAWS_PER_TOKEN", "draw", "random_stream"]

DRAWS_PER_TOKEN = 24
"""Uniform numbers set aside for each sampled token: enough for 16 million tokens."""


def random_stream(seed: int, doc_id: str, number: int, attempt: int) -> np.random.Generator:
    """The random numbers of one try at one query: a Philox generator keyed by their SHA-256.

    Whatever else is generated, before it or beside it, the stream is the same.

    >>> a, b = random_stream(1, "d1", 0, 0), random_stream(1, "d1", 0, 1)
    >>> bool(a.random() == b.random())
    False
    """
    name = f"{seed}\x1f{number}\x1f{attempt}\x1f{doc_id}".encode()
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))


def draw(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float) -> torch.Tensor:
    """Sample one token for each row, in float64, each from its own row's logits only.

    The inverse of the distribution function, taken step by step: the vocabulary is halved again
    and again, and one uniform number decides each time between the two halves by their masses.
    One number and one cumulative sum would give the same distribution. But logits differ in
    their last bits between batches, every sum behind a likely token moves with it, and among
    tens of thousands of unlikely tokens such a shift often means a neighbour instead: measured,
    3 of 1,000 tokens changed with the batch size. Halving compares masses only, one comparison
    for each doubling of the vocabulary.

    Args:
        logits: [rows, vocabulary].
        uniforms: numbers in [0, 1) [rows, at least log2(vocabulary)], float64; the first of a row
            decides between the halves of the whole vocabulary (rounded up to a power of two).
        temperature: divides the logits.

    Returns:
        Token ids [rows].

    Raises:
        ValueError: there are too few numbers for the vocabulary.

    >>> draw(torch.zeros(2, 4), torch.tensor([[0.49, 0.51], [0.51, 0.49]]).double(), 0.7)
    tensor([1, 2])
    """
    rows, vocabulary = logits.shape
    depth = max(vocabulary - 1, 1).bit_length()
    if uniforms.shape[1] < depth:
        raise ValueError(f"a vocabulary of {vocabulary} needs {depth} numbers for each token")
    weights = torch.softmax(logits.double() / temperature, dim=-1)
    masses = [torch.nn.functional.pad(weights, (0, 2**depth - vocabulary))]
    for _ in range(depth - 1):
        masses.append(masses[-1].view(rows, -1, 2).sum(dim=-1))
    node = torch.zeros((rows, 1), dtype=torch.long, device=logits.device)
    for level, mass in enumerate(reversed(masses)):
        left = mass.gather(1, 2 * node)
        right = mass.gather(1, 2 * node + 1)
        # An empty half is never entered, as a uniform number is below 1.
        go_right = uniforms[:, level, None] * (left + right) >= left
        node = 2 * node + go_right
    return node[:, 0]
