"""Latent row: what the columns of ``latents.parquet`` mean, one row per latent of a dictionary."""

from __future__ import annotations

import re

from pydantic import Field

from diffbench.truth import Schema

LATENTS = "latents.parquet"
LATENTS_BYTES = 4 << 30

Words = tuple[str, ...]


class LatentRow(Schema):
    """One latent. Other numeric columns of the method may follow; null says that a quantity is undefined there."""

    latent: int = Field(description="index into the Diff's components, from 0")
    rank: int = Field(description="place in the method's own order, 1 = most changed")
    group: int | None = Field(description="number of the tied triple that the latent belongs to; null: none")
    energy: float | None = Field(None, description="mean squared norm of what the latent adds to the difference, raw")
    frequency: float | None = Field(None, description="share of rows in which it fires")
    activation_mean: float | None = Field(None, description="mean activation over all rows")
    activation_rise: float | None = Field(None, description="mean activation on h_t minus that on h_b")
    relative_norm: float | None = Field(
        None,
        description="((|d_t| - |d_b|) / max(|d_t|, |d_b|) + 1) / 2 in training space: 1 = tuned only, .5 = shared, "
        "0 = base only",
    )
    base_norm: float | None = Field(None, description="1 - relative_norm: base only first")
    relative_norm_raw: float | None = Field(None, description="relative_norm with decoders in raw activation space")
    norm_share: float | None = Field(
        None, description="|d_t| / (|d_b| + |d_t|): the other convention of relative norms"
    )
    nearest_tuned: float | None = Field(None, description="largest cosine of its tuned decoder with a base decoder")
    nearest_base: float | None = Field(None, description="largest cosine of its base decoder with a tuned decoder")
    specific: float | None = Field(None, description="minus the summed ranks of |nu_error| and |nu_reconstruction|")
    base_to_shared: float | None = Field(None, description="of a tied triple: how often base fires per shared")
    tuned_to_shared: float | None = Field(None, description="of a tied triple: how often tuned fires per shared")
    exclusive_share: float | None = Field(
        None,
        description="of a tied triple's base or tuned latent: its firings as a share of its and the shared latent's",
    )
    tokens_up: Words = Field(description="tokens that the difference of the decoders promotes, strongest first")
    tokens_down: Words = Field(description="tokens that it suppresses, strongest first")
    tokens_up_tuned: Words = Field((), description="the same of the tuned decoder alone; where there are two decoders")
    tokens_down_tuned: Words = Field((), description="tokens that the tuned decoder suppresses")
    tokens_up_base: Words = Field((), description="the same of the base decoder alone; where there are two decoders")
    tokens_down_base: Words = Field((), description="tokens that the base decoder suppresses")


PATTERNS = (
    (r"beta_\w+", "latent scaling: least-squares factor of the latent's contribution on a target (Minder et al. 2025)"),
    (r"nu_\w+", "latent scaling: ratio of the other model's factor to the own model's (Minder et al. 2025)"),
    (r"specific_\w+", "minus the size of the nu of the same name: latents that the other model lacks first"),
    (
        r"match_cosine|unmatched|novel_energy",
        "of a pair of SAEs: cosine to the closest live latent of the other; what it leaves",
    ),
    (
        r"kl_attribution(_tuned)?",
        "measured by the engine, in no table: minus the slope of KL(reference || tuned) along the latent's direction, "
        "or along its tuned decoder (Aranguri, Drori & Nanda 2025)",
    ),
)
"""What families of columns mean, by the form of their names."""


def meaning(column: str) -> str:
    """What a column says; empty for one that a method brought without telling."""
    known = LatentRow.model_fields.get(column)
    if known is not None:
        return known.description or ""
    return next((text for form, text in PATTERNS if re.fullmatch(form, column)), "")
