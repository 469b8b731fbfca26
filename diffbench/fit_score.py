"""Fit score: how well and how sparsely a Diff describes held-out activations.

Shapes: T rows, d residual width, n components.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffbench.activations import outlying
from diffbench.dictionary import reconstruction
from diffbench.diff import DictionaryDiff
from diffbench.edit import ActivationEdit, Streams
from diffbench.figure import Figure
from diffbench.precision import CONSTANT
from diffbench.scores import Fit

CHUNK = 8192


def score_fit(edit: ActivationEdit, rows: Streams, limits: tuple[float, float]) -> tuple[Fit, Figure]:
    """How well the Diff describes held-out rows, and the default change score mean ‖predicted‖² / ‖h_b‖².

    Args:
        edit: of the Diff.
        rows: at all positions that count.
        limits: norms of h_b and h_t above which a row is left out.
    """
    diff, rows = edit.diff, rows.at(~outlying(rows.h_b.norm(dim=-1), rows.h_t.norm(dim=-1), limits))
    own, delta = Explained(), Explained()
    fired = torch.zeros(diff.n_components, dtype=torch.bool)
    active, change = 0.0, 0.0
    for start in range(0, len(rows), CHUNK):
        part = rows.at(slice(start, start + CHUNK))
        added = edit.full(part)
        delta.add(part.h_t - part.h_b, added)
        before = part.h_b.double().pow(2).sum(1).clamp_min(1e-12)
        change += float((added.double().pow(2).sum(1) / before).sum())
        if isinstance(diff, DictionaryDiff):
            own.add(*reconstruction(diff, part.h_b, part.h_t))
            on = edit.activity(part) > 0
            fired |= on.any(dim=0)
            active += float(on.sum())
    size = float(rows.h_b.pow(2).sum(dtype=torch.float64))
    dense = Figure.not_applicable("directions are no sparse dictionary")
    sparse = isinstance(diff, DictionaryDiff)
    fit = Fit(
        fve=own.figure(size) if sparse else dense,
        fve_delta=delta.figure(size),
        l0=Figure.of(active / len(rows)) if sparse else dense,
        dead_share=Figure.of(1 - float(fired.double().mean())) if sparse else dense,
        n_components=diff.n_components,
    )
    return fit, Figure.of(change / len(rows))


class Explained:
    """Fraction of variance explained over streamed rows, in float64: 1 - sum Var(x - x̂) / sum Var(x)."""

    def __init__(self) -> None:
        self.n = 0
        self.moments: list[Tensor] = []

    def add(self, target: Tensor, hat: Tensor) -> None:
        """Rows [T, D] and what they are described by."""
        x, e = target.double(), (target - hat).double()
        new = [x.sum(0), x.pow(2).sum(0), e.sum(0), e.pow(2).sum(0)]
        self.moments = [a + b for a, b in zip(self.moments, new, strict=True)] if self.n else new
        self.n += len(target)

    def figure(self, size: float) -> Figure:
        """The share, undefined where the target varies by no more than rounding.

        Args:
            size: sum of squares of the streams that the target was computed from.
        """
        x1, x2, e1, e2 = self.moments
        total, left = (float((square - first**2 / self.n).sum()) for first, square in ((x1, x2), (e1, e2)))
        if total <= CONSTANT * size:
            return Figure.undefined("the target does not vary: both models' activations are the same")
        return Figure.of(1 - left / total)


def no_fit(why: Figure, n_components: int) -> Fit:
    """No score, for one reason."""
    return Fit(fve=why, fve_delta=why, l0=why, dead_share=why, n_components=n_components)
