"""Selection: which activities of a batch are kept, exactly, without sorting them.

BatchTopK (Bussmann, Leask & Nanda 2024) keeps the k * B largest scores of a batch. A sort of all B * n of them is the
slowest part of a training step on a CPU. `FastTopK` needs none: from one step to the next the smallest kept score
moves little, so entries above 94% of the last one are candidates, a tenth more than are kept; a partition of the
candidates gives the smallest kept score itself. Where the guess was too high it is lowered and the batch looked at
again, so the result is that of the sort. `DenseTopK` is the plain way, for GPUs and as the reference.

Shapes: B rows, n latents. ``pre`` is encoder @ x without the encoder's bias.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffbench.codes import Code, DenseCode, Indices, SparseCode

Values = NDArray[np.float32]

MARGIN = 0.06
LOWER = 0.7
SAMPLE_ROWS = 64
SPARSE_BELOW = 0.12
"""Share of active entries under which sparse kernels are faster than products over all latents; measured."""


class Selection(ABC):
    """How a batch's activities are chosen."""

    @abstractmethod
    def select(self, pre: Tensor, bias: Tensor, weight: Tensor) -> tuple[Code, float | None]:
        """The kept activities, and the score from which on they were kept: 0 if all positive ones were, None for L1.

        Args:
            pre: [B, n]; where there is no k it may be overwritten.
            bias: [n], added to it.
            weight: [n], score of a latent = activity * weight.
        """


class DenseTopK(Selection):
    """The k * B largest positive scores of a batch, by PyTorch's own selection."""

    def __init__(self, k: int, bounds: tuple[int, ...]) -> None:
        self.k, self.bounds = k, bounds

    def select(self, pre: Tensor, bias: Tensor, weight: Tensor) -> tuple[Code, float | None]:
        """See `Selection.select`."""
        f = (pre + bias).relu_()
        scores, count = f * weight, self.k * len(pre)
        smallest = scores.flatten().topk(count, sorted=False).values.min() if count < scores.numel() else scores.min()
        f = f * (scores >= smallest)
        return DenseCode(f, self.bounds), float(smallest)


class _Scan:
    """Finds the entries of a matrix that exceed a threshold per column, with one look at each and one buffer."""

    def __init__(self) -> None:
        self._mask = torch.empty(0, dtype=torch.bool)

    def look(self, pre: Tensor, threshold: Tensor) -> int:
        """Mark the entries of ``pre`` [B, n] above ``threshold`` [n], and count them."""
        if self._mask.shape != pre.shape:
            self._mask = torch.empty(pre.shape, dtype=torch.bool)
        torch.gt(pre, threshold, out=self._mask)
        return int(np.count_nonzero(self._mask.numpy()))

    def found(self, pre: Tensor, bias: Tensor) -> tuple[Indices, Indices, Values]:
        """Positions, latents and activities of the marked entries whose activity is positive."""
        at, n = np.flatnonzero(self._mask.numpy()), pre.shape[1]
        latents = at & (n - 1) if n & (n - 1) == 0 else at % n
        f = pre.numpy().ravel()[at] + bias.numpy()[latents]
        positive = f > 0
        return (at, latents, f) if positive.all() else (at[positive], latents[positive], f[positive])


class FastTopK(Selection):
    """The same entries from the last step's threshold and a partition of the candidates."""

    def __init__(self, k: int, bounds: tuple[int, ...]) -> None:
        self.k, self.bounds = k, bounds
        self._guess: float | None = None
        self._scan = _Scan()

    def select(self, pre: Tensor, bias: Tensor, weight: Tensor) -> tuple[Code, float | None]:
        """See `Selection.select`."""
        count = self.k * len(pre)
        likely = self._first(pre, bias, weight) if self._guess is None else self._guess * (1 - MARGIN)
        for guess in (likely, likely * LOWER, 0.0):  # the last look takes every positive entry
            # Bias and weight stand in the threshold, so that all B * n entries are read once and written never.
            if self._scan.look(pre, guess / weight - bias if guess > 0 else -bias) < count and guess > 0:
                continue
            at, latents, f = self._scan.found(pre, bias)
            scores = f * weight.numpy()[latents]
            if (scored := scores > 0).sum() < len(at):  # a latent without a decoder scores nothing
                at, f, scores = at[scored], f[scored], scores[scored]
            if len(at) >= count:
                break
        smallest = 0.0
        if len(at) >= count:
            smallest = float(np.partition(scores, len(at) - count)[len(at) - count])
            kept = scores >= smallest
            at, f = at[kept], f[kept]
        self._guess = smallest or None
        return SparseCode(at, f, (pre.shape[0], pre.shape[1]), self.bounds), smallest

    def _first(self, pre: Tensor, bias: Tensor, weight: Tensor) -> float:
        """A guess from a sample of rows, for the first batch."""
        sample = (((pre[:SAMPLE_ROWS] + bias).relu_()) * weight).numpy().ravel()
        count = min(self.k * min(SAMPLE_ROWS, len(pre)), sample.size)
        return max(0.0, float(np.partition(sample, sample.size - count)[sample.size - count]) * (1 - 3 * MARGIN))


class DensePositive(Selection):
    """Every positive activity, for L1 penalties."""

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds

    def select(self, pre: Tensor, bias: Tensor, weight: Tensor) -> tuple[Code, float | None]:
        """See `Selection.select`."""
        return DenseCode(pre.add_(bias).relu_(), self.bounds), None


class FastPositive(Selection):
    """The same, as a sparse code as soon as few enough are positive."""

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self._scan = _Scan()

    def select(self, pre: Tensor, bias: Tensor, weight: Tensor) -> tuple[Code, float | None]:
        """See `Selection.select`."""
        if self._scan.look(pre, -bias) > SPARSE_BELOW * pre.numel():
            return DenseCode(pre.add_(bias).relu_(), self.bounds), None
        at, _, f = self._scan.found(pre, bias)
        return SparseCode(at, f, (pre.shape[0], pre.shape[1]), self.bounds), None


def selection(k: int | None, bounds: tuple[int, ...], device: torch.device) -> Selection:
    """BatchTopK for a k, every positive entry for None; sparse on CPUs, dense elsewhere."""
    if device.type == "cpu":
        return FastPositive(bounds) if k is None else FastTopK(k, bounds)
    return DensePositive(bounds) if k is None else DenseTopK(k, bounds)
