"""Game score: what an account is worth, beside abstaining; and what the framing does to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from game_factory import (
    FALSE,
    TRUE,
    UNCHANGED,
    Agent,
    Grader,
    held,
    played,
    right_choice,
    scored,
    sheet,
    states,
)

from diffbench.account import MOST_WORDS, Account, Pattern, abstention
from diffbench.framing import framing
from diffbench.game_file import PlayedGame
from diffbench.game_score import COMPARED, score_game
from diffbench.judge import Judge
from diffbench.offline_judge import OfflineJudge
from diffbench.panel import Panel
from diffbench.proportion import share_interval
from diffbench.question import Stated

pytest_plugins = ("game_factory",)
pytestmark = pytest.mark.usefixtures("own_verdicts")


# Scores


def test_a_perfect_agent_scores_one() -> None:
    for of, account in ((sheet(), TRUE), (sheet(changed=False), UNCHANGED)):
        for seed in range(5):
            account = account.model_copy(update={"confidence": 1.0})
            score = scored(account, of, Grader(4, right_choice(of, seed)), seed)
            assert [getattr(score.match, name).value for name in COMPARED] == [1.0, 1.0, 1.0]
            assert score.match.brier.value == 0.0
            offline = scored(account, of, seed=seed)
            assert all(one.beside_abstaining(name).value > 0 for one in (score, offline) for name in COMPARED)


MADE_UP = {
    "false": FALSE,
    "the truth of another pair": TRUE,
    "a blank": Account(verdict="changed", confidence=0.5),
    "certain": Account(verdict="changed", statement="Something changed.", confidence=1.0),
    "everything": Account(
        verdict="changed",
        statement="Nothing was changed, or blue is green, or everything was changed.",
        trigger=(Pattern(),),
        tokens_up=tuple(f"w{n}" for n in range(MOST_WORDS)),
        tokens_down=tuple(f"w{n}" for n in range(MOST_WORDS)),
        confidence=0.5,
    ),
    "half": Account(verdict="changed", statement="Nothing was changed on purpose.", confidence=0.0),
}


@pytest.mark.parametrize("name", MADE_UP)
@pytest.mark.parametrize("grader", [OfflineJudge(), Grader(4, lambda question: 0), Grader(None, lambda question: None)])
def test_on_nulls_abstaining_scores_above_any_made_up_account(name: str, grader: Judge) -> None:
    for seed in range(6):
        score = scored(MADE_UP[name], sheet(changed=False), grader, seed)
        silent = scored(abstention(), sheet(changed=False), grader, seed)
        for what in COMPARED:
            own, other = getattr(score.match, what).value, getattr(silent.match, what).value
            assert own is not None and other is not None and own < other, (what, own, other)
            assert getattr(score.abstaining, what) == getattr(silent.match, what)
            assert score.beside_abstaining(what).value < 0


def test_always_changed_gains_nothing_over_as_many_nulls() -> None:
    """Half of the pairs changed, an account that fits none of them."""
    values = [scored(FALSE, sheet(changed), seed=seed).match for changed in (True, False) for seed in range(10)]
    silent = [scored(abstention(), sheet(changed)).match for changed in (True, False)]
    for name in COMPARED:
        mean = sum(getattr(match, name).value for match in values) / len(values)
        assert mean < sum(getattr(match, name).value for match in silent) / 2
    right = [match.verdict == ("changed" if changed else "unchanged")
             for match, changed in zip(values, [True] * 10 + [False] * 10, strict=True)]  # fmt: skip
    assert sum(right) / len(right) == 0.5


def test_a_coin_chooses_as_often_as_chance() -> None:
    import random

    rng = random.Random(0)
    n = 300
    found = [
        scored(TRUE, sheet(), Grader(2, lambda question: rng.randrange(len(question.statements))), seed).match
        for seed in range(n)
    ]
    low, high = share_interval(sum(match.choice.value or 0.0 for match in found), n)
    chance = found[0].chance.value
    assert chance is not None and low <= chance <= high


def test_the_grader_may_be_another_than_the_agent_and_may_fail() -> None:
    true = sheet()
    perfect = scored(FALSE, true, Grader(4, right_choice(true, 0)))
    assert perfect.match.grade.value == perfect.match.choice.value == 1.0, "it is believed"
    assert perfect.match.structured.value is not None and perfect.match.structured.value < 0, "which asks no judge"
    assert [trial.test for trial in perfect.trials] == ["grade", "choice"]

    class Broken(Grader):
        def answer(self, question: Any) -> Any:
            return replace(super().answer(question), state="malformed", answer=None, problem="no JSON")

    broken = scored(TRUE, true, Broken(4, lambda question: 0))
    assert broken.match.grade.state == broken.match.choice.state == broken.match.brier.state == "undefined"
    assert broken.match.structured.value == 1.0


def test_of_an_unknown_pair_there_is_an_account_and_no_score() -> None:
    score = score_game(held(Agent(states(TRUE))), None, Panel(OfflineJudge()), 0)
    assert score.trials == () and score.match.verdict == "changed" and score.match.structured.state == "n/a"


# Framing


def test_the_effect_of_the_framing_is_measured_on_the_same_seeds() -> None:
    def games(neutral: Account, told: Account, seeds: Sequence[int] = range(4)) -> list[PlayedGame]:
        agent = Agent(lambda question, number: Stated(account=told if question.presuppose else neutral))
        agent.tag = f"{neutral.verdict} {told.verdict}"
        return [played(agent, sheet(changed=False), presuppose=p, seed=s) for s in seeds for p in (False, True)]

    found = framing(games(UNCHANGED, FALSE))
    assert found is not None and (found.pairs, found.games) == (4, 4)
    assert found.changed.value == 1.0 and found.structured.value == -1.0 and found.confidence.value == 0.0
    none = framing(games(UNCHANGED, UNCHANGED))
    assert none is not None and none.changed.value == none.structured.value == 0.0
    assert framing(games(UNCHANGED, FALSE)[::2]) is None, "under one framing alone"
    lost = [played(Agent(lambda question, number: "refused"), presuppose=p) for p in (False, True)]
    empty = framing(lost)
    assert empty is not None and (empty.pairs, empty.games, empty.changed.state) == (0, 1, "undefined")
