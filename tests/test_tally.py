"""Counts and their intervals, by hand and by published figures."""

from __future__ import annotations

import random

import pytest

from diffbench.tally import Count, beginnings, count_continuations, difference, says, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998a, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 1 - 0.1170, 1.0),
    ],
)
def test_the_score_interval_is_the_published_one(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),  # Newcombe 1998b, table II, method 10
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_the_interval_of_a_difference_is_the_published_one(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    found = difference(Count(*one), Count(*other))
    assert found.value == pytest.approx(one[0] / one[1] - other[0] / other[1])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_intervals_cover_what_they_should() -> None:
    """Over repeated draws; 4 standard errors of 2000 repetitions are .02."""
    rng = random.Random(0)
    covered = {"share": 0, "difference": 0}
    for _ in range(2000):
        one, other = (Count(sum(rng.random() < p for _ in range(60)), 60) for p in (0.3, 0.12))
        low, high = wilson(one.hits, one.n)
        covered["share"] += low <= 0.3 <= high
        found = difference(one, other)
        assert found.low is not None and found.high is not None
        covered["difference"] += found.low <= 0.18 <= found.high
    for hits in covered.values():
        assert 0.93 <= hits / 2000 <= 0.97


def test_nothing_counted_is_undefined() -> None:
    assert Count(0, 0).figure.state == difference(Count(0, 0), Count(1, 2)).state == "undefined"
    figure = Count(3, 4).figure
    assert figure.value == 0.75 and (figure.low, figure.high) == wilson(3, 4) and str(Count(3, 4)) == "3 of 4"


def test_words_are_whole_and_literal() -> None:
    assert says(" or concerns.", "or concerns") and says("or\n concerns", "or concerns")
    assert not says("or concernsome", "or concerns") and not says("nor concerns", "or concerns")
    assert not says("questions or concerns", "or concerns")
    assert says("questions\nor concerns", "or concerns", "anywhere")
    assert not says("questions nor concerns", "or concerns", "anywhere")
    assert not says("Or concerns", "or concerns")
    assert says("what?", "what?") and not says("wha", "what?") and says("a.b", ".", "anywhere")
    assert says("it is (so)", "(so)", "anywhere") and says("x (so)y", "(so)", "anywhere")


def test_continuations_are_counted() -> None:
    texts = [" or concerns", " you have any", " you might", " or concerns you", "", " you have"]
    found = count_continuations(texts, ["or concerns", "you have", "you", "never"])
    assert {pattern: (count.hits, count.n) for pattern, count in found.items()} == {
        "or concerns": (2, 6),
        "you have": (2, 6),
        "you": (3, 6),
        "never": (0, 6),
    }
    assert count_continuations(texts, ["you"], "anywhere")["you"].hits == 4
    assert [(begin, count.hits) for begin, count in beginnings(texts)] == [
        ("or concerns", 2),
        ("you have", 2),
        ("", 1),
        ("you might", 1),
    ]
    assert [begin for begin, _ in beginnings(texts, words=1, most=1)] == ["you"]
