"""Design: what sets one sparse dictionary apart from another. One training loop serves them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffbench.codes import block_bounds
from diffbench.decoders import Decoders, FreeDecoders, SharedDecoders, TripleDecoders
from diffbench.diff import Input
from diffbench.errors import OptionError
from diffbench.losses import ErrorNorm, Loss, SquaredError
from diffbench.options import BatchTopKOptions, DictionaryOptions, L1Options

NORM_PENALTY = 0.05
"""Usual penalty beside an unsquared error, whose pull on an activity is a fraction of the decoder's norm at most."""

Tying = Literal["unit", "free", "shared", "triples"]


@dataclass(frozen=True, slots=True)
class TopK:
    """Keep the k * B largest scores of a batch (Bussmann, Leask & Nanda 2024); dead latents explain the error.

    Attributes:
        k: active latents per row, on average over a batch.
        dead_after: rows without firing after which a latent is dead.
        aux: weight of the auxiliary loss on dead latents.
        matryoshka: nested prefixes that reconstruct alone (Bussmann et al. 2025).
    """

    k: int
    dead_after: int
    aux: float
    matryoshka: int = 1

    @classmethod
    def of(cls, options: BatchTopKOptions) -> TopK:
        """From a method's options."""
        return cls(options.k, options.dead_after, options.aux, options.matryoshka)


@dataclass(frozen=True, slots=True)
class L1:
    """penalty * Σ_j f_j Σ_m ‖d_j^m‖ per row; the penalty rises over the first ``warm_up`` share of the steps."""

    penalty: float
    warm_up: float

    @classmethod
    def of(cls, options: L1Options, usual: float = 2.0) -> L1:
        """From a method's options; ``usual`` is the penalty for squared errors where none is given."""
        by_default = usual if options.error == "squared" else NORM_PENALTY
        return cls(by_default if options.penalty is None else options.penalty, options.penalty_warm_up)


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """One kind of dictionary.

    Attributes:
        target: what it reads and reconstructs.
        sparsity: what makes its code sparse.
        tying: "unit": rows of norm 1 (SAEs); "free"; "shared": some latents have one row for both models;
            "triples": (shared, base, tuned) latents over one pair of rows.
        shared: for "shared", the share of such latents.
        factor: what the penalty of shared latents ("shared", below 1) or of exclusive firings ("triples", above 1) is
            multiplied by; BatchTopK divides their scores by it.
        error: squared, or the mean over models of the norm.
        cross: weight of 2 e_t·e_b in the squared error of a crosscoder.
        reverse: train on h_b - h_t in place of h_t - h_b; the result is turned round again.
    """

    target: Input
    sparsity: TopK | L1
    tying: Tying = "unit"
    shared: float = 0.0
    factor: float = 1.0
    error: Literal["squared", "norm"] = "squared"
    cross: float = 0.0
    reverse: bool = False

    @property
    def parts(self) -> int:
        """How many models' streams are reconstructed."""
        return 2 if self.target == "both" else 1

    @property
    def centred(self) -> bool:
        """Whether the decoder's bias is taken off before encoding, as SAEs do and crosscoders do not."""
        return self.parts == 1

    def latents(self, options: DictionaryOptions, width: int) -> int:
        """How many latents n; whole triples where they come in triples."""
        n = options.expansion * width
        return n - n % 3 if self.tying == "triples" else n

    def decoders(self, initial: Tensor) -> Decoders:
        """Parameters for an initial decoder [n, D]."""
        if self.tying == "shared":
            return SharedDecoders(initial, self._shared(len(initial)))
        if self.tying == "triples":
            return TripleDecoders(initial)
        return FreeDecoders(initial, unit=self.tying == "unit")

    def price(self, n: int) -> Tensor:
        """[n]: what each latent's penalty is multiplied by."""
        price = torch.ones(n)
        if self.tying == "shared":
            price[: self._shared(n)] = self.factor
        elif self.tying == "triples":
            price.view(-1, 3)[:, 1:] = self.factor
        return price

    def loss(self) -> Loss:
        """What is minimised besides the penalty."""
        return ErrorNorm(self.parts) if self.error == "norm" else SquaredError(self.cross)

    def bounds(self, n: int) -> tuple[int, ...]:
        """Ends of the nested prefixes; one prefix where there are none."""
        blocks = self.sparsity.matryoshka if isinstance(self.sparsity, TopK) else 1
        if self.tying == "triples":  # no prefix cuts one
            return tuple(3 * end for end in block_bounds(n // 3, blocks))
        return block_bounds(n, blocks)

    def check(self, n: int) -> None:
        """Raise `OptionError` for a sparsity that a dictionary of n latents cannot have."""
        if isinstance(self.sparsity, TopK):
            if self.sparsity.k > n:
                raise OptionError(f"k: {self.sparsity.k} is more than the dictionary's {n} latents")
            if self.bounds(n)[0] < 1:
                raise OptionError(f"matryoshka: {self.sparsity.matryoshka} prefixes are too many for {n} latents")

    def _shared(self, n: int) -> int:
        return round(self.shared * n)
