"""Intervals over independent units: Student's t for means and for ratios of sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

LEAST_UNITS = 3
"""Below this number of units no interval is given."""


@lru_cache(maxsize=1024)
def t_quantile(freedom: int, level: float = 0.95) -> float:
    """Two-sided quantile of Student's t: P(|T| <= q) = ``level`` with ``freedom`` degrees of freedom."""
    if freedom < 1:
        raise ValueError(f"freedom must be at least 1, got {freedom}")
    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_central(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def t_central(q: float, freedom: int) -> float:
    """P(|T| <= q), by the finite sums over cos(theta) for integer degrees of freedom (Abramowitz & Stegun 26.7.3-4)."""
    theta = math.atan(q / math.sqrt(freedom))
    cosine, sine = math.cos(theta), math.sin(theta)
    if freedom == 1:
        return 2 * theta / math.pi
    term = total = cosine if freedom % 2 else 1.0
    for step in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= cosine * cosine * (step - 1) / step
        total += term
    return 2 / math.pi * (theta + sine * total) if freedom % 2 else sine * total


def mean_interval(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Mean and its 95% interval over independent units; None under three units."""
    n = len(values)
    if n < LEAST_UNITS:
        return None
    mean = math.fsum(values) / n
    half = t_quantile(n - 1) * math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    return mean, mean - half, mean + half


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float, float] | None:
    """Sum of numerators over sum of denominators and its 95% interval over units (linearised, t).

    Units of which both are 0 carry nothing and are left out; None under three units. A unit with a numerator alone
    counts, so that the value is the ratio of all sums.
    """
    pairs = [(a, b) for a, b in zip(numerators, denominators, strict=True) if a != 0 or b != 0]
    n = len(pairs)
    total = math.fsum(b for _, b in pairs)
    if n < LEAST_UNITS or total == 0:
        return None
    ratio = math.fsum(a for a, _ in pairs) / total
    spread = math.fsum((a - ratio * b) ** 2 for a, b in pairs) * n / (n - 1)
    half = t_quantile(n - 1) * math.sqrt(spread) / abs(total)
    return ratio, ratio - half, ratio + half
