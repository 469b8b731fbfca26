"""Edition: which rows count where several are put together: of the newest version of an organism, and trusted ones.

A version is superseded where the same organism, at whatever seed, is there in a newer one against the same reference.
Rows of a submission that nobody scored again supersede nothing, and are pooled with nothing. A pure function of the
leaderboard's rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]
Edition = tuple[str, str, int]
"""Organism without its seed, reference, version."""
UNVERIFIED = "unverified"
"""Value of the column ``verified`` of rows that nobody but their submitter vouches for."""


def kind_of(organism: str) -> str:
    """The organism without its seed: ``halfswap`` of ``halfswap@7``."""
    return organism.partition("@")[0]


def edition_of(row: Row) -> Edition:
    """The edition that a row, or the key of a section, is of."""
    return kind_of(str(row["organism"])), str(row["reference"]), int(row["organism_version"] or 0)


def trusted(row: Row) -> bool:
    """Whether a row is one's own, or was scored again; one of which nothing is known is one's own."""
    return row.get("verified") != UNVERIFIED


def superseded(rows: Iterable[Row]) -> dict[Edition, int]:
    """The superseded editions among rows, each with the version that took its place: that of a row that is trusted."""
    found = list(rows)
    newest: dict[tuple[str, str], int] = {}
    for kind, reference, version in {edition_of(row) for row in found if trusted(row)}:
        newest[kind, reference] = max(version, newest.get((kind, reference), version))
    return {
        each: newest[each[:2]]
        for each in sorted({edition_of(row) for row in found})
        if each[2] < newest.get(each[:2], each[2])
    }


def current(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trusted rows of editions that nothing has superseded."""
    found = [row for row in rows if trusted(row)]
    gone = superseded(found)
    return [row for row in found if edition_of(row) not in gone] if gone else found
