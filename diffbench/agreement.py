"""Agreement: what the method seeds of one row have in common. An error floor that needs no truth.

Two seeds of a method look at the same pair: what they do not agree on is not what the fine-tuning did. Pairs of seeds
are not independent, so a mean over pairs has the interval of a jackknife over seeds, from three seeds on.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from diffbench.figure import Figure
from diffbench.truth import Schema

MATCHED_AT = 0.7
"""Cosine from which on two directions are called the same."""
TOP, FIRST = 32, 10
"""Components that are matched, and findings whose words are compared."""
SPANS = (1, 2, 4, 8, 32)
"""How many of the first directions span the subspaces that are compared."""


class Matching(Schema):
    """The first components of one seed, each beside the direction of the other seed that is nearest to it."""

    cosine: Figure = Field(description="largest |cosine| to any direction of the other seed: mean, both ways")
    share: Figure = Field(description="share of the first components with a |cosine| of .7 or more")
    chance_cosine: Figure = Field(description="the same for as many random directions of the same width")
    chance_share: Figure


class Span(Schema):
    """The subspaces that the first ``k`` directions span."""

    k: int
    overlap: Figure = Field(description="||Q_a^T Q_b||_F^2 over the larger of the two ranks; 1: the same subspace")
    chance: Figure = Field(description="what random subspaces of these ranks come to: k/d")


class Activity(Schema):
    """Of components without a direction in the stream: where they are at work on held-out text."""

    spearman: Figure = Field(description="best rank correlation of |activity| with a component of the other seed")
    chance: Figure = Field(description="the same with the positions of the other seed shuffled")


class Words(Schema):
    """The tokens that the first ten findings name, and whether they name them up or down."""

    jaccard: Figure = Field(description="tokens that both seeds name over those that either names")
    control: Figure = Field(description="the same with the random dictionary's findings in the place of the other seed")


class Contradictions(Schema):
    """What two seeds say of the same thing, and cannot both be right about."""

    matched: int = Field(description="pairs of findings of two seeds whose directions have a cosine of .7 or more")
    contradicting: int = Field(description="those in which a token is named up by one seed and down by the other")
    examples: tuple[str, ...] = Field((), max_length=5, description="such tokens")
    verdicts: dict[str, int] = Field(description="how many seeds give each verdict")
    verdicts_differ: Figure = Field(description="share of the pairs of seeds whose verdicts differ")


class Agreement(Schema):
    """All that seeds are compared by."""

    kind: str = Field(description="of the Diffs: dictionary, direction, weight or output")
    n_components: tuple[int, ...] = Field(description="of each seed")
    matching: Matching
    spans: tuple[Span, ...]
    activity: Activity
    words: Words
    contradictions: Contradictions


class ConsistencyFile(Schema):
    """A file of ``runs/NAME/consistency``: one row of a table and its method seeds."""

    schema_version: Literal[1] = 1
    key: str = Field(description="SHA-256 of the Diffs that were compared and of the code that did")
    organism: str
    organism_version: int
    reference: str
    tier: str
    pair: str = Field(description="SHA-256 of everything the pair follows from")
    method: str
    method_version: int
    ranking: str | None
    options: dict[str, Any]
    control: bool
    seeds: tuple[int, ...] = Field(min_length=2)
    fits: tuple[str | None, ...] = Field(description="SHA-256 of everything each seed's Diff follows from")
    agreement: Agreement

    @property
    def row(self) -> str:
        """By what tables tell its row: the method, or ``method@ranking``."""
        return self.method if self.ranking is None else f"{self.method}@{self.ranking}"
