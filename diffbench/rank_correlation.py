"""Rank correlation: Spearman's, ties at their mean rank.

Shapes: T values of each of k and m columns.
"""

from __future__ import annotations

import torch
from torch import Tensor


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """[k, m] rank correlations of the columns of [T, k] and [T, m]; 0 where a column does not vary."""
    left, right = (_standard(torch.stack([_ranks(column) for column in x.T], dim=1)) for x in (a, b))
    return left.T @ right


def _ranks(column: Tensor) -> Tensor:
    """[T] ranks; equal values share the mean of theirs."""
    _, inverse, counts = column.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0).double() - (counts.double() - 1) / 2
    return ranks[inverse]


def _standard(columns: Tensor) -> Tensor:
    centred = columns - columns.mean(dim=0)
    norms = centred.norm(dim=0)
    return torch.where(norms > 0, centred / norms.clamp_min(1e-300), 0.0)
