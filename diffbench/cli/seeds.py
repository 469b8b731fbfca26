"""``--organism-seeds``: which fresh organisms of a kind a command is about."""

from __future__ import annotations

import re
from typing import Any

import click

MOST = 10_000


class SeedRange(click.ParamType[tuple[int, ...]]):
    """Whole numbers and ranges, such as ``1-60`` or ``3,5,8``."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The seeds, in the order in which they are written."""
        if isinstance(value, tuple):
            return value
        seeds: list[int] = []
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*(\d{1,19})(?:-(\d{1,19}))?\s*", part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if not first <= last < 1 << 62 or last - first >= MOST:
                self.fail(f"{part!r}: write seeds as 7, as 1-60, or as 3,5,8; at most {MOST} of them.", param, ctx)
            seeds += range(first, last + 1)
        return tuple(dict.fromkeys(seeds))


organism_seeds = click.option(
    "--organism-seeds",
    type=SeedRange(),
    default=(),
    metavar="SEEDS",
    help="Fresh organisms of these kinds, unseen before: 7, 1-60 or 3,5,8. A seed that nobody knows makes private "
    "ones.  [default: the public organisms]",
)
