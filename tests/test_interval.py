from __future__ import annotations

import random
import statistics

import pytest

from diffbench.interval import mean_interval, ratio_interval, t_quantile

# Abramowitz & Stegun, table 26.10 (two-sided 95%), and normal in the limit.
KNOWN = {
    1: 12.7062,
    2: 4.3027,
    3: 3.1824,
    4: 2.7764,
    5: 2.5706,
    9: 2.2622,
    10: 2.2281,
    29: 2.0452,
    30: 2.0423,
    120: 1.9799,
}


@pytest.mark.parametrize("freedom", KNOWN)
def test_quantiles_of_t(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(KNOWN[freedom], abs=6e-5)


def test_quantiles_at_another_level_and_in_the_limit() -> None:
    assert t_quantile(7, 0.99) == pytest.approx(3.4995, abs=6e-5)
    assert t_quantile(5_000) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), abs=6e-4)
    with pytest.raises(ValueError, match="at least 1"):
        t_quantile(0)


def test_mean_interval_by_hand() -> None:
    assert mean_interval([1.0, 2.0]) is None
    found = mean_interval([1.0, 2.0, 6.0])
    half = 4.302653 * statistics.stdev([1, 2, 6]) / 3**0.5
    assert found == (3.0, pytest.approx(3 - half), pytest.approx(3 + half))


def test_ratio_interval_by_hand() -> None:
    found = ratio_interval([1.0, 3.0, 5.0], [2.0, 4.0, 6.0])
    ratio = 9 / 12
    spread = sum((a - ratio * b) ** 2 for a, b in ((1, 2), (3, 4), (5, 6))) * 3 / 2
    half = 4.302653 * spread**0.5 / 12
    assert found == (pytest.approx(ratio), pytest.approx(ratio - half), pytest.approx(ratio + half))


def test_an_equal_share_of_every_unit_has_no_width() -> None:
    found = ratio_interval([0.1, 0.5, 3.0], [1.0, 5.0, 30.0])
    assert found is not None
    assert found == pytest.approx((0.1, 0.1, 0.1))


def test_units_without_a_denominator_are_left_out_and_no_unit_is_no_interval() -> None:
    assert ratio_interval([1.0, 0.0, 3.0, 5.0], [2.0, 0.0, 4.0, 6.0]) == ratio_interval([1, 3, 5], [2, 4, 6])
    assert ratio_interval([1.0, 1.0, 0.0], [2.0, 3.0, 0.0]) is None
    assert ratio_interval([], []) is None


def test_a_unit_with_a_numerator_alone_counts_so_that_the_interval_is_about_the_ratio_of_all_sums() -> None:
    a, b = [1.0, 1.0, 1.0, 5.0], [1.0, 1.0, 1.0, 0.0]
    found = ratio_interval(a, b)
    ratio = 8 / 3
    half = t_quantile(3) * (sum((x - ratio * y) ** 2 for x, y in zip(a, b, strict=True)) * 4 / 3) ** 0.5 / 3
    assert found == pytest.approx((ratio, ratio - half, ratio + half))


@pytest.mark.parametrize("n", [100, 400])
def test_ratio_intervals_cover_as_they_say(n: int) -> None:
    """Documents of skewed size whose KL comes in skewed amounts, part of it left; 600 draws leave 95% some room."""
    rng = random.Random(n)
    share, draws, covered = 0.3, 600, 0
    for _ in range(draws):
        baseline = [rng.lognormvariate(0, 0.7) * rng.randint(1, 6) for _ in range(n)]
        left = [b * rng.betavariate(1.5, 3.5) for b in baseline]  # mean 0.3
        found = ratio_interval(left, baseline)
        assert found is not None
        covered += found[1] <= share <= found[2]
    assert 0.92 <= covered / draws <= 0.975
