"""Decoders: how the decoder rows [n, D] that a step uses follow from the parameters that are trained.

Shapes: n latents, d residual width, D = d (one target) or 2d (base first, then tuned).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

EPS = 1e-8


class Decoders(ABC):
    """Trained parameters and the decoder that they make."""

    parameters: list[Tensor]

    @abstractmethod
    def expand(self) -> Tensor:
        """The decoder [n, D]."""

    @abstractmethod
    def set_gradient(self, gradient: Tensor) -> None:
        """Give each parameter its ``grad`` from that of the decoder, [n, D]."""

    @abstractmethod
    def project(self) -> None:
        """Bring parameters back to where they may be, after a step."""

    def group(self) -> Tensor | None:
        """[n]: names of latents that share decoder rows; None where none do."""
        return None


class FreeDecoders(Decoders):
    """Every row is a parameter; with ``unit``, rows keep the norm 1."""

    def __init__(self, decoder: Tensor, *, unit: bool) -> None:
        self.parameters = [decoder]
        self._unit = unit

    def expand(self) -> Tensor:
        """See `Decoders.expand`."""
        return self.parameters[0]

    def set_gradient(self, gradient: Tensor) -> None:
        """See `Decoders.set_gradient`."""
        decoder = self.parameters[0]
        if self._unit:  # the part along a unit row would only change its norm
            gradient = gradient.addcmul_(decoder, (gradient * decoder).sum(dim=1, keepdim=True), value=-1.0)
        decoder.grad = gradient

    def project(self) -> None:
        """See `Decoders.project`."""
        if self._unit:
            decoder = self.parameters[0]
            decoder.div_(decoder.norm(dim=1, keepdim=True).clamp_min_(EPS))


class SharedDecoders(Decoders):
    """The first ``shared`` latents have one row for both models (Anthropic, February 2025)."""

    def __init__(self, decoder: Tensor, shared: int) -> None:
        self._shared, self._width = shared, decoder.shape[1] // 2
        self.parameters = [decoder[:shared, : self._width].clone(), decoder[shared:].clone()]

    def expand(self) -> Tensor:
        """See `Decoders.expand`."""
        shared, free = self.parameters
        return torch.cat([shared.repeat(1, 2), free])

    def set_gradient(self, gradient: Tensor) -> None:
        """See `Decoders.set_gradient`."""
        shared, free = self.parameters
        both = gradient[: self._shared]
        shared.grad = both[:, : self._width] + both[:, self._width :]
        free.grad = gradient[self._shared :].contiguous()

    def project(self) -> None:
        """See `Decoders.project`: these may be anywhere."""


class TripleDecoders(Decoders):
    """Triples of latents (shared, base, tuned) over one pair of rows (d^b, d^t), of a tied crosscoder (Aranguri 2025).

    The shared latent of a triple writes both rows, the other two one each: latents 3i, 3i + 1 and 3i + 2.
    """

    def __init__(self, decoder: Tensor) -> None:
        self._width = decoder.shape[1] // 2
        self.parameters = [decoder[::3].clone()]

    def expand(self) -> Tensor:
        """See `Decoders.expand`."""
        rows = self.parameters[0]
        wide = rows.new_zeros(len(rows), 3, rows.shape[1])
        wide[:, 0] = rows
        wide[:, 1, : self._width] = rows[:, : self._width]
        wide[:, 2, self._width :] = rows[:, self._width :]
        return wide.view(-1, rows.shape[1])

    def set_gradient(self, gradient: Tensor) -> None:
        """See `Decoders.set_gradient`."""
        wide = gradient.view(-1, 3, gradient.shape[1])
        total = wide[:, 0].clone()
        total[:, : self._width] += wide[:, 1, : self._width]
        total[:, self._width :] += wide[:, 2, self._width :]
        self.parameters[0].grad = total

    def project(self) -> None:
        """See `Decoders.project`: these may be anywhere."""

    def group(self) -> Tensor:
        """See `Decoders.group`."""
        return torch.arange(len(self.parameters[0])).repeat_interleave(3)


def row_norms(decoder: Tensor, parts: int) -> Tensor:
    """[n, parts]: the norm of each model's part of each decoder row."""
    norms: Tensor = decoder.view(decoder.shape[0], parts, -1).norm(dim=2)
    return norms


def relative_norm(decoder: Tensor) -> Tensor:
    """[n]: ½[(‖d^t‖ - ‖d^b‖)/max(‖d^t‖, ‖d^b‖) + 1] of decoders [n, 2d], base first.

    1 is tuned-only; NaN has no decoder at all.

    Source: Minder et al. 2025 (arXiv 2504.02922).
    """
    b, t = row_norms(decoder, 2).unbind(dim=1)
    relative: Tensor = 0.5 * ((t - b) / torch.maximum(t, b) + 1)
    return relative.masked_fill(torch.maximum(t, b) < EPS, float("nan"))


def norm_share(decoder: Tensor) -> Tensor:
    """[n]: ‖d^t‖ / (‖d^b‖ + ‖d^t‖) of decoders [n, 2d]; above .7 tuned-exclusive, below .3 base-exclusive.

    Source: Aranguri 2025 (tied crosscoder).
    """
    b, t = row_norms(decoder, 2).unbind(dim=1)
    share: Tensor = t / (b + t)
    return share.masked_fill(b + t < EPS, float("nan"))
