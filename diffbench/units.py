"""Units: which repeats of a measurement are independent, and the mean and interval over the highest of them.

Method seeds are averaged within an organism seed, organism seeds within an organism, organisms within a family. The
unit is the highest of these of which there are at least three; an interval speaks of what was drawn at its unit and
not of what lies above it. With the same number of repeats everywhere Student's t over unit means covers exactly, for
normal effects at every level.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from diffbench.interval import LEAST_UNITS, mean_interval

Level = Literal["family", "organism", "organism seed", "method seed", "documents"]
PLURAL: dict[Level, str] = {
    "family": "families",
    "organism": "organisms",
    "organism seed": "organism seeds",
    "method seed": "method seeds",
    "documents": "documents",
}
LARGEST = 1e100
"""Numbers beyond it are no scores, and their squares would not be numbers."""
ROUNDING = 1e-12
"""Under it, of values up to 1, and under that share of larger ones, a difference is rounding and none."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One organism at one seed: where methods meet."""

    family: str
    organism: str
    seed: int

    def __str__(self) -> str:
        return f"{self.organism} seed {self.seed}"


Values = Mapping[Place, Mapping[int, float]]
"""What one row scored, by place and method seed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over units; no interval under three units, or where all of them are alike."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def alike(self) -> bool:
        """Whether there are enough units, and nothing in them to tell a spread by."""
        return self.low is None and self.n >= LEAST_UNITS


def level_of(places: Collection[Place], method_seeds: int) -> Level:
    """The highest level with at least three units; ``documents`` where there is none."""
    counts: dict[Level, int] = {
        "family": len({place.family for place in places}),
        "organism": len({(place.family, place.organism) for place in places}),
        "organism seed": len(places),
        "method seed": method_seeds if places else 0,
    }
    return next((level for level, n in counts.items() if n >= LEAST_UNITS), "documents")


def unit_means(values: Values, level: Level) -> dict[str, float]:
    """The mean of every unit.

    Method seeds as units stand across the places, of which all take part: a unit is a seed's mean over all places.
    At the level of documents there is one unit, the mean of all.
    """
    if level == "method seed":
        common = set.intersection(*(set(seeds) for seeds in values.values())) if values else set()
        return {
            str(seed): _over_places({place: seeds[seed] for place, seeds in values.items()}, "documents")["all"]
            for seed in sorted(common)
        }
    return _over_places({place: average(seeds.values()) for place, seeds in values.items() if seeds}, level)


def _over_places(values: Mapping[Place, float], level: Level) -> dict[str, float]:
    if level == "organism seed":
        return {str(place): value for place, value in sorted(values.items())}
    organisms: dict[tuple[str, str], list[float]] = {}
    for place, value in sorted(values.items()):
        organisms.setdefault((place.family, place.organism), []).append(value)
    if level == "organism":
        return {organism: average(found) for (_, organism), found in organisms.items()}
    families: dict[str, list[float]] = {}
    for (family, _), found in organisms.items():
        families.setdefault(family, []).append(average(found))
    means = {family: average(found) for family, found in families.items()}
    return means if level == "family" or not means else {"all": average(means.values())}


def estimate(units: Sequence[float]) -> Estimate:
    """Mean over units, with a 95% t interval where there is a spread to take it from.

    Raises:
        ValueError: if there is no unit.
    """
    if not units:
        raise ValueError("no unit, no mean")
    mean = average(units)
    found = mean_interval(units)
    if found is None or not varies(units):
        return Estimate(mean, None, None, len(units))
    return Estimate(mean, stable(found[1]), stable(found[2]), len(units))


def differences(first: Values, second: Values) -> Values:
    """First minus second, at the places and, where both have the same, the method seeds that they share.

    Seeds of two methods have nothing in common but their number. Where the numbers differ, means over the seeds are
    compared, so that no place is lost.
    """
    found: dict[Place, Mapping[int, float]] = {}
    for place in first.keys() & second.keys():
        one, other = first[place], second[place]
        if one.keys() == other.keys():
            found[place] = {seed: one[seed] - other[seed] for seed in one}
        else:
            found[place] = {0: average(one.values()) - average(other.values())}
    return found


def varies(values: Sequence[float]) -> bool:
    """Whether values differ by more than rounding."""
    return max(values) - min(values) > ROUNDING * max(1.0, *(abs(value) for value in values))


def average(values: Iterable[float]) -> float:
    """The mean, summed without rounding in between."""
    found = list(values)
    return math.fsum(found) / len(found)


def stable(value: float) -> float:
    """Twelve digits: mathematical libraries differ in the last ones, and files are to be the same on every machine."""
    return float(f"{value:.12g}")
