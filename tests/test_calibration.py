"""Calibration: judges of whom everything is known get the figures that they must get."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripted_judges import Altered, Always, Coin, Dazzled, Fickle, Paid, Perfect

from diffbench.bias import Rotations, consistency, position_bias, verbosity_bias
from diffbench.calibration import Calibration, calibrate, quote_calibration
from diffbench.calibration_page import text
from diffbench.errors import JudgeError, OptionError
from diffbench.gold import bundled_gold
from diffbench.judge import Reply
from diffbench.kappa import CATEGORIES, Category, Rating, confusion, kappa, kappa_figure, nominal, quadratic
from diffbench.panel import Panel
from diffbench.question import Choose, Grade, Graded, Pick, Question
from diffbench.repeat import again
from diffbench.spending import Allowance, Usage
from diffbench.tally import wilson

GOLD = bundled_gold()
FEW = GOLD.model_copy(update={"accounts": GOLD.accounts[::10]})
"""For judges whose every answer is written to the disk."""


def table(*rows: tuple[int, ...]) -> list[Rating]:
    """Ratings with so many of each expected [row] and given [column] grade."""
    return [(i, j) for i, row in enumerate(rows) for j, times in enumerate(row) for _ in range(times)]


def reference(ratings: list[Rating], weighted: bool) -> float:
    """Kappa as textbooks have it, from matrices of shares and weights of agreement, in float64."""
    observed = np.zeros((6, 6))
    for one, other in ratings:
        observed[CATEGORIES.index(one), CATEGORIES.index(other)] += 1 / len(ratings)
    expected = np.outer(observed.sum(1), observed.sum(0))
    agreement = np.eye(6)
    if weighted:
        for i in range(5):
            for j in range(5):
                agreement[i, j] = 1 - (i - j) ** 2 / 16
    seen, chance = float((agreement * observed).sum()), float((agreement * expected).sum())
    return (seen - chance) / (1 - chance)


def test_kappa_of_hand_worked_tables() -> None:
    # 35 of 50 agree; chance .5 * .6 + .5 * .4 = .5; kappa (.7 - .5) / .5.
    assert kappa(table((20, 5), (10, 15)), nominal) == pytest.approx(0.4, abs=1e-12)
    # Rows 4, 3, 3 and columns 4, 4, 2 of ten; 7 agree; chance .16 + .12 + .06 = .34; kappa (.7 - .34) / .66.
    assert kappa(table((3, 1, 0), (1, 2, 0), (0, 1, 2)), nominal) == pytest.approx(6 / 11)
    # The same with squared distances / 16: seen 3 pairs one apart, D = 3 / 160; chance: one apart
    # (4*4 + 3*4 + 3*2 + 3*4) / 100 = .46, two apart (4*2 + 3*4) / 100 = .2, E = (.46 + 4 * .2) / 16.
    assert kappa(table((3, 1, 0), (1, 2, 0), (0, 1, 2)), quadratic) == pytest.approx(1 - 0.3 / 1.26)
    # An abstention is as far from every grade as the ends are from each other.
    assert quadratic(None, 0) == quadratic(None, 4) == quadratic(0, 4) == 1 and quadratic(None, None) == 0
    assert quadratic(1, 2) == 1 / 16 and quadratic(3, 1) == 4 / 16


def test_kappa_agrees_with_its_definition_on_any_table() -> None:
    random.seed(0)
    for _ in range(50):
        ratings = [(random.choice(CATEGORIES), random.choice(CATEGORIES)) for _ in range(random.randint(5, 60))]
        for weighted, disagreement in ((False, nominal), (True, quadratic)):
            assert kappa(ratings, disagreement) == pytest.approx(reference(ratings, weighted), abs=1e-12)


def test_the_interval_of_kappa_is_a_jackknife() -> None:
    random.seed(1)
    expected = [random.choice(CATEGORIES) for _ in range(40)]
    ratings = [(one, one if random.random() < 0.6 else random.choice(CATEGORIES)) for one in expected]
    left_out = np.array([reference(ratings[:i] + ratings[i + 1 :], False) for i in range(40)])
    error = np.sqrt(39 / 40 * np.square(left_out - left_out.mean()).sum())
    figure = kappa_figure(ratings, nominal)
    assert figure.value == pytest.approx(reference(ratings, False)) and figure.low is not None
    assert figure.value - figure.low == pytest.approx(2.0226909 * error, rel=1e-6)  # t of 39 degrees of freedom


def test_the_interval_of_kappa_covers_chance_as_often_as_it_says() -> None:
    random.seed(2)
    expected = [one.grade for one in GOLD.accounts]
    covered = {nominal: 0, quadratic: 0}
    for _ in range(300):
        ratings = [(one, random.choice(CATEGORIES)) for one in expected]
        for disagreement in covered:
            figure = kappa_figure(ratings, disagreement)
            assert figure.low is not None and figure.high is not None
            covered[disagreement] += figure.low <= 0 <= figure.high
    assert all(0.90 <= times / 300 <= 0.99 for times in covered.values()), covered


def test_kappa_without_anything_to_tell_apart_is_undefined() -> None:
    assert kappa([], nominal) is None and kappa(table((5,)), nominal) is None
    assert kappa_figure([], nominal).state == kappa_figure(table((5,)), quadratic).state == "undefined"
    assert kappa_figure(table((1, 0), (0, 1)), nominal).low is None


def test_confusion_has_a_row_for_what_is_expected() -> None:
    found = confusion([(0, 4), (0, 4), (None, 2), (3, None)])
    assert found[0][4] == 2 and found[5][2] == 1 and found[3][5] == 1 and sum(map(sum, found)) == 4


def test_a_perfect_judge_is_perfect() -> None:
    found = calibrate(Perfect(GOLD), GOLD)
    for agreement in (found.overall, found.borderline, found.nulls):
        assert agreement.raw.value == agreement.kappa.value == agreement.weighted.value == 1
        assert agreement.error.value == 0
    assert found.overall.raw.low == pytest.approx(wilson(len(GOLD), len(GOLD))[0])
    assert found.overall.accounts == len(GOLD) and found.misses == found.silences == ()
    assert sum(found.confusion[i][i] for i in range(6)) == len(GOLD) == sum(map(sum, found.confusion))
    assert found.position.changed.value == found.position.first.value == 0 and found.position.right.value == 1
    assert found.verbosity.shift.value == found.verbosity.changed.value == 0
    assert found.consistency.equal.value == 1 and found.consistency.repeats == 3
    assert found.answers.unanswered == 0
    assert found.borderline.accounts == sum(one.borderline for one in GOLD.accounts)
    assert found.nulls.accounts == sum(GOLD.is_null(one) for one in GOLD.accounts)
    assert found.unseen.accounts == sum(one.unseen for one in GOLD.accounts) >= 24 and found.unseen.raw.value == 1


def test_a_coin_agrees_by_chance_alone() -> None:
    found = calibrate(Coin(), GOLD, repeats=2)
    for figure in (found.overall.kappa, found.overall.weighted):
        assert figure.low is not None and figure.high is not None and figure.low <= 0 <= figure.high
    assert found.overall.raw.high is not None and found.overall.raw.high < 0.35
    # Other orders and sentences are other questions to it; the same question asked again is not.
    assert found.position.changed.value is not None and found.position.changed.value > 0.9
    assert found.position.first.low is not None and found.position.first.high is not None
    assert found.position.first.low <= 0 <= found.position.first.high
    assert found.verbosity.changed.value is not None and found.verbosity.changed.value > 0.6
    assert found.consistency.equal.value == 1


def test_one_grade_for_all_has_no_kappa_and_an_error() -> None:
    found = calibrate(Always(4), GOLD, repeats=1)
    fours = sum(one.grade == 4 for one in GOLD.accounts)
    grades = [one.grade for one in GOLD.accounts if one.grade is not None]
    assert found.overall.raw.value == pytest.approx(fours / len(GOLD)) and found.overall.kappa.value == 0
    assert found.overall.error.value == pytest.approx(4 - sum(grades) / len(grades))
    assert [sum(row[i] for row in found.confusion) for i in range(6)] == [0, 0, 0, 0, len(GOLD), 0]
    assert len(found.misses) == len(GOLD) - fours and found.consistency.equal.state == "n/a"
    assert found.position.none.value == 1 and found.position.first.state == "undefined"


def test_a_judge_that_picks_a_place_is_found_out() -> None:
    found = calibrate(Always(2, place=0), GOLD, repeats=1).position
    assert (
        found.changed.value == 1
        and found.first.value == pytest.approx(0.75)
        and found.last.value == pytest.approx(-0.25)
    )
    assert found.right.value == pytest.approx(0.25) == found.chance.value
    found = calibrate(Always(2, place=3), GOLD, repeats=1).position
    assert found.first.value == pytest.approx(-0.25) and found.last.value == pytest.approx(0.75)


def test_a_judge_that_takes_length_for_content_is_found_out() -> None:
    found = calibrate(Dazzled(GOLD), GOLD, repeats=1)
    raised = sum(one.grade is not None and one.grade < 4 for one in GOLD.accounts)
    graded = sum(one.grade is not None for one in GOLD.accounts)
    assert found.overall.raw.value == 1, "it is perfect otherwise"
    assert found.verbosity.shift.value == pytest.approx(raised / graded) and found.verbosity.raised == raised
    assert found.verbosity.lowered == 0 and found.verbosity.changed.value == pytest.approx(raised / len(GOLD))


def test_a_judge_that_changes_its_mind_is_found_out() -> None:
    found = calibrate(Fickle(GOLD), GOLD)
    abstaining = sum(one.grade is None for one in GOLD.accounts)
    assert found.overall.raw.value == 1, "the first answers are right"
    assert found.consistency.equal.value == pytest.approx(abstaining / len(GOLD))
    ends = sum(one.grade == 4 for one in GOLD.accounts)  # from 4 it goes to 0
    graded = len(GOLD) - abstaining
    assert found.consistency.spread.value == pytest.approx((graded - ends + 4 * ends) / graded)


def test_repeats_are_asked_though_answers_are_kept_and_never_paid_twice() -> None:
    judge = Paid(FEW)
    first = calibrate(judge, FEW)
    n, questions = len(FEW), first.answers.asked
    assert judge.asked == questions == n * 4 + 4 * first.position.accounts
    assert first.usage == Usage(calls=questions, tokens_in=10 * questions, tokens_out=5 * questions, cost=questions / 4)
    assert calibrate(judge, FEW) == first and judge.asked == questions, "the second time nothing is asked"
    assert quote_calibration(judge, FEW).kept == questions
    calibrate(judge, FEW, repeats=4)
    assert judge.asked == questions + n, "a fourth repeat alone is new"


def test_what_it_would_cost_is_told_before() -> None:
    judge = Paid(GOLD)
    told = quote_calibration(judge, GOLD, repeats=2)
    assert judge.asked == 0 and told.questions == len(GOLD) * 3 + 40 * 4
    assert told.usage.calls == told.questions - told.kept and told.usage.cost == told.usage.calls / 4
    assert quote_calibration(Perfect(GOLD), GOLD).usage.calls == 0


def test_limits_hold_and_what_they_left_out_is_no_grade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFBENCH_CACHE", str(tmp_path))
    judge, allowance = Paid(GOLD), Allowance(calls=50)
    found = calibrate(judge, GOLD, repeats=2, allowance=allowance)
    assert allowance.spent.calls == judge.asked == 50 == found.answers.ok
    assert found.answers.unaffordable == found.answers.asked - 50 and found.overall.accounts == 50
    assert found.overall.raw.value == 1 and found.position.accounts == 0
    assert found.verbosity.shift.state == found.position.changed.state == found.consistency.equal.state == "undefined"


def test_a_limit_on_money_needs_a_price() -> None:
    class Unpriced(Perfect):
        def estimate(self, question: Question) -> Usage:
            return Usage(calls=1, cost=None)

    with pytest.raises(OptionError, match="price"):
        calibrate(Unpriced(GOLD), GOLD, allowance=Allowance(money=1.0))


def spoiled(question: Question, reply: Reply) -> Reply:
    """Malformed, refused, of a wrong form or out of range for some; nothing of it may become a grade."""
    if not isinstance(question, Grade):
        return reply
    match len(question.account.statement) % 5:
        case 0:
            return Reply("malformed", None, raw="grade: 4", problem="no JSON")
        case 1:
            return Reply("refused", None, problem="would not say")
        case 2:
            return replace(reply, answer=Pick(pick=0))
    return reply


def test_bad_answers_are_counted_and_never_graded() -> None:
    found = calibrate(Altered(Perfect(GOLD), spoiled), GOLD, repeats=2)
    kinds = [len(one.account.statement) % 5 for one in GOLD.accounts]
    assert found.overall.accounts == sum(kind > 2 for kind in kinds) == sum(map(sum, found.confusion))
    assert found.overall.raw.value == 1
    names = {(one.id, one.asked): one for one in found.silences}
    for one, kind in zip(GOLD.accounts, kinds, strict=True):
        for asked in ("grade", "repeat"):
            assert ((one.id, asked) in names) == (kind <= 2)
    assert {one.state for one in found.silences} == {"malformed", "refused"}
    assert found.answers.unanswered == len(found.silences) and found.answers.unasked == 0
    assert found.position.accounts == 40, "choices were answered"


def test_a_judge_that_cannot_be_reached_has_no_figures() -> None:
    def unreached(question: Question, reply: Reply) -> Reply:
        raise JudgeError("the server does not answer")

    found = calibrate(Altered(Always(4), unreached), GOLD, repeats=1)
    assert found.answers.failed == found.answers.asked == found.answers.unasked
    assert found.overall.raw.state == found.overall.kappa.state == "undefined" and found.confusion[4][4] == 0
    assert "does not answer" in found.silences[0].problem


def test_biases_of_hand_made_answers() -> None:
    # Rotation r begins with statement r: who always means statement 1 picks places 1, 0, 2 of three.
    steady, first = Rotations((1, 0, 2), True), Rotations((0, 0, 0), False)
    assert steady.statements == (1, 1, 1) and first.statements == (0, 1, 2)
    assert steady.beyond_chance(0) == 0 and first.beyond_chance(0) == pytest.approx(2 / 3)
    found = position_bias([steady, first, Rotations((None, None, None), True)])
    assert found.changed.value == pytest.approx(1 / 3) and found.first.value == pytest.approx(1 / 3)
    assert (
        found.none.value == pytest.approx(1 / 3)
        and found.right.value == 0
        and found.chance.value == pytest.approx(1 / 3)
    )
    longer = verbosity_bias([(1, 3), (2, 2), (4, 3), (None, 4), (2, None)])
    assert longer.shift.value == pytest.approx(1 / 3) and longer.changed.value == pytest.approx(4 / 5)
    assert (longer.raised, longer.lowered) == (1, 1)
    repeated: list[tuple[Category, ...]] = [(1, 1, 1), (1, 2, 4), (None, None, None), (None, 1, 1)]
    again_and_again = consistency(repeated, 3)
    assert again_and_again.equal.value == 0.5 and again_and_again.spread.value == 1.5


def test_a_repeat_is_the_judge_under_another_identity() -> None:
    judge = Coin()
    question = GOLD.grading(GOLD.accounts[0])
    twice = Panel(again(judge, 2))
    assert twice.judge.identity() == judge.identity() | {"repeat": "2"}
    assert twice.ask([question])[0].answer == judge.answer(question).answer
    assert again(Paid(GOLD), 1).paid and not again(judge, 1).paid
    assert again(Paid(GOLD), 1).estimate(question).calls == 1
    with pytest.raises(ValueError, match="counted from 1"):
        again(judge, 0)


def test_the_page_shows_all_of_it_and_nobodys_escapes() -> None:
    def hostile(question: Question, reply: Reply) -> Reply:
        if isinstance(question, Choose):
            return Reply("malformed", None, problem="\x1b[31mred\x1b[0m")
        return replace(reply, answer=Graded(grade=0)) if isinstance(question, Grade) else reply

    found = calibrate(Altered(Perfect(GOLD), hostile), GOLD, repeats=1)
    page = text(found, 100)
    assert "\x1b" not in page and "KAPPA" in page and "choice: malformed: red" in page
    assert f"answers: {found.answers.ok} of {found.answers.asked} (160 malformed)" in page
    assert "0 instead of 4" in page and "and " in page and max(map(len, page.splitlines())) <= 160
    assert Calibration.model_validate_json(found.model_dump_json()) == found
