"""Alignment: the directions of two Diffs' components beside each other.

Shapes: n components, k first ones, d residual width. Numbers are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffbench.agreement import MATCHED_AT
from diffbench.dictionary import difference_decoder
from diffbench.diff import DictionaryDiff, DirectionDiff, order_of

RANK_TOLERANCE = 1e-6
GRID = 20_001


@dataclass(frozen=True, slots=True)
class Directions:
    """Unit directions [n, d] of a Diff's components in its order, without those of no length.

    Attributes:
        component: [n], which component each is.
        position: [n], the token position it holds at, -1 for all.
    """

    rows: Tensor
    component: Tensor
    position: Tensor

    @classmethod
    def of(cls, diff: DictionaryDiff | DirectionDiff) -> Directions:
        """What a component adds to the tuned model beyond the reference, as a direction."""
        order = order_of(diff)
        rows = (difference_decoder(diff) if isinstance(diff, DictionaryDiff) else diff.directions)[order].double()
        held = diff.positions if isinstance(diff, DirectionDiff) else None
        position = torch.full_like(order, -1) if held is None else held[order]
        norms = rows.norm(dim=1)
        there = norms > 0
        return cls(rows[there] / norms[there, None], order[there], position[there])

    def __len__(self) -> int:
        return len(self.component)

    def first(self, k: int) -> Directions:
        """The first of them."""
        return Directions(self.rows[:k], self.component[:k], self.position[:k])

    def of_components(self, components: list[int]) -> Directions:
        """Those of some components, in their order; a component of no length has none."""
        at = {int(component): index for index, component in enumerate(self.component)}
        chosen = torch.tensor([at[component] for component in components if component in at], dtype=torch.int64)
        return Directions(self.rows[chosen], self.component[chosen], self.position[chosen])

    def cosines(self, other: Directions) -> Tensor:
        """[n, m] cosines with another Diff's; NaN where the positions differ."""
        cosines = (self.rows @ other.rows.T).clamp(-1, 1)  # rounding goes beyond
        return cosines.masked_fill(self.position[:, None] != other.position, math.nan)


def best_of_random(candidates: int, width: int) -> tuple[float, float]:
    """Of the largest |cosine| to so many random directions: its mean, and how often it is `MATCHED_AT` or more.

    |cos| = sin(t) has the density proportional to cos(t)^(d - 2) on [0, pi/2].
    """
    if width < 2:
        return (1.0, 1.0) if candidates else (0.0, 0.0)
    angle = torch.linspace(0, math.pi / 2, GRID, dtype=torch.float64)
    density = angle.cos().clamp_min(0) ** (width - 2)
    below = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumulative_trapezoid(density, angle)])
    below = (below / below[-1]) ** candidates
    mean = torch.trapezoid((1 - below) * angle.cos(), angle)
    at = int(torch.searchsorted(angle, math.asin(MATCHED_AT)))
    return float(mean), float(1 - below[at])


def overlap(a: Tensor, b: Tensor) -> float:
    """||Q_a^T Q_b||_F^2 over the larger rank, of two orthonormal bases [r, d]: 1 for the same subspace."""
    return min(1.0, float((a @ b.T).pow(2).sum()) / max(len(a), len(b)))  # rounding goes beyond


def basis(rows: Tensor) -> Tensor:
    """[r, d] orthonormal rows that span the same."""
    _, sizes, vectors = torch.linalg.svd(rows, full_matrices=False)
    found: Tensor = vectors[sizes > RANK_TOLERANCE * sizes[0]]
    return found
