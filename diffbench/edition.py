"""Edition: versions of an organism's recipe. Rows of an older one stand beside a newer one's, but are not pooled.

A version is superseded where the same organism, at whatever seed, is there in a newer one against the same reference.
A pure function of the leaderboard's rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]
Edition = tuple[str, str, int]
"""Organism without its seed, reference, version."""


def kind_of(organism: str) -> str:
    """The organism without its seed: ``halfswap`` of ``halfswap@7``."""
    return organism.partition("@")[0]


def edition_of(row: Row) -> Edition:
    """The edition that a row, or the key of a section, is of."""
    return kind_of(str(row["organism"])), str(row["reference"]), int(row["organism_version"] or 0)


def superseded(rows: Iterable[Row]) -> dict[Edition, int]:
    """The superseded editions among rows, each with the version that took its place."""
    editions = {edition_of(row) for row in rows}
    newest: dict[tuple[str, str], int] = {}
    for kind, reference, version in editions:
        newest[kind, reference] = max(version, newest.get((kind, reference), version))
    return {each: newest[each[:2]] for each in sorted(editions) if each[2] < newest[each[:2]]}


def current(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of editions that nothing has superseded."""
    found = list(rows)
    gone = superseded(found)
    return [row for row in found if edition_of(row) not in gone] if gone else found
