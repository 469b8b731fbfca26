"""Direction: the words of findings against those that moved; lists of everything are worth their beginnings."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
import torch
from probe_factory import (
    BLUE,
    GREEN,
    NO_ACTIVITY,
    TOKENIZER,
    N,
    claim,
    finding,
    held,
    located,
    moved,
    speaking,
    truth_of,
)

from diffbench.diff import MAX_TOKENS
from diffbench.direction import check, direct, held_to, no_direction
from diffbench.figure import Figure
from diffbench.localisation import Location, ProbeActivity
from diffbench.movement import Movement, Word, movements
from diffbench.scores import Direction
from diffbench.tiny import WORDS


def test_as_many_words_are_looked_at_as_moved() -> None:
    three = moved("0", up=["red", "blue", "green"], down=["white"])
    found = check(finding(1, ["blue", "box", "red", "green"], ["white", "cup"]), held(three))
    assert found.right == {("up", "blue"), ("up", "red"), ("down", "white")}
    assert (found.asked, found.agreement) == (4, 3 / 4)  # green comes fourth
    assert check(finding(1, ["box", "white"], ["ball", "white"]), held(moved("0", ["white"]))).agreement == 0
    assert check(finding(1, ["white"]), held(three)).agreement == 0


def test_a_short_list_is_not_worth_more_than_a_long_one_that_says_more() -> None:
    eight = moved("0", WORDS[:8], ["white"])
    one, seven = check(finding(1, WORDS[:1]), held(eight)), check(finding(1, [*WORDS[:7], WORDS[9]]), held(eight))
    assert (one.asked, one.agreement, seven.agreement) == (8, 1 / 8, 7 / 8)  # nothing is said of what falls
    assert check(finding(1, WORDS[:1], ["white"]), held(eight)).agreement == 2 / 9
    many = [f"w{index}" for index in range(MAX_TOKENS + 10)]
    assert check(finding(1, many[:MAX_TOKENS]), held(moved("0", many))).agreement == 1  # no list can be longer


def test_a_way_in_which_nothing_moved_is_not_asked_about() -> None:
    only_up = moved("0", up=["red"])
    assert check(finding(1, ["red"], ["box", "cup"]), held(only_up)).agreement == 1
    nothing = check(finding(1, [], ["box", "cup"]), held(only_up))
    assert (nothing.asked, nothing.agreement) == (0, 0)


def test_names_are_met_with_or_without_blanks_and_once() -> None:
    words = Movement(
        "0", (Word("red", frozenset({"red", "\u0120red"}), 0.5), Word("blue", frozenset({"blue"}), 0.2)), ()
    )
    for names in (["red", "blue"], [" red", "blue "], ["\u0120red", "red", "blue"], ["red", "red", " red", "blue"]):
        assert check(finding(1, names), held(words)).agreement == 1
    assert check(finding(1, ["box", "box", "red"]), held(words)).agreement == 1 / 2


@pytest.mark.parametrize("strange", ["", " ", "\ufffd", "<0x0A>", "no such word", "\u0000" * 3])
def test_strings_that_are_no_words_are_wrong_and_no_crash(strange: str) -> None:
    found = direct([finding(1, [strange], ["blue"])], located((1.0, 0.0)), [BLUE, GREEN], 0)
    assert found.agreement_first.value == 0.5


def test_the_right_words_at_the_right_claim_agree_whole() -> None:
    truth = truth_of([claim("0", ["green"], ["blue"]), claim("1", ["blue"], ["green"])], {"0": ["ball"], "1": ["box"]})
    before = {"ball": {"blue": 0.9}, "box": {"green": 0.9}}
    after = {"ball": {"blue": 0.4, "green": 0.5}, "box": {"green": 0.4, "blue": 0.5}}
    real = movements(truth, TOKENIZER, speaking(before, after))
    findings = [finding(1, ["green"], ["blue"]), finding(2, ["blue"], ["green"])]
    found = direct(findings, located((1.0, 0.0), (0.0, 1.0)), real, 0)
    assert (found.agreement_first.value, found.agreement_best10.value, found.moved_found.value) == (1, 1, 1)
    assert found.agreement_shuffled.value == 0  # the other finding's words in its place
    assert found.agreement_best10_shuffled.value is not None
    assert 0.3 < found.agreement_best10_shuffled.value < 0.7  # half of the shuffles leave both in place


def test_a_finding_is_held_to_the_claims_that_it_locates() -> None:
    words = finding(1, ["green"], ["blue"])
    # At both claims both words rise and both fall; it names one each way.
    for location, expected in ((located((1.0, 0.0)), 1.0), (located((0.0, 1.0)), 0.0), (located((1.0, 1.0)), 0.5)):
        assert direct([words], location, [BLUE, GREEN], 0).agreement_first.value == expected


def test_where_it_locates_several_or_has_no_activity_the_words_of_all_of_them_count() -> None:
    movements = [moved("0", ["red"], ["box"]), moved("1", ["white", "black"])]
    words = finding(1, ["white", "red", "lamp", "black"], ["box", "cup"])
    for location in (located((1.0, 1.0)), NO_ACTIVITY):
        assert direct([words], location, movements, 0).agreement_first.value == 3 / 4
    assert direct([words], located((1.0, 0.0)), movements, 0).agreement_first.value == 1 / 2  # red is not the first
    assert [one.claim for one in held_to(0, located((0.0, 1.0)), movements)] == [1]
    checked = check(words, held_to(0, NO_ACTIVITY, movements))
    assert [checked.tells(one) for one in held_to(0, NO_ACTIVITY, movements)] == [2, 1]


def test_a_finding_that_locates_nothing_is_held_to_the_claim_that_it_fits_best() -> None:
    affected = [torch.zeros(N, 1), torch.zeros(N, 1)]
    affected[1][: N // 2] = 1.0
    location = Location.of(ProbeActivity(("0", "1"), tuple(affected), torch.zeros(N, 1)))
    assert location.auroc.flatten().tolist() == [0.5, 0.75]
    assert direct([finding(1, ["green"], ["blue"])], location, [BLUE, GREEN], 0).agreement_first.value == 0
    assert direct([finding(1, ["blue"], ["green"])], location, [BLUE, GREEN], 0).agreement_first.value == 1
    # A claim at which no word moved is no claim to be held to.
    still = direct([finding(1, ["green"], ["blue"])], location, [BLUE, moved("1")], 0)
    assert still.agreement_first.value == 1


def test_along_a_direction_that_is_at_work_the_other_way_what_it_promotes_falls() -> None:
    words = [finding(1, ["blue"], ["green"])]
    for signed, expected in ((True, 1.0), (False, 0.0)):
        found = direct(words, located((-1.0, 0.0), signed=signed), [BLUE, GREEN], 0)
        assert found.agreement_first.value == expected
    both = direct(words, located((-1.0, 1.0), signed=True), [BLUE, GREEN], 0)
    assert (both.agreement_first.value, both.moved_found.value) == (1.0, 1.0)


def test_everything_but_the_kitchen_sink_does_not_agree() -> None:
    """Fifty words each way in every finding, without those that moved before the others."""
    up, down = ["red", "lamp", "key"], ["white", "cup"]
    real = moved("0", up, down)
    rng = random.Random(0)
    values, recalls = [], []
    for _ in range(200):
        lists = [(rng.sample(WORDS, len(WORDS))[:MAX_TOKENS], rng.sample(WORDS, len(WORDS))) for _ in range(10)]
        findings = [finding(rank, ups, downs) for rank, (ups, downs) in enumerate(lists, start=1)]
        found = direct(findings, located(*[(1.0,)] * 10), [real], 0)
        values.append(found.agreement_first.value or 0.0)
        recalls.append(found.moved_found.value or 0.0)
    # Three of all the words rise, of which three are looked at, and two of two fall.
    chance = (3 * 3 + 2 * 2) / len(WORDS) / 5
    assert fmean(values) == pytest.approx(chance, abs=4 * (chance / 5 / 200) ** 0.5)
    assert fmean(recalls) < 0.5
    whole = direct([finding(1, WORDS[:50], WORDS[:50])], located((1.0,)), [moved("0", ["then"], ["today"])], 0)
    assert "then" not in WORDS[:1] and whole.agreement_first.value == whole.moved_found.value == 0


def test_by_chance_is_what_the_words_of_the_others_give() -> None:
    findings = [
        finding(1, ["green"], ["blue"]),
        finding(2, ["green"]),
        finding(3, ["box"]),
        finding(4),
        finding(5, ["cup"]),
    ]
    found = direct(findings, located(*[(1.0,)] * 5), [BLUE], 0)
    assert found.agreement_shuffled.value == pytest.approx(1 / 3)
    assert found.agreement_best10.value == 1
    same = [finding(rank, ["green"], ["blue"]) for rank in (1, 2, 3)]
    found = direct(same, located(*[(1.0,)] * 3), [BLUE], 0)
    assert found.agreement_shuffled.value == found.agreement_best10_shuffled.value == found.agreement_first.value == 1
    assert direct(findings, located(*[(1.0,)] * 5), [BLUE], 3) == direct(findings, located(*[(1.0,)] * 5), [BLUE], 3)


def test_a_coin_agrees_as_often_as_the_shuffled_words() -> None:
    rng = random.Random(2)
    own, chance = [], []
    for seed in range(40):
        findings = [finding(rank, rng.sample(WORDS, 10), rng.sample(WORDS, 10)) for rank in range(1, 41)]
        found = direct(findings, located(*[(1.0,)] * 40), [moved("0", WORDS[:4], WORDS[4:6])], seed)
        own.append(found.agreement_best10.value or 0.0)
        chance.append(found.agreement_best10_shuffled.value or 0.0)
    spread = (sum((a - b - fmean(own) + fmean(chance)) ** 2 for a, b in zip(own, chance, strict=True)) / 39 / 40) ** 0.5
    assert abs(fmean(own) - fmean(chance)) < 3 * spread
    assert fmean(chance) > 0.2


def test_only_the_first_ten_findings_count() -> None:
    findings = [finding(rank, ["box"]) for rank in range(1, 11)] + [finding(11, ["green"], ["blue"])]
    found = direct(findings, located(*[(1.0,)] * 11), [BLUE], 0)
    assert found.agreement_best10.value == found.moved_found.value == 0
    assert found.agreement_shuffled.value == pytest.approx(1 / 10)
    late = direct([finding(rank) for rank in range(1, 11)] + [findings[10]], located(*[(1.0,)] * 11), [BLUE], 0)
    assert "none of the first 10" in (late.agreement_best10.reason or "")


def figures(found: Direction) -> list[Figure]:
    return [getattr(found, name) for name in Direction.model_fields]


def test_what_cannot_be_asked_says_so() -> None:
    here = located((1.0, 0.0))
    for found, state, reason in (
        (direct([finding(1, ["red"])], here, [moved("0"), moved("1")], 0), "undefined", "no word's probability moved"),
        (direct([finding(1)], here, [BLUE, GREEN], 0), "n/a", "no finding names words"),
        (direct([], here, [BLUE, GREEN], 0), "n/a", "the Diff has no findings"),
        (no_direction(Figure.not_applicable("nobody knows")), "n/a", "nobody knows"),
    ):
        assert {figure.state for figure in figures(found)} == {state}
        assert all(reason in (figure.reason or "") for figure in figures(found))
    found = direct([finding(1), finding(2, ["green"], ["blue"])], located((1.0, 0.0), (1.0, 0.0)), [BLUE, GREEN], 0)
    assert found.agreement_first.state == found.agreement_shuffled.state == "n/a"
    assert found.agreement_best10.value == 1
    alone = direct([finding(1, ["green"])], here, [BLUE, GREEN], 0)
    assert alone.agreement_first.value == 1 and alone.agreement_shuffled.reason == "no other finding names words"


def test_a_word_that_two_ways_of_work_tell_of_is_found_once() -> None:
    findings = [finding(1, ["green"]), finding(2, (), ["green"])]
    found = direct(findings, located((1.0,), (-1.0,), signed=True), [BLUE], 0)
    assert found.agreement_first.value == 1
    assert found.moved_found.value == 1 / 2  # green, and not that blue falls
