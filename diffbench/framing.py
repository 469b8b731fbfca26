"""Framing: what it does to an agent to be told that something changed, measured on the same pair and seeds.

An agent that is told so names changes on pairs where there are none; by how much tells how far its accounts rest on
what it saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from diffbench.figure import Figure, mean_figure
from diffbench.game import Game
from diffbench.game_file import PlayedGame
from diffbench.truth import Schema


class Framing(Schema):
    """Differences of games that differ in the framing alone: presupposing minus neutral, paired by seed.

    Attributes:
        pairs: of games that both came to an account.
        games: all that could have been paired.
        changed: of the share of accounts that say that something changed.
        structured: of the score that needs no judge.
        confidence: of the agent's own confidence.
    """

    pairs: int
    games: int
    changed: Figure
    structured: Figure
    confidence: Figure


def framing(played: Sequence[PlayedGame]) -> Framing | None:
    """The effect of the framing on some games; None: they were not played under both."""
    by: dict[int, dict[bool, PlayedGame]] = {}
    for one in played:
        by.setdefault(one.game.seed, {})[one.game.presuppose] = one
    both = [(found[True], found[False]) for found in by.values() if len(found) == 2]
    if not both:
        return None
    held = [(one, other) for one, other in both if one.game.account and other.game.account]
    return Framing(
        pairs=len(held),
        games=len(both),
        changed=_mean([_says_changed(one.game) - _says_changed(other.game) for one, other in held]),
        structured=_mean([_minus(one, other, "structured") for one, other in held]),
        confidence=_mean([_minus(one, other, "confidence") for one, other in held]),
    )


def _says_changed(game: Game) -> float:
    return float(game.account is not None and game.account.verdict == "changed")


def _minus(one: PlayedGame, other: PlayedGame, what: Literal["structured", "confidence"]) -> float | None:
    values = [_value(each, what) for each in (one, other)]
    return None if None in values else values[0] - values[1]  # type: ignore[operator]


def _value(played: PlayedGame, what: Literal["structured", "confidence"]) -> float | None:
    match = played.score.match
    return match.structured.value if what == "structured" else match.confidence


def _mean(values: Sequence[float | None]) -> Figure:
    known = [value for value in values if value is not None]
    return mean_figure(known) if known else Figure.undefined("no two games of one seed have it under both framings")
