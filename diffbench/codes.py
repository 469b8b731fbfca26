"""Codes: the activities f of one batch, and the four products a training step takes of them.

A step needs the reconstruction f V, the gradient at f, and the two outer products that are the gradients of decoder
and encoder. `DenseCode` takes them as matrix products over all latents: the plain way, for GPUs and for codes that
are not sparse. `SparseCode` touches the active entries alone, which on a CPU is many times faster than any
matrix product, because only a few of a thousand latents are active:

- f V is a weighted bag of decoder rows for each row of the batch;
- the gradient at f is wanted at the active entries only: a sampled product;
- both outer products are weighted bags of batch rows for each latent, over the transposed entries, whose order is a
  16-bit radix sort of their latents.

Nested prefixes (Matryoshka, Bussmann et al. 2025) are P blocks of consecutive latents. A block's latents take part in
the reconstructions of its own and all larger prefixes, so everything is computed per block and summed over blocks
once: entry (row, latent) of block p lives in bag p * B + row.

Shapes: B rows, n latents, D width of a row, P blocks. ``values`` are [entries] for sparse and [B, n] for dense codes.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

Indices = NDArray[np.int64]


def block_bounds(n: int, blocks: int) -> tuple[int, ...]:
    """Ends of prefixes of which each is half of the next: (n / 2^(blocks-1), ..., n / 2, n)."""
    return tuple(n >> shift for shift in reversed(range(blocks)))


class Code(ABC):
    """Activities of one batch."""

    values: Tensor
    """The activities f themselves."""

    @abstractmethod
    def decode(self, decoder: Tensor) -> Tensor:
        """[P, B, D]: reconstructions, without bias, by each prefix of the decoder [n, D]."""

    @abstractmethod
    def pull(self, gradient: Tensor, decoder: Tensor, price: Tensor | None = None) -> Tensor:
        """The gradient of the loss at the active entries of f, like ``values``.

        Args:
            gradient: [P, B, D], of the loss at what each block adds.
            decoder: [n, D].
            price: [n], of a penalty at each f_j.
        """

    @abstractmethod
    def push(self, values: Tensor, rows: Tensor) -> Tensor:
        """[n, D]: for each latent, the sum over its active rows of ``values`` times ``rows``.

        ``rows`` is [B, D], or [P, B, D] where each block has rows of its own.
        """

    @abstractmethod
    def totals(self, values: Tensor) -> Tensor:
        """[n]: the sum of ``values`` over the rows."""

    @abstractmethod
    def fired(self) -> Tensor:
        """[n] bool: latents that are active in some row."""

    @abstractmethod
    def count(self) -> int:
        """Active entries."""


class DenseCode(Code):
    """All entries, active or not."""

    def __init__(self, f: Tensor, bounds: tuple[int, ...]) -> None:
        self.values = f
        self._blocks = [slice(start, end) for start, end in pairwise((0, *bounds))]

    @cached_property
    def _active(self) -> Tensor:
        return self.values > 0

    def decode(self, decoder: Tensor) -> Tensor:
        """See `Code.decode`."""
        parts = torch.stack([self.values[:, block] @ decoder[block] for block in self._blocks])
        return parts.cumsum(dim=0) if len(parts) > 1 else parts

    def pull(self, gradient: Tensor, decoder: Tensor, price: Tensor | None = None) -> Tensor:
        """See `Code.pull`."""
        parts = [g @ decoder[block].T for g, block in zip(gradient, self._blocks, strict=True)]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if price is not None:
            whole += price
        return whole.mul_(self._active)

    def push(self, values: Tensor, rows: Tensor) -> Tensor:
        """See `Code.push`."""
        if rows.dim() == 2:
            return values.T @ rows
        return torch.cat([values[:, block].T @ table for table, block in zip(rows, self._blocks, strict=True)])

    def totals(self, values: Tensor) -> Tensor:
        """See `Code.totals`."""
        return values.sum(dim=0)

    def fired(self) -> Tensor:
        """See `Code.fired`."""
        return self._active.any(dim=0)

    def count(self) -> int:
        """See `Code.count`."""
        return int(self._active.sum())


class SparseCode(Code):
    """The active entries, in the order of rows and, within a row, of latents.

    Args:
        at: positions row * n + latent, ascending.
        f: activities there, float32.
        shape: (B, n).
        bounds: ends of the blocks.
    """

    def __init__(self, at: Indices, f: NDArray[np.float32], shape: tuple[int, int], bounds: tuple[int, ...]) -> None:
        self._size, self._n = shape
        self._blocks = len(bounds)
        starts = np.searchsorted(at, np.arange(self._size + 1) * self._n)
        rows = np.repeat(np.arange(self._size), np.diff(starts))
        latents = at - rows * self._n
        self._bags = rows
        if self._blocks > 1:
            bags = np.searchsorted(np.asarray(bounds), latents, side="right") * self._size + rows
            order = np.argsort(bags, kind="stable")
            self._bags, rows, latents, f = bags[order], rows[order], latents[order], f[order]
            starts = np.searchsorted(self._bags, np.arange(self._blocks * self._size + 1))
        self._rows, self._latents = rows, latents
        self._starts = torch.from_numpy(starts)
        self.values = torch.from_numpy(f)

    @cached_property
    def _columns(self) -> Tensor:
        return torch.from_numpy(self._latents)

    @cached_property
    def _transposed(self) -> tuple[Indices, Tensor]:
        """The order of the entries by latent, and where each latent's entries start."""
        narrow = self._latents.astype(np.uint16 if self._n <= 1 << 16 else np.int32)
        order = np.argsort(narrow, kind="stable")
        ends = np.cumsum(np.bincount(self._latents, minlength=self._n))
        return order, torch.from_numpy(np.concatenate(([0], ends[:-1])))

    def decode(self, decoder: Tensor) -> Tensor:
        """See `Code.decode`."""
        flat = self._bag(self._columns, decoder, self._starts[:-1], self.values)
        parts = flat.view(self._blocks, self._size, -1)
        return parts.cumsum(dim=0) if self._blocks > 1 else parts

    def pull(self, gradient: Tensor, decoder: Tensor, price: Tensor | None = None) -> Tensor:
        """See `Code.pull`."""
        shape = (self._blocks * self._size, self._n)
        # Zeros, because the sampled product multiplies what it finds here even when told to forget it.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            pattern = torch.sparse_csr_tensor(
                self._starts, self._columns, torch.zeros(len(self.values)), shape, check_invariants=False
            )
        sampled = torch.sparse.sampled_addmm(pattern, gradient.reshape(shape[0], -1), decoder.T, beta=0.0)
        values: Tensor = sampled.values()
        return values if price is None else values + price[self._columns]

    def push(self, values: Tensor, rows: Tensor) -> Tensor:
        """See `Code.push`."""
        order, starts = self._transposed
        index = self._rows if rows.dim() == 2 else self._bags
        flat = rows.reshape(-1, rows.shape[-1])
        return self._bag(torch.from_numpy(index[order]), flat, starts, torch.from_numpy(values.numpy()[order]))

    def totals(self, values: Tensor) -> Tensor:
        """See `Code.totals`."""
        return torch.from_numpy(np.bincount(self._latents, weights=values.numpy(), minlength=self._n)).float()

    def fired(self) -> Tensor:
        """See `Code.fired`."""
        return torch.from_numpy(np.bincount(self._latents, minlength=self._n) > 0)

    def count(self) -> int:
        """See `Code.count`."""
        return len(self.values)

    @staticmethod
    def _bag(index: Tensor, table: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
        bags: Any = embedding_bag(index, table, starts, mode="sum", per_sample_weights=weights)
        return bags  # type: ignore[no-any-return]
