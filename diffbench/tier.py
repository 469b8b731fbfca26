"""Tier: the budget that every method of a table shares, so that scores are compared at equal cost."""

from __future__ import annotations

from pydantic import Field

from diffbench.errors import UnknownName
from diffbench.truth import Schema

COMPONENT_BUDGETS = (1, 2, 4, 8)
"""Components at which R at affected positions is compared with PCA's."""


class Tier(Schema):
    """What a cell may use, and how much text it is scored on."""

    name: str
    tokens: int = Field(gt=0, description="harvested training tokens a method may read, each as often as it likes")
    components: int = Field(gt=0, description="most components a Diff may hold")
    seconds: float = Field(gt=0, description="wall time of the method process")
    memory_mb: int | None = Field(None, gt=0, description="memory that the method process may take; None: no limit")
    evaluation_tokens: int = Field(gt=0, description="tokens of held-out text that causal scores run on")
    judge_tokens: int = Field(gt=0, description="tokens of held-out text that a judge's contexts come from")


TIERS = {
    tier.name: tier
    for tier in (
        Tier(
            name="smoke",
            tokens=20_000,
            components=2048,
            seconds=60,
            memory_mb=8192,
            evaluation_tokens=4_000,
            judge_tokens=8_000,
        ),
        Tier(
            name="laptop",
            tokens=250_000,
            components=4096,
            seconds=300,
            memory_mb=8192,
            evaluation_tokens=20_000,
            judge_tokens=40_000,
        ),
        Tier(
            name="workstation",
            tokens=2_000_000,
            components=32768,
            seconds=3600,
            evaluation_tokens=100_000,
            judge_tokens=200_000,
        ),
    )
}


def find_tier(name: str) -> Tier:
    """The tier of that name.

    Raises:
        UnknownName: listing the tiers there are.
    """
    if name not in TIERS:
        raise UnknownName("tier", name, TIERS)
    return TIERS[name]
