"""Options that dictionaries share; kept apart from their training so that listing a method needs no torch."""

from __future__ import annotations

from typing import Literal

from diffbench.method import Field, MethodOptions


class DictionaryOptions(MethodOptions):
    """Options of every dictionary."""

    expansion: int = Field(4, ge=1, le=256, description="latents per residual dimension")
    tokens: int | None = Field(
        None, ge=1, description="rows to train on, each as often as needed; by default four times the rows at hand"
    )
    batch: int = Field(1024, ge=16, le=65536, description="rows per step")
    lr: float = Field(1e-3, gt=0, le=1, description="Adam's step size; falls to 0 over the last fifth")
    warm_up: int = Field(50, ge=1, description="steps over which the step size rises")


class BatchTopKOptions(DictionaryOptions):
    """Options of every BatchTopK dictionary."""

    k: int = Field(8, ge=1, description="active latents per token, on average over a batch")
    dead_after: int = Field(50_000, ge=1, description="rows without firing after which a latent counts as dead")
    aux: float = Field(1 / 32, ge=0, le=1, description="weight of the loss by which dead latents explain the error")
    matryoshka: int = Field(
        1, ge=1, le=8, description="nested prefixes, each twice the one before, that reconstruct alone; 1: none"
    )


class L1Options(DictionaryOptions):
    """Options of every dictionary with an L1 penalty."""

    penalty: float | None = Field(
        None,
        gt=0,
        description="lambda of the L1 penalty, where each model's rows have a mean squared norm of d; by default 2 "
        "(1 with shared latents) for squared errors, .05 for norms",
    )
    penalty_warm_up: float = Field(0.2, ge=0, le=1, description="share of the steps over which the penalty rises")
    error: Literal["squared", "norm"] = Field(
        "squared", description="squared: sum of squared errors; norm: mean over models of the unsquared norm"
    )


class EitherOptions(BatchTopKOptions, L1Options):
    """Options of a dictionary that is made sparse in either way; those of the other way are not used."""

    sparsity: Literal["l1", "batchtopk"] = Field("l1", description="what makes the code sparse")
