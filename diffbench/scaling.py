"""Scaling: the space that dictionaries are trained in, and the way back to raw activations.

Per model x -> (x - mean) * scale with one scalar each, so that both models' rows have a mean squared norm of d.
Shapes: B rows, d residual width, D = d (one target) or 2d (both models side by side).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffbench.activations import Activations
from diffbench.dictionary import CHUNK
from diffbench.diff import Input
from diffbench.errors import OptionError
from diffbench.precision import CONSTANT

EPS = 1e-8


def select_input(target: Input, h_b: Tensor, delta: Tensor) -> Tensor:
    """[B, D]: what a dictionary of this kind is trained on, from h_b and delta [B, d]."""
    if target == "delta":
        return delta
    if target == "base":
        return h_b
    h_t = h_b + delta
    return h_t if target == "tuned" else torch.cat([h_b, h_t], dim=1)


@dataclass(frozen=True, slots=True)
class Scaling:
    """x -> (x - mean) * scale, folded back into every Diff."""

    mean: Tensor  # [D]
    scale: Tensor  # [D], constant over each model's part

    @classmethod
    def fit(cls, rows: Activations, target: Input) -> Scaling:
        """From stored rows, in float64 and in chunks.

        Raises:
            OptionError: if the rows are not finite, or constant.
        """
        total = squares = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(rows), CHUNK):
            x = select_input(target, *rows.rows(slice(start, start + CHUNK))).double()
            total, squares = total + x.sum(dim=0), squares + x.pow(2).sum(dim=0)
        mean, square = total / len(rows), squares / len(rows)
        if not bool(torch.isfinite(square).all()):
            raise OptionError("activations hold NaN or infinite values; nothing can be trained on them")
        width = rows.width
        power = [float(part.mean()) for part in (square - mean.pow(2)).clamp_min(0).split(width)]
        if max(power) <= CONSTANT * float(square.mean()):
            raise OptionError("activations are constant: there is nothing for a dictionary to explain")
        scale = torch.cat([torch.full((width,), 1 / math.sqrt(p + EPS * max(power))) for p in power])
        return cls(mean=mean.float(), scale=scale)

    def apply(self, x: Tensor) -> Tensor:
        """[B, D] raw to training space."""
        return (x - self.mean) * self.scale
