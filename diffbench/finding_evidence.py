"""Finding evidence: all that is shown to a judge of one finding, and all that it is tested on. Holds no model.

Evidence is what a judge explains from; tests are contexts of other documents.
"""

from __future__ import annotations

from pydantic import Field

from diffbench.question import Evidence, Excerpt, Marked, Note, Tokens
from diffbench.truth import Schema

EVIDENCE = "evidence.parquet"
"""In a cell's folder: the evidence of its findings."""


class Steered(Schema):
    """A prompt, what the reference says after it, and what it says while the component is added to it."""

    prompt: Tokens
    plain: Tokens
    steered: Tokens


class FindingEvidence(Schema):
    """One finding."""

    rank: int = Field(ge=1)
    component: int = Field(ge=0)
    n_active: int = Field(ge=0, description="positions of the judge split at which the component is active")
    n_positions: int = Field(ge=0, description="positions of the judge split")
    evidence: Evidence
    tests: tuple[Excerpt, ...] = Field(
        (), description="as many active ones as inactive ones, in an order without sense"
    )
    marked_right: tuple[Marked, ...] = Field((), description="contexts marked where the component is active")
    marked_wrong: tuple[Marked, ...] = Field((), description="as many, marked elsewhere")
    steered: tuple[Steered, ...] = ()


def note_of(evidence: Evidence, explanation: str) -> Note:
    """What is known of a finding once it is explained."""
    return Note(
        explanation=explanation,
        tokens_up=evidence.tokens_up,
        tokens_down=evidence.tokens_down,
        kl_up=evidence.kl_up,
        kl_down=evidence.kl_down,
        effect=evidence.effect,
    )
