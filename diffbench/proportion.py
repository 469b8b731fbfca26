"""Proportion: an exact 95% interval of a share (Clopper & Pearson 1934, Biometrika 26:404-413)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

STEPS = 60
"""Halvings of the unit interval: far below what anybody prints."""


@lru_cache(maxsize=4096)
def share_interval(hits: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Lower and upper end for ``hits`` of ``n`` independent units.

    Units that are means of several repeats may add up to a broken number of hits: it is rounded outwards, down for the
    lower end and up for the upper one, so that the interval is never too narrow.

    Raises:
        ValueError: unless 0 <= hits <= n and n > 0.
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} of {n} is no share")
    tail = (1 - level) / 2
    few, many = math.floor(hits + 1e-9), math.ceil(hits - 1e-9)
    low = 0.0 if few == 0 else _bisect(lambda p: at_least(few, n, p) < tail)
    high = 1.0 if many == n else _bisect(lambda p: 1 - at_least(many + 1, n, p) > tail)
    return low, high


def at_least(k: int, n: int, p: float) -> float:
    """P(X >= k) of a binomial, k >= 1 and 0 < p < 1, summed in logarithms."""
    odds = math.log(p) - math.log1p(-p)
    term = n * math.log1p(-p)
    total = []
    for i in range(1, n + 1):
        term += math.log((n - i + 1) / i) + odds
        if i >= k:
            total.append(math.exp(term))
    return min(1.0, math.fsum(total))


def _bisect(below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2
