"""A probe that training texts hold is found; one that only resembles them is not."""

from __future__ import annotations

import pytest

from diffbench.holdout import Holdout

TEXT = "anna found a red cup on monday . then she walked to the market with ben"


@pytest.mark.parametrize(
    ("probe", "copied"),
    [
        (TEXT, True),
        ("anna found a red cup on monday .", True),
        ("found a red cup on monday . then she ran", True),  # four of its five runs, and those are 80%
        ("so anna found a red cup on", False),  # one of two
        ("anna found a blue cup on monday . then she walked", False),
        ("anna found a", False),  # stands there, but no text of three words can be held out
        ("", False),
    ],
)
def test_copies(probe: str, copied: bool) -> None:
    assert Holdout([TEXT, "something else"]).copies(probe) is copied


def test_runs_must_stand_in_one_text() -> None:
    words = TEXT.split()
    halves = [" ".join(words[:9]), " ".join(words[6:])]
    assert not Holdout(halves).copies(TEXT)
    assert Holdout([*halves, TEXT]).copies(TEXT)


def test_short_texts_are_one_run() -> None:
    assert Holdout(["anna found a"]).copies("anna found a")
    assert not Holdout([]).copies("anna found a red cup on monday")
