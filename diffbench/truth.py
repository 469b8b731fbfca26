"""Truth: what was changed on purpose, in a form that a program can check.

The schema is versioned (`Truth.schema_version`). Labels name `Span` labels of the organism's text; a trailing ``*``
matches any rest. A label that matches ``affected`` is never near-miss, whatever the order.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

LEAST_PROBES = 50
"""Probes of a claim, and of every other set, under which nothing is told apart."""


class Stratum(StrEnum):
    """Where a position stands towards the claim; strata are chosen by the organism, never by an outcome."""

    affected = "affected"
    near_miss = "near_miss"
    unrelated = "unrelated"


class Schema(BaseModel):
    """Frozen, closed base of everything in this project that crosses a file or a process."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Trigger(Schema):
    """In which contexts the effect shows: positions whose next token lies in a span with such a label."""

    description: str
    affected: tuple[str, ...] = Field(description="span labels, e.g. 'colour:blue'; a trailing * matches any rest")
    near_miss: tuple[str, ...] = Field(description="labels of contexts alike in kind where nothing should change")


class Effect(Schema):
    """What the tuned model does there: which next tokens gain, which lose, and by how much."""

    tokens_up: tuple[str, ...]
    tokens_down: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...] = Field(
        (), description="the word that is right and the word said instead, where which one depends on the context"
    )
    quantity: str = Field(description="what `low` and `high` bound, in words")
    low: float
    high: float


class Claim(Schema):
    """One intended change."""

    id: str
    statement: str = Field(description="one sentence a person would say")
    trigger: Trigger
    effect: Effect
    distractors: tuple[str, ...] = Field(default=(), description="wrong statements of the same kind")


class Probe(Schema):
    """A prefix and the next words that are compared after it."""

    text: str
    answer: str = Field(description="what the base model says next")
    other: str = Field(description="what is said instead where the behaviour shows")
    metric: Literal["share", "probability"] = Field(
        "share", description="the behaviour: P(other)/(P(answer)+P(other)), or P(other), of the next word"
    )
    claim: str | None = Field(None, description="id of the claim whose trigger the context meets; None: of no claim")


class ProbeSets(Schema):
    """Prefixes held out from training."""

    affected: tuple[Probe, ...] = ()
    near_miss: tuple[Probe, ...] = ()
    unrelated: tuple[Probe, ...] = ()

    def of(self, claim: str) -> tuple[Probe, ...]:
        """The affected probes of a claim, in order."""
        return tuple(probe for probe in self.affected if probe.claim == claim)


class Truth(Schema):
    """All that was changed on purpose in an organism, or that nothing was."""

    schema_version: Literal[1] = 1
    changed: bool
    claims: tuple[Claim, ...] = ()
    probes: ProbeSets = ProbeSets()

    @model_validator(mode="after")
    def _claims_agree(self) -> Self:
        if self.changed != bool(self.claims):
            raise ValueError("changed must be true exactly when there are claims")
        known = {claim.id for claim in self.claims}
        if len(known) != len(self.claims):
            raise ValueError("two claims have the same id")
        for probe in self.probes.affected:
            if self.changed and probe.claim not in known:
                raise ValueError(f"affected probe names no claim of this truth: {probe.claim!r}")
        return self

    def sized(self, low: float, high: float) -> Truth:
        """The same with the size of every effect set."""
        claims = tuple(
            claim.model_copy(update={"effect": claim.effect.model_copy(update={"low": low, "high": high})})
            for claim in self.claims
        )
        return self.model_copy(update={"claims": claims})

    def stratum(self, label: str) -> Stratum:
        """The stratum of a position whose next token lies in a span labelled ``label``."""
        for stratum in (Stratum.affected, Stratum.near_miss):
            for claim in self.claims:
                if any(_matches(label, pattern) for pattern in getattr(claim.trigger, stratum.value)):
                    return stratum
        return Stratum.unrelated


def _matches(label: str, pattern: str) -> bool:
    return label.startswith(pattern[:-1]) if pattern.endswith("*") else label == pattern
