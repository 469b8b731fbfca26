"""Trivial rows: the lift of a row over the best cheap baseline, which is chosen on other families than it is taken on.

Choosing the best of several baselines on the families where it is then compared would make it look better than it is,
and the lift worse; choosing it once for all would hide that another one is best elsewhere. A baseline that misses a
place steps back for that family alone: left out everywhere, one failed cell of the best would flatter every row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from diffbench.figure import Figure
from diffbench.units import Place, Values, average, differences, estimate, stable, unit_means

LEAST_FAMILIES = 2


@dataclass(frozen=True, slots=True)
class Lift:
    """A row's lift and the baselines it was taken over.

    Attributes:
        figure: the lift.
        over: labels of those that were chosen, most often first.
        missed: what baselines miss, and families that give no gain for that.
    """

    figure: Figure
    over: tuple[str, ...]
    missed: tuple[str, ...] = ()


def lift(values: Values, baselines: Sequence[tuple[str, Values]], sign: int) -> Lift:
    """Mean over families of a row minus the baseline that is best on the other families, with a paired t interval.

    Of a family those baselines are to choose from that have all of its places that any has. They are compared on the
    other families of which all of them have all places.

    Args:
        values: of the row.
        baselines: label and scores of every trivial row but the row itself.
        sign: -1 for a score of which less is better; a lift is positive where the row is the better one.
    """
    families: dict[str, set[Place]] = {}
    for place in (place for _, found in baselines for place in found):
        families.setdefault(place.family, set()).add(place)
    if len(families) < LEAST_FAMILIES:
        reason = "the best trivial row is chosen on other families, and there is one family"
        return Lift(Figure.not_applicable(reason if families else "no trivial row has this score"), ())
    gains, chosen, missed = [], [], _missed(baselines, families)
    for family in sorted(families):
        best = _best(family, baselines, families, sign)
        if isinstance(best, str):
            missed.append(f"{family} has no lift: {best}")
            continue
        label, found = best
        here = {place: seeds for place, seeds in values.items() if place.family == family}
        gain = unit_means(differences(here, found), "family")
        if gain:
            gains.append(sign * gain[family])
            chosen.append(label)
    over = tuple(sorted(set(chosen), key=lambda label: (-chosen.count(label), label)))
    if len(gains) < LEAST_FAMILIES:
        reason = "scores on fewer than two families that a trivial row has"
        return Lift(Figure.not_applicable(reason), over, tuple(missed))
    mean = estimate(gains)
    return Lift(Figure.of(stable(mean.mean), mean.low, mean.high), over, tuple(missed))


def _has(found: Values, places: Collection[Place]) -> bool:
    return found.keys() >= set(places)


def _missed(baselines: Sequence[tuple[str, Values]], families: Mapping[str, Collection[Place]]) -> list[str]:
    lines = []
    for label, found in baselines:
        short = [family for family, places in sorted(families.items()) if not _has(found, places)]
        if found and short:
            lines.append(f"{label} is not compared on {', '.join(short)}")
    return lines


def _best(
    family: str, baselines: Sequence[tuple[str, Values]], families: Mapping[str, Collection[Place]], sign: int
) -> tuple[str, Values] | str:
    """The baseline that a family is compared with, chosen on the other families; or why there is none."""
    able = [(label, found) for label, found in baselines if _has(found, families[family])]
    if not able:
        return "no trivial row has all of its organisms"
    common = [
        other
        for other, places in sorted(families.items())
        if other != family and all(_has(found, places) for _, found in able)
    ]
    if not common:
        return "its trivial rows share no other family to choose the best on"

    def height(each: tuple[str, Values]) -> float:
        means = unit_means({place: seeds for place, seeds in each[1].items() if place.family in common}, "family")
        return sign * average(means.values())

    return max(able, key=height)
