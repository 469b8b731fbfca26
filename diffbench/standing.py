"""Standing: one table of methods over organisms, as data. Its field descriptions are the keys' documentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffbench.figure import Figure
from diffbench.truth import Schema
from diffbench.units import Level


class StandingRow(Schema):
    """One variant of a method over all places of a table."""

    label: str
    row: str = Field(description="the method, or method@ranking")
    variant: str = Field(description="digest of row, version and resolved options")
    kind: Literal["ranked", "control", "own track"] = Field(description="controls and own tracks are never ranked")
    baseline: bool = Field(description="a trivial row")
    verified: bool = Field(False, description="whether cells of it are a submission's, scored again from their Diffs")
    figure: Figure = Field(description="mean over units; n/a where the row misses places that others have")
    units: int = Field(description="units at which the row has the score")
    cells: int = Field(description="cells of the row at the places of the table")
    rank_low: int | None = Field(None, description="1 + number of rows that are significantly better")
    rank_high: int | None = Field(None, description="number of ranked rows - number that are significantly worse")
    group: str | None = Field(None, description="letters; rows that share one are not separated")
    lift: Figure = Field(description="over the best trivial row, chosen for each family on the others; positive=better")
    lift_over: tuple[str, ...] = Field((), description="the trivial rows that were chosen, most often first")
    lift_missed: tuple[str, ...] = Field(
        (), description="trivial rows that miss places of a family, and families that have no lift for that"
    )
    gaps: str | None = Field(None, description="places that the row misses, and why; it is compared on common ones")


class PairTest(Schema):
    """Two ranked rows, paired over the units that both have."""

    first: str
    second: str
    difference: Figure = Field(description="first minus second, with its own 95% interval")
    units: int
    p: float | None = Field(description="two-sided, paired t; null: no test under three units")
    level: float | None = Field(description="what p has to stay under by Holm's procedure")
    separated: bool
    units_needed: int | None = Field(
        None, description="of neighbours that are not separated: units for a power of .8; null: over 1000, or no test"
    )
    cells_more: int | None = Field(None, description="cells that each of the two rows then needs in addition")
    neighbours: bool = Field(description="whether the rows stand next to each other")


class Standing(Schema):
    """One table: one metric over the organisms of one pool."""

    scope: str = Field(description="'all organisms', or the one organism whose seeds it is about")
    reference: str
    tier: str
    judge: str
    terms: str = Field(description="digest of layer rule, budget and scoring code")
    metric: str = Field(description="a key of `columns`")
    higher_is_better: bool
    unit: Level | None = Field(
        description="what intervals and tests are over; documents: the record's own, and no test; null: too few of all"
    )
    units: int = Field(description="most units that a row has")
    families: int
    organisms: int
    places: int = Field(description="organisms at a seed")
    left_out: tuple[str, ...] = Field(
        (), description="places of these rows that at most half of the widest methods share, or nobody has a score at"
    )
    occasional: tuple[str, ...] = Field(
        (), description="rows that were run in less than three, and less than half, of the table's families"
    )
    rows: tuple[StandingRow, ...]
    pairs: tuple[PairTest, ...]
