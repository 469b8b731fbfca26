"""Rows: the batches of a training job, made outside of what is timed."""

from __future__ import annotations

from torch import Tensor

from benchmarks.jobs import Training
from benchmarks.mixtures import Mixture

HELD_OUT_ROWS = 16384


class Batches:
    """Batch after batch; from a pool that is made at once, or each anew."""

    def __init__(self, job: Training) -> None:
        self.mixture = Mixture(job.shape.width, 1 if job.kind == "sae" else 2, job.seed)
        self._rows = job.shape.batch
        self._pool = [self.mixture.batch(index, self._rows) for index in range(job.pool)]
        self._index = 0

    def next(self) -> Tensor:
        """[B, D], a copy that the caller may write to."""
        index, self._index = self._index, self._index + 1
        if self._pool:
            return self._pool[index % len(self._pool)].clone()
        return self.mixture.batch(index, self._rows)

    def held_out(self) -> Tensor:
        """[16384, D]."""
        return self.mixture.held_out(HELD_OUT_ROWS)
