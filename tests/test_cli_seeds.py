"""``--organism-seeds``: numbers and ranges."""

from __future__ import annotations

import click
import pytest

from diffbench.cli.seeds import SeedRange


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("7", (7,)), ("1-4", (1, 2, 3, 4)), ("3, 5,8", (3, 5, 8)), ("2-3,3,1", (2, 3, 1)), ("0", (0,))],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert SeedRange().convert(text, None, None) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "4-2", "1-", "1..3", "1-99999999", str(1 << 62), "1,,2"])
def test_what_are_no_seeds(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write seeds as 7, as 1-60, or as 3,5,8"):
        SeedRange().convert(text, None, None)
