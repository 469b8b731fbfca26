"""Bias: what moves a judge's answer though it should not: order, length, and being asked again. Knows no judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from pydantic import Field

from diffbench.figure import Figure, mean_figure
from diffbench.kappa import Category
from diffbench.tally import Count
from diffbench.truth import Schema

SILENCE = "the judge answered none of these questions"


@dataclass(frozen=True, slots=True)
class Rotations:
    """What one judge picked for one account, when statements were rotated so that each stood once at each place.

    Attributes:
        picks: in rotation r, in which statement s stands at place (s - r) mod n: the place that was picked, or None.
        decided: whether one statement is right beyond doubt; it is the first of them.
    """

    picks: tuple[int | None, ...]
    decided: bool

    @property
    def statements(self) -> tuple[int | None, ...]:
        """What was picked, as the index of a statement."""
        n = len(self.picks)
        return tuple(None if place is None else (place + turn) % n for turn, place in enumerate(self.picks))

    def beyond_chance(self, place: int) -> float | None:
        """Share of the picks that fell on a place, less one n-th; None if nothing was picked.

        A judge that always picks the same statement meets it once at each place, and so has 0.
        """
        picked = [pick for pick in self.picks if pick is not None]
        return picked.count(place) / len(picked) - 1 / len(self.picks) if picked else None


class PositionBias(Schema):
    """What the order of statements does to the pick."""

    accounts: int = Field(description="of which every order was answered")
    changed: Figure = Field(description="share of the accounts for which the pick is not always the same statement")
    first: Figure = Field(description="share of picks of the first place less chance, mean over accounts")
    last: Figure = Field(description="the same of the last place")
    none: Figure = Field(description="share of orders in which no statement was picked, mean over accounts")
    right: Figure = Field(
        description="share of orders in which the right one was picked, over accounts of grade 3 and 4"
    )
    chance: Figure = Field(description="what `right` would be if a statement was drawn")


class VerbosityBias(Schema):
    """What sentences that say nothing do to the grade."""

    accounts: int = Field(description="that were answered with and without them")
    shift: Figure = Field(description="grade with them less grade without, mean over accounts that have both grades")
    changed: Figure = Field(description="share of the accounts whose grade is another one")
    raised: int
    lowered: int


class Consistency(Schema):
    """What asking again does to the grade."""

    repeats: int = Field(description="times that each question was asked")
    accounts: int = Field(description="that were answered each time")
    equal: Figure = Field(description="share of the accounts that got one grade each time")
    spread: Figure = Field(description="largest grade less smallest one, mean over accounts that never abstained")


def share(hits: int, n: int, reason: str = SILENCE) -> Figure:
    """``hits`` of ``n`` with Wilson's interval; undefined of nothing."""
    return Count(hits, n).figure if n else Figure.undefined(reason)


def bounded_mean(values: Sequence[float], reason: str = SILENCE) -> Figure:
    """The mean of shares with its t interval, which stays in range; undefined of nothing."""
    figure = signed_mean(values, reason)
    if figure.value is None or figure.low is None or figure.high is None:
        return figure
    return Figure.of(figure.value, max(0.0, figure.low), min(1.0, figure.high))


def signed_mean(values: Sequence[float], reason: str = SILENCE) -> Figure:
    """The mean of independent units with its t interval; undefined of nothing."""
    return mean_figure(values) if values else Figure.undefined(reason)


def position_bias(asked: Sequence[Rotations]) -> PositionBias:
    """Summarise rotations, each with all of its answers."""
    places = {
        at: [found for one in asked if (found := one.beyond_chance(at % len(one.picks))) is not None] for at in (0, -1)
    }
    decided = [one for one in asked if one.decided]
    return PositionBias(
        accounts=len(asked),
        changed=share(sum(len(set(one.statements)) > 1 for one in asked), len(asked)),
        first=signed_mean(places[0], "no statement was picked"),
        last=signed_mean(places[-1], "no statement was picked"),
        none=bounded_mean([one.picks.count(None) / len(one.picks) for one in asked]),
        right=bounded_mean([one.statements.count(0) / len(one.picks) for one in decided]),
        chance=Figure.of(fmean(1 / len(one.picks) for one in decided)) if decided else Figure.undefined(SILENCE),
    )


def verbosity_bias(asked: Sequence[tuple[Category, Category]]) -> VerbosityBias:
    """Summarise grades without and with sentences that say nothing."""
    both = [(plain, padded) for plain, padded in asked if plain is not None and padded is not None]
    return VerbosityBias(
        accounts=len(asked),
        shift=signed_mean([padded - plain for plain, padded in both], "no account was graded twice"),
        changed=share(sum(plain != padded for plain, padded in asked), len(asked)),
        raised=sum(padded > plain for plain, padded in both),
        lowered=sum(padded < plain for plain, padded in both),
    )


def consistency(asked: Sequence[tuple[Category, ...]], repeats: int) -> Consistency:
    """Summarise the grades of accounts that were asked about ``repeats`` times."""
    if repeats < 2:
        once = Figure.not_applicable("each question was asked once")
        return Consistency(repeats=repeats, accounts=len(asked), equal=once, spread=once)
    spreads = []
    for grades in asked:
        numbers = [grade for grade in grades if grade is not None]
        if len(numbers) == len(grades):
            spreads.append(float(max(numbers) - min(numbers)))
    return Consistency(
        repeats=repeats,
        accounts=len(asked),
        equal=share(sum(len(set(grades)) == 1 for grades in asked), len(asked)),
        spread=signed_mean(spreads, "no account was graded each time"),
    )
