"""Separation: which rows differ, where each may rank, and how many units more would tell two rows apart.

Paired t tests over the units two rows share, corrected over all pairs (Holm 1979, Scandinavian Journal of Statistics
6:65-70), so that the chance of even one false separation in a table is at most 5%. All that is said of ranks follows
from the separated pairs, and holds at once for all rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffbench.interval import LEAST_UNITS, t_central, t_quantile
from diffbench.units import ROUNDING, average, varies

LEVEL = 0.05
"""Chance of one false separation or more among all pairs of a table."""
POWER = 0.8
MOST_UNITS = 1000
"""No search for a number of units goes beyond it."""
MOST_LETTERS = 26
QUADRATURE = 801

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Paired:
    """Differences of two rows over the units that they share.

    Attributes:
        mean: of the differences; positive where the first row is higher.
        sd: their standard deviation; None under two units.
        p: two-sided; None where there is no test.
    """

    n: int
    mean: float
    sd: float | None
    p: float | None


@dataclass(frozen=True, slots=True)
class Judged:
    """What Holm's procedure says of one pair.

    Attributes:
        level: what its p had to stay under, had all smaller ones done so.
        separated: whether it did, and all smaller ones too.
    """

    level: float
    separated: bool


def paired(differences: Sequence[float], exchangeable: bool = True) -> Paired:
    """Test whether the mean of differences is 0.

    Differences that are all alike have no spread: there t has no meaning and the exact sign test stands in, with
    p = 2^(1 - n). Where units are repeats that need not differ by chance at all, as the seeds of methods that draw
    nothing at random, that would be counting one measurement often, and there is no test.

    Args:
        differences: one per unit, at least one.
        exchangeable: False for units whose likeness says nothing.
    """
    n, mean = len(differences), average(differences)
    if n < 2:
        return Paired(n, mean, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in differences) / (n - 1))
    if n < LEAST_UNITS:
        return Paired(n, mean, sd, None)
    if not varies(differences):
        return Paired(n, mean, 0.0, (1.0 if abs(mean) <= ROUNDING else 2.0 ** (1 - n)) if exchangeable else None)
    return Paired(n, mean, sd, max(0.0, 1 - t_central(abs(mean) / sd * math.sqrt(n), n - 1)))


def holm(tests: Mapping[Pair, Paired], level: float = LEVEL) -> dict[Pair, Judged]:
    """Judge all pairs of a table that have a test."""
    tested = sorted((test.p, pair) for pair, test in tests.items() if test.p is not None)
    judged, open_ = {}, True
    for place, (p, pair) in enumerate(tested):
        bound = level / (len(tested) - place)
        open_ = open_ and p <= bound
        judged[pair] = Judged(bound, open_)
    return judged


def ranks(n: int, tests: Mapping[Pair, Paired], judged: Mapping[Pair, Judged]) -> list[tuple[int, int]]:
    """Of every row the lowest and the highest rank that the separated pairs leave it; 1 is the highest mean."""
    better, worse = [0] * n, [0] * n
    for pair, verdict in judged.items():
        if verdict.separated:
            upper, lower = pair if tests[pair].mean > 0 else pair[::-1]
            better[lower] += 1
            worse[upper] += 1
    return [(1 + better[row], n - worse[row]) for row in range(n)]


def letters(n: int, judged: Mapping[Pair, Judged]) -> list[str] | None:
    """Tie groups: two rows share a letter exactly where they are not separated; None: more groups than letters.

    Insert and absorb (Piepho 2004, Journal of Computational and Graphical Statistics 13:456-466): a group that holds
    a separated pair is split in two, and groups that lie within others are dropped.
    """
    groups = [(1 << n) - 1] if n else []
    for first, second in sorted(pair for pair, verdict in judged.items() if verdict.separated):
        both = 1 << first | 1 << second
        split = [group for group in groups if group & both == both]
        if not split:
            continue
        kept = [group for group in groups if group & both != both]
        for part in {group & ~(1 << row) for group in split for row in (first, second)}:
            if not any(part & other == part for other in kept):
                kept = [other for other in kept if other & part != other] + [part]
        groups = kept
        if len(groups) > 4 * MOST_LETTERS:
            return None
    if len(groups) > MOST_LETTERS:
        return None
    groups.sort(key=lambda group: [row for row in range(n) if group >> row & 1])
    return [
        "".join(chr(ord("a") + index) for index, group in enumerate(groups) if group >> row & 1) for row in range(n)
    ]


def power(n: int, effect: float, level: float) -> float:
    """The chance that a two-sided paired t test of n units finds an effect of ``effect`` standard deviations.

    That is P(|(Z + d) / S| > t) with d = effect * sqrt(n) and S^2 a chi-squared over its n - 1 degrees of freedom,
    integrated over S.
    """
    freedom = n - 1
    bound, shift = t_quantile(freedom, 1 - level), effect * math.sqrt(n)
    width = 9 / math.sqrt(2 * freedom)
    spread = np.linspace(max(1e-9, 1 - width), 1 + width, QUADRATURE)
    log_density = (freedom - 1) * np.log(spread) - freedom * spread**2 / 2
    weight = np.exp(log_density - log_density.max())
    missed = [_normal(bound * s - shift) - _normal(-bound * s - shift) for s in spread.tolist()]
    return 1 - float(np.average(missed, weights=weight))


def units_needed(test: Paired, level: float) -> int | None:
    """Units with which the pair would be told apart with a power of .8, if it is as it was seen to be.

    None: more than `MOST_UNITS`, or no test. An effect that was seen by chance is seen too large: take the answer for
    a least number.
    """
    if test.p is None or test.sd is None or abs(test.mean) <= ROUNDING:
        return None
    if test.sd == 0:
        return 1 + math.ceil(-math.log2(level))  # of the sign test, which then stands in
    effect = abs(test.mean) / test.sd
    if power(MOST_UNITS, effect, level) < POWER:
        return None
    low, high = 2, MOST_UNITS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, effect, level) >= POWER else (middle, high)
    return high


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2
