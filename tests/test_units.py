"""Units: the hierarchy by hand, and the coverage of the intervals at the sizes of design that are used."""

from __future__ import annotations

import numpy as np
import pytest
from study_factory import drawn

from diffbench.interval import mean_interval
from diffbench.units import Level, Place, Values, differences, estimate, level_of, stable, unit_means, varies

REPETITIONS = 4000
COVERED = (0.92, 0.97)
"""What a 95% interval must cover; its Monte Carlo error here is 2 * sqrt(.95 * .05 / 4000) = .007."""
CATALOGUE = (3, 4, 2, 16, 3, 4)
"""Changed organisms of the bundled families: colours, facts, chat, backdoor, quirk, composite."""


def places(families: int, organisms: int, seeds: int) -> list[Place]:
    return [
        Place(f"f{family}", f"o{family}.{organism}", seed)
        for family in range(families)
        for organism in range(organisms)
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(
    ("shape", "method_seeds", "level"),
    [
        ((7, 3, 3), 3, "family"),
        ((3, 1, 1), 1, "family"),
        ((2, 2, 5), 5, "organism"),
        ((1, 3, 1), 1, "organism"),
        ((2, 1, 2), 9, "organism seed"),
        ((1, 1, 3), 3, "organism seed"),
        ((1, 1, 2), 3, "method seed"),
        ((1, 1, 1), 3, "method seed"),
        ((1, 1, 1), 2, "documents"),
        ((1, 2, 1), 1, "documents"),
        ((0, 0, 0), 5, "documents"),
    ],
)
def test_the_unit_is_the_highest_of_which_there_are_three(
    shape: tuple[int, int, int], method_seeds: int, level: Level
) -> None:
    assert level_of(places(*shape), method_seeds) == level


TREE: Values = {
    Place("a", "a1", 0): {0: 1.0, 1: 3.0},  # 2
    Place("a", "a1", 1): {0: 4.0},  # so a1 = 3
    Place("a", "a2", 0): {0: 9.0, 1: 9.0},  # a = 6
    Place("b", "b1", 0): {0: 0.0, 1: 2.0},  # b = 1
}


def test_what_lies_below_a_unit_is_averaged_level_by_level() -> None:
    assert unit_means(TREE, "family") == {"a": 6.0, "b": 1.0}
    assert unit_means(TREE, "organism") == {"a1": 3.0, "a2": 9.0, "b1": 1.0}
    assert unit_means(TREE, "organism seed") == {"a1 seed 0": 2.0, "a1 seed 1": 4.0, "a2 seed 0": 9.0, "b1 seed 0": 1.0}
    assert unit_means(TREE, "documents") == {"all": 3.5}


def test_method_seeds_stand_across_all_places() -> None:
    assert unit_means(TREE, "method seed") == {"0": pytest.approx(((1 + 4) / 2 + 9) / 4)}  # seed 1 was not run at a1@1
    whole = {place: seeds for place, seeds in TREE.items() if len(seeds) == 2}
    assert unit_means(whole, "method seed") == {"0": (5.0 + 0.0) / 2, "1": (6.0 + 2.0) / 2}
    assert unit_means({}, "method seed") == unit_means({}, "family") == unit_means({}, "documents") == {}


def test_many_seeds_of_one_family_weigh_no_more_than_one() -> None:
    many: Values = {place: {0: 1.0} for place in places(1, 1, 50)} | {Place("g", "g", 0): {0: 0.0}}
    assert estimate(list(unit_means(many, "family").values())).mean == 0.5


def test_an_interval_by_hand_and_none_under_three_or_where_all_are_alike() -> None:
    found = estimate([1.0, 2.0, 6.0])
    assert (found.mean, found.n) == (3.0, 3)
    assert mean_interval([1.0, 2.0, 6.0]) == (3.0, pytest.approx(found.low), pytest.approx(found.high))
    assert (estimate([1.0, 2.0]).low, estimate([1.0, 2.0]).alike) == (None, False)
    alike = estimate([0.1 + 0.2, 0.3, 0.3, 0.3])
    assert (alike.mean, alike.low, alike.alike) == (pytest.approx(0.3), None, True)
    with pytest.raises(ValueError, match="no unit"):
        estimate([])


def test_differences_are_taken_where_both_have_a_score() -> None:
    one: Values = {Place("a", "a", 0): {0: 5.0, 1: 7.0}, Place("b", "b", 0): {0: 1.0}}
    other: Values = {Place("a", "a", 0): {0: 1.0, 1: 2.0}, Place("c", "c", 0): {0: 9.0}}
    assert differences(one, other) == {Place("a", "a", 0): {0: 4.0, 1: 5.0}}
    fewer: Values = {Place("a", "a", 0): {0: 1.0}}
    assert differences(one, fewer) == {Place("a", "a", 0): {0: 5.0}}  # 6 - 1: seeds have but their numbers in common


def test_rounding_is_no_spread_and_files_are_the_same_everywhere() -> None:
    assert not varies([0.1 * 3, 0.3, 0.3]) and varies([0.3, 0.3000001]) and not varies([0.0, 0.0])
    assert stable(1 / 3) == 0.333333333333


@pytest.mark.parametrize("shape", [(7, 3, 3), (7, 1, 1), (3, 3, 3), (6, 1, 1)])
def test_intervals_over_families_cover_as_they_say(shape: tuple[int, int, int]) -> None:
    """The truth is 0, the mean over the families that there could be; effects are normal at every level."""
    rng = np.random.default_rng(sum(shape))
    organisms = CATALOGUE if shape[0] == 6 else None
    covered = [interval_holds(drawn(rng, shape, organisms).values, "family", 0.0) for _ in range(REPETITIONS)]
    assert COVERED[0] <= np.mean(covered) <= COVERED[1]


@pytest.mark.parametrize(("shape", "level"), [((1, 3, 3), "organism seed"), ((1, 1, 3), "method seed")])
def test_intervals_below_families_cover_what_they_speak_of(shape: tuple[int, int, int], level: Level) -> None:
    """Organism seeds: the mean of this organism. Method seeds: the mean of this organism at this seed."""
    rng, covered = np.random.default_rng(sum(shape)), []
    for _ in range(REPETITIONS):
        row = drawn(rng, shape)
        assert level_of(row.values, shape[2]) == level
        covered.append(interval_holds(row.values, level, row.organism if level == "organism seed" else row.place))
    assert COVERED[0] <= np.mean(covered) <= COVERED[1]


@pytest.mark.parametrize(
    ("shape", "organisms"), [((7, 3, 3), None), ((7, 1, 1), None), ((3, 3, 3), None), ((6, 1, 1), CATALOGUE)]
)
def test_skewed_families_among_other_effects_are_still_covered(
    shape: tuple[int, int, int], organisms: tuple[int, ...] | None
) -> None:
    """Effects of families from a beta(.6, 2.4): bounded, with a long tail. Measured: .945, .945, .946 and .927."""
    rng = np.random.default_rng(17)
    covered = [
        interval_holds(drawn(rng, shape, organisms, skewed=True).values, "family", 0.0) for _ in range(REPETITIONS)
    ]
    assert COVERED[0] <= np.mean(covered) <= COVERED[1]


@pytest.mark.parametrize(("families", "coverage"), [(3, 0.88), (6, 0.90), (7, 0.91), (12, 0.92)])
def test_what_is_covered_where_skewed_families_are_all_that_varies(families: int, coverage: float) -> None:
    """The worst case, stated in the legend of standings: then t covers less than it says, and here is how much."""
    rng = np.random.default_rng(1)
    units = rng.beta(0.6, 2.4, (REPETITIONS, families)).tolist()
    held = [found.low <= 0.2 <= found.high for row in units if (found := estimate(row)).low is not None]
    assert len(held) == REPETITIONS
    assert np.mean(held) == pytest.approx(coverage, abs=0.015)


def test_treating_all_cells_as_independent_would_not_cover() -> None:
    """The mistake that units are there to prevent, as large as it is."""
    rng, covered = np.random.default_rng(5), []
    for _ in range(1000):
        cells = [value for seeds in drawn(rng, (7, 3, 3)).values.values() for value in seeds.values()]
        found = mean_interval(cells)
        assert found is not None
        covered.append(found[1] <= 0 <= found[2])
    assert np.mean(covered) < 0.7


def interval_holds(values: Values, level: Level, truth: float) -> bool:
    found = estimate(list(unit_means(values, level).values()))
    assert found.low is not None and found.high is not None
    return found.low <= truth <= found.high
