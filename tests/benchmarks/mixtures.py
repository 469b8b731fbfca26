"""Mixtures: synthetic sparse rows for one model or two, the same on every side because they follow from a seed.

A row is a sum of 16 of 4d fixed unit directions, drawn with power-law frequencies and strengths between 0.5 and 1.5,
plus 5% noise. For two models most directions are the same in both; one in ten is the first's alone, one in ten the
second's alone. Rows come centred, and scaled to a mean squared norm of d for each model.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

ACTIVE = 16
NOISE = 0.05
POWER = 0.7
FIT_ROWS = 8192
DIRECTIONS = 7_000_003
"""Added to the seed: a trainer that draws its decoders from the plain seed must not find the directions there."""
HELD_OUT = 1_000_000_000
"""Index of the first held-out batch."""


class Mixture:
    """Endless batches.

    Args:
        width: d.
        models: 1 or 2; rows are [B, models * d].
        seed: of the directions and of every batch.
    """

    def __init__(self, width: int, models: int, seed: int) -> None:
        self._seed, self._wide = seed, models * width
        draw = torch.Generator().manual_seed(DIRECTIONS + seed)
        n = 4 * width
        directions = normalize(torch.randn(n, width, generator=draw), dim=1).repeat(1, models)
        if models == 2:
            lot = torch.rand(n, generator=draw)
            directions[lot < 0.1, width:] = 0
            directions[lot > 0.9, :width] = 0
        self._directions = directions
        frequency = torch.arange(1, n + 1, dtype=torch.float64).pow(-POWER)
        self._cumulative = (frequency / frequency.sum()).cumsum(0).float()
        self._mean, self._scale = torch.zeros(self._wide), torch.ones(self._wide)
        sample = self.batch(-1, FIT_ROWS)
        self._mean = sample.mean(dim=0)
        power = (sample - self._mean).pow(2).view(-1, models, width).mean(dim=(0, 2))
        self._scale = power.rsqrt().repeat_interleave(width)

    def batch(self, index: int, rows: int) -> Tensor:
        """[rows, models * d], always the same for the same index and number of rows."""
        draw = torch.Generator().manual_seed((self._seed << 32) + index + 7)
        shape = (rows, ACTIVE)
        which = torch.searchsorted(self._cumulative, torch.rand(shape, generator=draw)).clamp_max_(
            len(self._directions) - 1
        )
        strength = 0.5 + torch.rand(shape, generator=draw)
        x = embedding_bag(which, self._directions, per_sample_weights=strength, mode="sum")
        noise = torch.randn(x.shape, generator=draw)
        x += noise * (NOISE * x.norm(dim=1, keepdim=True) / self._wide**0.5)
        return (x - self._mean) * self._scale

    def held_out(self, rows: int) -> Tensor:
        """Rows that no batch holds."""
        return self.batch(HELD_OUT, rows)

    def checksum(self) -> float:
        """A number that two sides with the same rows agree on."""
        return round(float(self.batch(0, 256).double().abs().sum()), 2)
