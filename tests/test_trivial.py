"""Trivial rows: the lift by hand, and that choosing on other families keeps it honest."""

from __future__ import annotations

import numpy as np
import pytest

from diffbench.interval import mean_interval
from diffbench.trivial import lift
from diffbench.units import Place, Values


def row(*families: float | None) -> Values:
    return {Place(f"f{i}", f"o{i}", 0): {0: value} for i, value in enumerate(families) if value is not None}


def test_each_family_is_compared_with_what_is_best_on_the_others() -> None:
    pca, mean = row(0.5, 0.1, 0.3), row(0.2, 0.35, 0.2)
    # On f1 and f2 mean is better (.275 to .2), on f0 and f2 pca (.4 to .2), on f0 and f1 pca (.3 to .275).
    found = lift(row(0.9, 0.9, 0.9), [("pca", pca), ("mean", mean)], 1)
    gains = [0.9 - 0.2, 0.9 - 0.1, 0.9 - 0.3]
    interval = mean_interval(gains)
    assert interval is not None
    assert (found.figure.value, found.figure.low, found.figure.high) == pytest.approx(interval)
    assert found.over == ("pca", "mean")


def test_of_a_score_of_which_less_is_better_a_lift_is_still_positive() -> None:
    found = lift(row(1.0, 2.0, 3.5), [("a", row(4.0, 4.0, 4.0)), ("b", row(9.0, 9.0, 9.0))], -1)
    assert found.figure.value == pytest.approx((3 + 2 + 0.5) / 3)
    assert found.over == ("a",)


def test_two_families_have_a_lift_and_no_interval_one_has_none() -> None:
    found = lift(row(0.9, 0.8), [("a", row(0.5, 0.5))], 1).figure
    assert (found.value, found.low) == (pytest.approx(0.35), None)
    found = lift(row(0.9), [("a", row(0.5))], 1).figure
    assert (found.state, found.value) == ("n/a", None)
    assert "other families" in str(found.reason)


@pytest.mark.parametrize(
    ("baselines", "reason"),
    [
        ([], "no trivial row has this score"),
        ([("a", row())], "no trivial row has this score"),
        ([("a", row(0.5, 0.5, None, 0.5))], "fewer than two families"),
        ([("a", row(None, 0.5)), ("b", row(None, None, 0.5))], "fewer than two families"),
    ],
)
def test_where_there_is_no_lift_it_says_why(baselines: list[tuple[str, Values]], reason: str) -> None:
    found = lift(row(None, 0.9, 0.9, None), baselines, 1).figure
    assert (found.state, found.value) == ("n/a", None)
    assert reason in str(found.reason)


def test_a_baseline_that_misses_a_family_steps_back_there_alone() -> None:
    pca, weak = row(0.9, 0.9, 0.9, None), row(0.2, 0.2, 0.2, 0.2)
    found = lift(row(0.9, 0.9, 0.9, 0.9), [("pca", pca), ("weak", weak)], 1)
    assert (found.over, found.figure.value) == (("pca", "weak"), pytest.approx((0 + 0 + 0 + 0.7) / 4))
    assert found.missed == ("pca is not compared on f3",)
    whole = lift(row(0.9, 0.9, 0.9, 0.9), [("pca", row(0.9, 0.9, 0.9, 0.9)), ("weak", weak)], 1)
    assert (whole.over, whole.figure.value, whole.missed) == (("pca",), pytest.approx(0), ())


def test_baselines_are_compared_on_families_that_all_of_them_have() -> None:
    # To choose for f0 there are f2 and f3; hard f1, which easy misses, says nothing of which of the two is better.
    easy, steady = row(0.6, None, 0.6, 0.6), row(0.7, 0.1, 0.7, 0.7)
    found = lift(row(1.0, 1.0, 1.0, 1.0), [("easy", easy), ("steady", steady)], 1)
    assert (found.over, found.figure.value) == (("steady",), pytest.approx((0.3 + 0.9 + 0.3 + 0.3) / 4))


def test_of_a_family_all_places_are_asked() -> None:
    hard = Place("f0", "hard", 0)
    lucky, whole = row(0.99, 0.99, 0.99), {**row(0.5, 0.5, 0.5), hard: {0: 0.1}}
    found = lift({**row(1.0, 1.0, 1.0), hard: {0: 1.0}}, [("lucky", lucky), ("whole", whole)], 1)
    assert found.over == ("lucky", "whole") and found.missed == ("lucky is not compared on f0",)
    assert found.figure.value == pytest.approx((0.7 + 0.01 + 0.01) / 3)


def test_a_family_that_no_baseline_has_whole_or_that_they_share_no_other_with_has_no_gain() -> None:
    hard = Place("f0", "hard", 0)
    halves = [("a", row(0.5, 0.5, 0.5)), ("b", {hard: {0: 0.5}, **row(None, 0.4, 0.4)})]
    found = lift(row(0.9, 0.8, 0.7), halves, 1)
    assert (found.over, found.figure.value) == (("a",), pytest.approx((0.3 + 0.2) / 2))
    assert "f0 has no lift: no trivial row has all of its organisms" in found.missed
    apart = [("a", row(0.5, 0.5, None)), ("b", row(0.4, None, 0.4))]
    found = lift(row(0.9, 0.8, 0.7), apart, 1)
    assert "f0 has no lift: its trivial rows share no other family to choose the best on" in found.missed
    assert (found.over, found.figure.value) == (("a", "b"), pytest.approx((0.3 + 0.3) / 2))


def test_a_row_is_compared_where_it_has_scores() -> None:
    found = lift(row(1.0, None, 0.8), [("a", row(0.5, 0.0, 0.5))], 1)
    assert found.figure.value == pytest.approx(0.4)
    partial: Values = {Place("f0", "o0", 0): {0: 1.0}, Place("f1", "o1", 0): {0: 1.0}}
    more: Values = {**partial, Place("f0", "hard", 0): {0: -5.0}}
    assert lift(partial, [("a", more)], 1).figure.value == pytest.approx(0.0), "not compared at 'hard'"


def test_the_best_of_many_on_the_same_families_would_look_better_than_it_is() -> None:
    """Eight baselines and a row, all alike but for noise: the true lift over any of them is 0."""
    rng, honest, greedy = np.random.default_rng(0), [], []
    for _ in range(400):
        scores = rng.normal(0, 1, (9, 6))
        baselines = [(str(i), row(*scores[i].tolist())) for i in range(8)]
        found = lift(row(*scores[8].tolist()), baselines, 1).figure
        honest.append(found.value)
        greedy.append(scores[8].mean() - scores[:8].mean(axis=1).max())
    assert np.mean(honest) == pytest.approx(0, abs=3 * np.std(honest) / 20)
    assert np.mean(greedy) < -0.4
