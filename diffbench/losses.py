"""Losses: how far reconstructions are from their target, with the gradient written out.

Shapes: B rows, D width (base first, then tuned, where there are two parts), P nested prefixes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-8


class Loss(ABC):
    """A loss over rows, averaged over rows and prefixes."""

    @abstractmethod
    def of(self, target: Tensor, hats: Tensor) -> tuple[Tensor, Tensor]:
        """Value [] and gradient [P, B, D] with respect to each prefix's reconstruction ``hats`` [P, B, D]."""


def crossed(error: Tensor, cross: float) -> Tensor:
    """(e_b + cross e_t, e_t + cross e_b): half the gradient of Σ_m ‖e_m‖² + cross * 2 e_t·e_b at the errors."""
    if not cross:
        return error
    base, tuned = error.chunk(2, dim=-1)
    return torch.cat([base + cross * tuned, tuned + cross * base], dim=-1)


@dataclass(frozen=True, slots=True)
class SquaredError(Loss):
    """Σ_m ‖e_m‖² + cross * 2 e_t·e_b; at cross = -1 it is ‖e_t - e_b‖², and only d_t - d_b is identified."""

    cross: float = 0.0

    def of(self, target: Tensor, hats: Tensor) -> tuple[Tensor, Tensor]:
        """See `Loss.of`."""
        error = target - hats
        weighted = crossed(error, self.cross)
        share = 1 / (error.shape[0] * error.shape[1])
        value = torch.dot(error.flatten(), weighted.flatten()) * share if self.cross else error.pow(2).sum() * share
        return value, weighted.mul_(-2 * share)


@dataclass(frozen=True, slots=True)
class ErrorNorm(Loss):
    """Mean over models of ‖e_m‖, not squared (Minder et al. 2025 train crosscoders so)."""

    parts: int = 2

    def of(self, target: Tensor, hats: Tensor) -> tuple[Tensor, Tensor]:
        """See `Loss.of`."""
        error = target - hats
        split = error.view(*error.shape[:2], self.parts, -1)
        norms = split.norm(dim=-1, keepdim=True)
        share = 1 / norms.numel()
        return norms.sum() * share, (split / norms.clamp_min(EPS)).mul_(-share).view_as(error)
