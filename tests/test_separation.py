"""Separation: tests, Holm, ranks and letters by hand and by definition, and what they get wrong in many tables."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from diffbench.interval import t_quantile
from diffbench.separation import (
    LEVEL,
    MOST_UNITS,
    POWER,
    Judged,
    Pair,
    Paired,
    holm,
    letters,
    paired,
    power,
    ranks,
    units_needed,
)

TABLES = 2000
ERROR = 2.5 * math.sqrt(LEVEL * (1 - LEVEL) / TABLES)
"""Monte Carlo error of a rate of 5%, at 2.5 standard errors."""


def test_a_paired_test_by_hand() -> None:
    values = [1.0, 2.0, 3.0, 4.5]
    found = paired(values)
    assert (found.n, found.mean, found.sd) == (4, statistics.fmean(values), pytest.approx(statistics.stdev(values)))
    t = statistics.fmean(values) / (statistics.stdev(values) / 2)
    assert found.p == pytest.approx(2 * (1 - _t3(t)), abs=1e-12)
    assert paired([-value for value in values]).p == found.p
    # The reference itself, at the two-sided 5% and 1% quantiles of the tables.
    assert [2 * (1 - _t3(x)) for x in (3.182446, 5.840909)] == pytest.approx([0.05, 0.01], abs=1e-6)


def _t3(x: float) -> float:
    """Distribution of t with 3 degrees of freedom, in closed form."""
    y = x / math.sqrt(3)
    return 0.5 + (y / (1 + y * y) + math.atan(y)) / math.pi


def test_under_three_units_there_is_no_test() -> None:
    assert paired([1.0]) == Paired(1, 1.0, None, None)
    assert paired([1.0, 2.0]).p is None


def test_differences_that_are_all_alike_are_judged_by_their_signs() -> None:
    assert paired([1.0] * 7).p == 2 / 2**7
    assert paired([0.1 + 0.2, 0.3, 0.3]).p == 2 / 2**3
    assert paired([0.0] * 9).p == 1.0
    assert paired([1e-17, -3e-17, 5e-17, 4e-17]).p == 1.0, "rounding is no difference"
    assert paired([1e-5 + at * 1e-17 for at in range(4)]).p == 2 / 2**4
    assert paired([1.0] * 7, exchangeable=False).p is None


def judged(*separated: Pair, n: int = 0) -> dict[Pair, Judged]:
    pairs = itertools.combinations(range(n or 1 + max(itertools.chain(*separated))), 2)
    return {pair: Judged(0.05, pair in separated) for pair in pairs}


def test_holm_by_hand() -> None:
    tests = {(0, i): Paired(7, 1.0, 1.0, p) for i, p in enumerate((0.012, 0.2, 0.04, 0.016, None), start=1)}
    found = holm(tests)
    assert {pair[1]: each.level for pair, each in found.items()} == {
        1: 0.05 / 4,
        4: pytest.approx(0.05 / 3),
        3: 0.05 / 2,
        2: 0.05,
    }
    assert {pair[1] for pair, each in found.items() if each.separated} == {1, 4}  # .04 > .025 stops it
    later = holm({(0, 1): Paired(7, 1, 1, 0.03), (0, 2): Paired(7, 1, 1, 0.04)})
    assert not any(each.separated for each in later.values()), "once it stops, smaller bounds are not tried"
    assert holm({}) == {}


def test_ranks_by_hand() -> None:
    up, down = Paired(7, 1.0, 1.0, 0.0), Paired(7, -1.0, 1.0, 0.0)
    assert ranks(3, {}, {}) == [(1, 3)] * 3
    tests = {(0, 1): up, (0, 2): up, (1, 2): up}
    assert ranks(3, tests, judged((0, 2), n=3)) == [(1, 2), (1, 3), (2, 3)]
    assert ranks(3, tests, judged((0, 1), (0, 2), (1, 2))) == [(1, 1), (2, 2), (3, 3)]
    assert ranks(2, {(0, 1): down}, judged((0, 1))) == [(2, 2), (1, 1)]


def test_letters_by_hand() -> None:
    assert letters(0, {}) == []
    assert letters(3, {}) == ["a", "a", "a"]
    assert letters(3, judged((0, 2), n=3)) == ["a", "ab", "b"]
    assert letters(3, judged((0, 1), (0, 2), (1, 2))) == ["a", "b", "c"]
    # No order of means explains this one: the middle rows differ, the outer ones do not.
    assert letters(4, judged((0, 1), (1, 2), (2, 3), n=4)) == ["ab", "c", "a", "bc"]


@pytest.mark.parametrize("seed", range(30))
def test_rows_share_a_letter_exactly_where_they_are_not_separated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 10))
    apart = [pair for pair in itertools.combinations(range(n), 2) if rng.random() < rng.random()]
    found = letters(n, judged(*apart, n=n))
    assert found is not None
    for first, second in itertools.combinations(range(n), 2):
        assert bool(set(found[first]) & set(found[second])) == ((first, second) not in apart)
    assert all(found)


def test_more_groups_than_letters_are_none() -> None:
    everything = list(itertools.combinations(range(30), 2))
    assert letters(30, judged(*everything)) is None
    # Pairs that differ, one by one: 2^15 groups would be needed.
    assert letters(30, judged(*((2 * i, 2 * i + 1) for i in range(15)), n=30)) is None


@pytest.mark.parametrize(("n", "effect", "level", "known"), [(34, 0.5, 0.05, 0.8078), (15, 0.8, 0.05, 0.8213)])
def test_power_is_that_of_the_tables(n: int, effect: float, level: float, known: float) -> None:
    """Cohen 1988 and every program since: 34 pairs for d = .5, 15 for d = .8."""
    assert power(n, effect, level) == pytest.approx(known, abs=1e-4)
    assert power(n - 1, effect, level) < POWER < known


@pytest.mark.parametrize(("n", "effect", "level"), [(3, 2.0, 0.05), (7, 1.0, 0.01), (6, 0.0, 0.05), (7, 3.0, 0.001)])
def test_power_is_what_a_simulation_finds(n: int, effect: float, level: float) -> None:
    draws = np.random.default_rng(n).normal(effect, 1, (200_000, n))
    t = draws.mean(axis=1) / draws.std(axis=1, ddof=1) * math.sqrt(n)
    found = float((np.abs(t) > t_quantile(n - 1, 1 - level)).mean())
    assert power(n, effect, level) == pytest.approx(found, abs=3 * math.sqrt(0.25 / 200_000))


def test_units_needed_is_the_least_number_with_that_power() -> None:
    for mean, level in ((0.5, 0.05), (1.0, 0.01), (0.15, 0.05 / 45)):
        needed = units_needed(Paired(7, mean, 1.0, 0.5), level)
        assert needed is not None
        assert power(needed, mean, level) >= POWER > power(needed - 1, mean, level)
    assert units_needed(Paired(7, 0.5, 1.0, 0.5), 0.05) == units_needed(Paired(7, -0.5, 1.0, 0.5), 0.05) == 34


def test_some_rows_no_number_of_units_would_separate() -> None:
    assert units_needed(Paired(7, 0.01, 1.0, 0.9), 0.05) is None
    assert power(MOST_UNITS, 0.01, 0.05) < POWER
    assert units_needed(Paired(7, 0.0, 1.0, 1.0), 0.05) is None
    assert units_needed(Paired(2, 1.0, 1.0, None), 0.05) is None
    assert units_needed(Paired(3, 1.0, 0.0, 0.25), 0.05) == 6  # all alike: 2^(1 - 6) is the first under 5%


def table(rng: np.random.Generator, means: list[float], units: int) -> dict[Pair, Paired]:
    """Rows x units: what a unit does to all rows, and what it does to each."""
    shared = rng.normal(0, 0.2, units)
    scores = np.array(means)[:, None] + shared + rng.normal(0, 0.1, (len(means), units))
    return {
        (first, second): paired((scores[first] - scores[second]).tolist())
        for first, second in itertools.combinations(range(len(means)), 2)
    }


@pytest.mark.parametrize("units", [3, 7])
def test_one_false_separation_in_twenty_tables_at_most(units: int) -> None:
    rng, false = np.random.default_rng(units), 0
    for _ in range(TABLES):
        found = holm(table(rng, [0.0] * 6, units))
        false += any(each.separated for each in found.values())
    assert false / TABLES <= LEVEL + ERROR


def test_without_holm_there_would_be_many() -> None:
    rng = np.random.default_rng(0)
    false = sum(any(each.p < LEVEL for each in table(rng, [0.0] * 6, 7).values()) for _ in range(500))
    assert false / 500 > 0.2


def test_rank_intervals_hold_the_true_ranks_and_get_narrow() -> None:
    """Two rows are truly equal: either of the two places is true of both."""
    means = [0.5, 0.35, 0.35, 0.1, 0.05, -0.4]
    true = [{1}, {2, 3}, {2, 3}, {4}, {5}, {6}]
    rng, held, narrow, misled = np.random.default_rng(3), 0, 0, 0
    for _ in range(TABLES):
        tests = table(rng, means, 7)
        verdicts = holm(tests)
        spans = ranks(len(means), tests, verdicts)
        held += all(low <= min(place) and max(place) <= high for (low, high), place in zip(spans, true, strict=True))
        narrow += spans[0] == (1, 1)
        misled += any(
            each.separated and (tests[pair].mean > 0) != (means[pair[0]] > means[pair[1]])
            for pair, each in verdicts.items()
        )
    assert held / TABLES >= 0.95 - ERROR
    assert misled / TABLES <= LEVEL + ERROR
    assert narrow / TABLES > 0.05, "an interval that always held everything would be no answer"


def test_the_units_that_are_asked_for_do_separate() -> None:
    """At the number that `units_needed` names four tables in five tell the pair apart."""
    rng, level = np.random.default_rng(8), 0.05 / 15
    needed = units_needed(Paired(7, 0.2, 0.3, 0.1), level)
    assert needed is not None
    found = [paired(rng.normal(0.2, 0.3, needed).tolist()).p <= level for _ in range(TABLES)]
    assert POWER - 0.03 <= np.mean(found) <= POWER + 0.05
