"""Trivial rows: the lift of a row over the best cheap baseline, which is chosen on other families than it is taken on.

Choosing the best of several baselines on the families where it is then compared would make it look better than it is,
and the lift worse; choosing it once for all would hide that another one is best elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffbench.figure import Figure
from diffbench.units import Values, average, differences, estimate, stable, unit_means

LEAST_FAMILIES = 2


@dataclass(frozen=True, slots=True)
class Lift:
    """A row's lift and the baselines it was taken over, by how often they were chosen."""

    figure: Figure
    over: tuple[str, ...]


def lift(values: Values, baselines: Sequence[tuple[str, Values]], sign: int) -> Lift:
    """Mean over families of a row minus the baseline that is best on the other families, with a paired t interval.

    Args:
        values: of the row.
        baselines: label and scores of every trivial row but the row itself.
        sign: -1 for a score of which less is better; a lift is positive where the row is the better one.
    """
    places = {place for _, found in baselines for place in found}
    complete = [(label, found) for label, found in baselines if found.keys() == places and found]
    if not complete:
        reason = "no trivial row has this score" if not places else "no trivial row has this score on every organism"
        return Lift(Figure.not_applicable(reason), ())
    families = {place.family for place in places}
    if len(families) < LEAST_FAMILIES:
        reason = "the best trivial row is chosen on other families, and there is one family"
        return Lift(Figure.not_applicable(reason), ())
    means = [(label, found, unit_means(found, "family")) for label, found in complete]
    gains, chosen = [], []
    for family in sorted(families):
        here = {place: seeds for place, seeds in values.items() if place.family == family}
        label, best, _ = max(
            means, key=lambda each: sign * average(mean for other, mean in each[2].items() if other != family)
        )
        gain = unit_means(differences(here, best), "family")
        if gain:
            gains.append(sign * gain[family])
            chosen.append(label)
    over = tuple(sorted(set(chosen), key=lambda label: (-chosen.count(label), label)))
    if len(gains) < LEAST_FAMILIES:
        return Lift(Figure.not_applicable("scores on fewer than two families that a trivial row has"), over)
    found = estimate(gains)
    return Lift(Figure.of(stable(found.mean), found.low, found.high), over)
