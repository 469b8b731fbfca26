"""Proportion: exact intervals against published ones, and their coverage by summation."""

from __future__ import annotations

import math

import pytest

from diffbench.proportion import at_least, share_interval


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.3085),
        (1, 10, 0.0025, 0.4450),
        (5, 10, 0.1871, 0.8129),
        (10, 10, 0.6915, 1.0),
        (3, 60, 0.0104, 0.1392),
        (0, 60, 0.0, 0.0596),
        (1, 1, 0.025, 1.0),
    ],
)
def test_tables(hits: int, n: int, low: float, high: float) -> None:
    assert share_interval(hits, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_at_least_is_a_sum_of_binomials() -> None:
    for k, n, p in ((1, 5, 0.2), (3, 5, 0.7), (5, 5, 0.1), (40, 60, 0.5)):
        exact = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
        assert at_least(k, n, p) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("n", [3, 20, 36])
def test_never_less_than_95_per_cent_is_covered(n: int) -> None:
    """By summation over all outcomes, with no draw at all."""
    ends = [share_interval(k, n) for k in range(n + 1)]
    for p in (0.01, 0.05, 0.3, 0.5, 0.77, 0.99):
        covered = sum(
            math.comb(n, k) * p**k * (1 - p) ** (n - k) for k, (low, high) in enumerate(ends) if low <= p <= high
        )
        assert covered >= 0.95


def test_a_broken_number_of_hits_is_rounded_outwards() -> None:
    assert share_interval(1.5, 10) == (share_interval(1, 10)[0], share_interval(2, 10)[1])
    assert share_interval(2.9999999999, 10) == share_interval(3, 10)


@pytest.mark.parametrize(("hits", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_no_share(hits: float, n: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        share_interval(hits, n)
