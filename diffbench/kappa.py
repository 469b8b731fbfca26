"""Kappa: how far two graders agree beyond chance. Knows nothing of judges.

Cohen's kappa (Cohen 1960, Educational and Psychological Measurement 20:37-46) is 1 - D/E, where D is the mean
disagreement of the two grades of an item and E what it would be if the grades of one grader were shuffled. Weighted
kappa (Cohen 1968, Psychological Bulletin 70:213-220) gives pairs of grades a disagreement between 0 and 1.

The 95% interval is a delete-one jackknife over items (Efron & Tibshirani 1993, chapter 11) with Student's t.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from diffbench.figure import Figure
from diffbench.interval import LEAST_UNITS, t_quantile

Category = int | None
"""A grade; None: it abstains."""

CATEGORIES: tuple[Category, ...] = (0, 1, 2, 3, 4, None)
TOP = 4

Rating = tuple[Category, Category]
"""What is expected of an item, and what was given."""

Disagreement = Callable[[Category, Category], float]


def nominal(one: Category, other: Category) -> float:
    """0 for the same category, else 1."""
    return float(one != other)


def quadratic(one: Category, other: Category) -> float:
    """Squared distance of two grades, 1 between the ends; between a grade and an abstention 1, whatever the grade."""
    if one is None or other is None:
        return nominal(one, other)
    return ((one - other) / TOP) ** 2


def confusion(ratings: Sequence[Rating]) -> tuple[tuple[int, ...], ...]:
    """How often each category was given [column] where each was expected [row], both in the order of `CATEGORIES`."""
    counts = Counter(ratings)
    return tuple(tuple(counts[expected, given] for given in CATEGORIES) for expected in CATEGORIES)


def kappa(ratings: Sequence[Rating], disagreement: Disagreement) -> float | None:
    """Agreement beyond chance; None where chance alone must agree, or where there is nothing."""
    return _kappa(Counter(ratings), disagreement)


def kappa_figure(ratings: Sequence[Rating], disagreement: Disagreement) -> Figure:
    """Agreement beyond chance with its interval over items; undefined where chance alone must agree.

    There is no interval under three items, or where one item alone keeps chance from agreeing.
    """
    counts, n = Counter(ratings), len(ratings)
    value = _kappa(counts, disagreement)
    if value is None:
        return Figure.undefined("nothing to compare" if n == 0 else "all grades are one category")
    if n < LEAST_UNITS:
        return Figure.of(value)
    left_out: list[float] = []
    for rating, times in counts.items():
        without = _kappa(counts - Counter([rating]), disagreement)
        if without is None:
            return Figure.of(value)
        left_out += [without] * times
    mean = math.fsum(left_out) / n
    error = math.sqrt((n - 1) / n * math.fsum((each - mean) ** 2 for each in left_out))
    half = t_quantile(n - 1) * error
    return Figure.of(value, max(-1.0, value - half), min(1.0, value + half))


def _kappa(counts: Counter[Rating], disagreement: Disagreement) -> float | None:
    expected: Counter[Category] = Counter()
    given: Counter[Category] = Counter()
    for (one, other), times in counts.items():
        expected[one] += times
        given[other] += times
    n = counts.total()
    seen = math.fsum(times * disagreement(one, other) for (one, other), times in counts.items())
    chance = math.fsum(expected[one] * given[other] * disagreement(one, other) for one in expected for other in given)
    return None if chance == 0 else 1 - seen * n / chance
