"""Options that several methods share; kept apart from their training so that listing a method needs no torch."""

from __future__ import annotations

from diffbench.method import Field, MethodOptions


class BatchTopKOptions(MethodOptions):
    """Options that every BatchTopK dictionary shares."""

    expansion: int = Field(4, ge=1, le=256, description="latents per residual dimension")
    k: int = Field(8, ge=1, description="active latents per token, on average over a batch")
    epochs: int = Field(4, ge=1, le=1000, description="times each harvested row is used")
    batch: int = Field(1024, ge=16, le=65536, description="rows per step")
    lr: float = Field(1e-3, gt=0, le=1, description="Adam's step size; falls to 0 over the last fifth")
    dead_after: int = Field(50_000, ge=1, description="rows without firing after which a latent counts as dead")
