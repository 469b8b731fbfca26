"""The diffing game: whose turn it is, what it may cost, how it ends, and what it never says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from game_factory import (
    FALSE,
    SETTING,
    TRUE,
    Agent,
    Toys,
    finding,
    held,
    played,
    sheet,
    states,
    swapped,
)

from diffbench.errors import OptionError
from diffbench.game import TYPICAL, Budget, play, worst_last
from diffbench.game_prospect import prospect
from diffbench.game_score import COMPARED, score_game
from diffbench.offline_judge import OfflineJudge
from diffbench.panel import Panel
from diffbench.question import Answer, Ask, Exchange, Play, question_key
from diffbench.spending import FREE, Usage

pytest_plugins = ("game_factory",)
pytestmark = pytest.mark.usefixtures("own_verdicts")


def asks(n: int) -> Callable[[Play, int], Answer]:
    """A script that asks for ever, ``n`` prompts a turn."""
    return lambda question, number: Ask(prompts=tuple(f"the cup of anna is {number} {i}" for i in range(n)))


# Turns


def test_turns_go_on_until_there_is_an_account() -> None:
    agent, toys = Agent(states(TRUE, after=3)), Toys(swapped)
    game = held(agent, toys, Budget(questions=5), seed=7)
    assert (game.state, game.problem, game.account, game.access, game.seed) == ("ok", None, TRUE, "questions", 7)
    assert [turn.left for turn in game.turns] == [5, 4, 3, 2]
    assert game.asked == toys.said(tuple(toys.prompts), 7) and len(toys.prompts) == 6, "three, and the same three again"
    assert [len(turn.exchanges) for turn in game.turns] == [1, 1, 1, 0]
    assert game.usage == sum([agent.usage] * 4, FREE)
    for number, asked in enumerate(agent.questions):
        assert asked == game.question(number)
        assert game.turns[number].verdict.question == question_key(asked)
        assert game.turns[number].verdict.kind == "play" and game.turns[number].verdict.usage == agent.usage


def test_an_agent_is_told_what_was_said_before_and_what_is_left() -> None:
    agent = Agent(states(TRUE, after=2))
    held(agent, budget=Budget(questions=9), presuppose=True)
    first, second, third = (question for question in agent.questions if isinstance(question, Play))
    assert (first.asked, first.notes, first.presuppose) == ((), None, True)
    assert [len(question.asked) for question in (first, second, third)] == [0, 1, 2]
    assert third.asked[:1] == second.asked and third.asked[0].second_next[0][0] == "green"
    assert [question.questions_left for question in (first, second, third)] == [9, 8, 7]


def test_who_only_asks_comes_to_no_account() -> None:
    agent = Agent(asks(8))
    game = held(agent, budget=Budget(questions=20))
    assert [turn.left for turn in game.turns] == [20, 12, 4]
    assert (game.state, game.account) == ("malformed", None)
    assert game.problem == "8 prompts, 4 are left"
    slower = held(Agent(asks(2)), budget=Budget(questions=4))
    assert [turn.left for turn in slower.turns] == [4, 2, 0] and slower.state == "malformed"
    assert slower.problem == "2 prompts, 0 are left" and len(slower.asked) == 4


@pytest.mark.parametrize("state", ["malformed", "refused", "failed"])
@pytest.mark.parametrize("turn", [0, 2])
def test_a_turn_without_an_answer_ends_the_game_and_is_no_score(state: str, turn: int) -> None:
    script = states(TRUE, after=5)
    agent = Agent(lambda question, number: state if number == turn else script(question, number))
    game = held(agent)
    assert (game.state, game.account, len(game.turns)) == (state, None, turn + 1)
    assert game.problem and "\n" not in game.problem
    assert game.usage.calls == turn + 1, "what came to nothing was paid too"
    for of in (sheet(), sheet(changed=False), None):
        score = score_game(game, of, Panel(OfflineJudge()), 0)
        assert score.trials == ()
        figures = [getattr(score.match, name) for name in (*COMPARED, "auroc", "net", "brier")]
        assert {figure.state for figure in figures} == {"undefined"} and score.match.verdict is None
        assert score.beside_abstaining("structured").value is None


def test_an_answer_of_another_form_is_malformed() -> None:
    from diffbench.question import Graded

    assert held(Agent(lambda question, number: Graded(grade=4))).state == "malformed"


# Evidence


def test_evidence_is_explained_by_the_agent_itself() -> None:
    agent = Agent(states(TRUE))
    found = (finding(1), finding(2, kl_up=("black",)), finding(3, n=3))
    game = held(agent, evidence=found)
    assert game.access == "evidence" and game.state == "ok"
    assert [question.kind for question in agent.questions] == ["explain", "explain", "play"]
    assert agent.questions[:2] == [found[0].evidence, found[1].evidence]
    assert game.notes is not None
    text = 'Active where "is" is the last word.'
    assert [note.explanation for note in game.notes] == [text, text, ""], "the third has too few contexts"
    assert [note.kl_up for note in game.notes] == [("green",), ("black",), ("green",)]
    assert [turn.left for turn in game.turns] == [None, None, 0]
    play_question = agent.questions[2]
    assert isinstance(play_question, Play) and play_question.notes == game.notes


def test_both_gives_notes_and_questions() -> None:
    agent = Agent(states(TRUE, after=1))
    game = held(agent, Toys(swapped), evidence=(finding(),))
    assert game.access == "both" and [turn.left for turn in game.turns] == [None, 20, 19]
    assert game.question(2).notes == game.notes and len(game.question(2).asked) == 1
    assert [question_key(game.question(n)) for n in (1, 2)] == [turn.verdict.question for turn in game.turns[1:]]


def test_no_findings_are_no_notes_and_no_evidence_is_none() -> None:
    assert held(Agent(states(TRUE)), evidence=()).notes == ()
    assert held(Agent(states(TRUE))).notes is None
    with pytest.raises(ValueError, match="evidence or models"):
        play(Agent(states(TRUE)), None, None, budget=Budget())


def test_without_an_explanation_there_is_no_game() -> None:
    class Silent(Agent):
        def answer(self, question: Any) -> Any:
            reply = super().answer(question)
            return reply if isinstance(question, Play) else replace(reply, state="refused", answer=None, problem="no")

    game = held(Silent(states(TRUE)), Toys(swapped), evidence=(finding(), finding(2, kl_up=("black",))))
    assert (game.state, game.problem, game.notes, len(game.turns)) == ("refused", "no", None, 1)


def test_equal_findings_are_explained_once() -> None:
    agent = Agent(states(TRUE))
    game = held(agent, evidence=(finding(1), finding(2)))
    assert len(agent.questions) == 2 and game.notes is not None and len(game.notes) == 2
    assert game.usage.calls == 2


# Budget


def test_the_last_turn_is_kept_for_an_account() -> None:
    agent = Agent(states(TRUE, after=99))
    game = held(agent, budget=Budget(questions=20, calls=4))
    assert [turn.left for turn in game.turns] == [20, 19, 18, 0]
    assert (game.state, game.account, game.usage.calls) == ("ok", TRUE, 4)


@pytest.mark.parametrize(
    "budget", [Budget(calls=3), Budget(tokens=500), Budget(money=0.05), Budget(calls=9, tokens=500, money=1.0)]
)
def test_no_limit_is_ever_passed(budget: Budget) -> None:
    agent = Agent(states(TRUE, after=99))
    game = held(agent, budget=budget)
    assert game.state == "ok" and game.turns[-1].left == 0 and 2 <= len(game.turns) < 6
    usage = game.usage
    assert usage.cost is not None
    for spent, limit in ((usage.calls, budget.calls), (usage.tokens, budget.tokens), (usage.cost, budget.money)):
        assert limit is None or spent <= limit


def test_a_game_that_cannot_be_paid_for_is_not_begun() -> None:
    agent = Agent(states(TRUE))
    agent.most = Usage(calls=1, tokens_in=10**6, tokens_out=10**6, cost=99.0)
    for budget in (Budget(tokens=10**6), Budget(money=1.0)):
        game = held(agent, budget=budget)
        assert (game.state, game.account, game.usage, agent.questions) == ("unaffordable", None, FREE, [])
    evidence = held(agent, evidence=(finding(),), budget=Budget(money=1.0))
    assert (evidence.state, agent.questions) == ("unaffordable", [])
    assert evidence.notes is not None and [note.explanation for note in evidence.notes] == [""]


def test_explanations_leave_enough_for_an_account() -> None:
    agent = Agent(states(TRUE))
    game = held(agent, evidence=tuple(finding() for _ in range(3)), budget=Budget(calls=2))
    assert game.state == "ok" and game.account is not None and len(agent.questions) == 2
    assert game.notes is not None and [bool(note.explanation) for note in game.notes].count(True) >= 1
    assert [question.kind for question in agent.questions] == ["explain", "play"]


def test_a_last_turn_that_became_too_dear_is_not_asked() -> None:
    """Exchanges that are much longer than any before them: the reserve did not reckon with that."""

    class Growing(Agent):
        def estimate(self, question: Any) -> Usage:
            n = len(question.model_dump_json())
            return Usage(calls=1, tokens_in=n, tokens_out=10, cost=0.0)

    class Flood(Toys):
        def said(self, prompts: Sequence[str], seed: int) -> tuple[Exchange, ...]:
            return tuple(Exchange(prompt=prompt, first=("x" * 200_000,), second=()) for prompt in prompts)

    agent = Growing(states(TRUE, after=99), usage=Usage(calls=1, tokens_in=10))
    game = held(agent, Flood(swapped), Budget(questions=20, tokens=100_000))
    assert [turn.left for turn in game.turns] == [20, 0]
    assert (game.state, game.account, len(agent.questions)) == ("unaffordable", None, 1)


def test_the_reserve_reckons_with_the_largest_exchange_so_far() -> None:
    large = Exchange(prompt="x" * 9999, first=(), second=())
    question = Play(presuppose=False, notes=None, asked=(), questions_left=3)
    assert worst_last(question).asked == (TYPICAL,) * 3
    later = worst_last(question.model_copy(update={"asked": (large,), "questions_left": 20}))
    assert later.asked == (large,) * 9 and later.questions_left == 0


def test_money_without_a_price_is_refused_before_anything_is_asked() -> None:
    agent = Agent(states(TRUE))
    agent.most = Usage(calls=1, cost=None)
    with pytest.raises(OptionError, match="DIFFBENCH_JUDGE_PRICE"):
        held(agent, budget=Budget(money=1.0))
    assert not agent.questions


# Replay


def test_a_game_that_is_played_again_costs_nothing_and_is_the_same() -> None:
    for budget in (Budget(), Budget(calls=4), Budget(tokens=700), Budget(money=0.06)):
        first = Agent(states(TRUE, after=6))
        first.tag = str(budget)
        game = held(first, Toys(swapped), budget, evidence=(finding(),))
        again = Agent(states(FALSE))  # who would say something else
        again.tag = first.tag
        assert held(again, Toys(swapped), budget, evidence=(finding(),)) == game and not again.questions


def test_a_game_goes_on_where_it_was_cut_off() -> None:
    script = states(TRUE, after=4)
    broken = Agent(lambda question, number: "failed" if number == 3 else script(question, number))
    lost = held(broken)
    assert (lost.state, len(lost.turns)) == ("failed", 4)
    whole = Agent(script)
    game = held(whole)
    assert game.state == "ok" and len(game.turns) == 5
    assert len(whole.questions) == 2, "the first three turns were kept"
    assert game.turns[:3] == lost.turns[:3]


def test_another_agent_seed_or_framing_is_another_game() -> None:
    held(Agent(states(TRUE, after=1)))
    other = Agent(states(TRUE, after=1))
    other.tag = "second"
    assert held(other) and len(other.questions) == 2
    framed = Agent(states(TRUE, after=1))
    assert held(framed, presuppose=True).presuppose and len(framed.questions) == 2
    seeded = Agent(states(TRUE, after=1))
    assert held(seeded, seed=5) and len(seeded.questions) == 1, "the first turn says nothing of the seed"


def test_the_framing_alone_differs() -> None:
    neutral, told = Agent(states(TRUE, after=2)), Agent(states(TRUE, after=2))
    games = [held(neutral), held(told, presuppose=True)]
    assert [game.presuppose for game in games] == [False, True]
    for one, other in zip(neutral.questions, told.questions, strict=True):
        assert isinstance(one, Play) and isinstance(other, Play)
        assert one.model_copy(update={"presuppose": True}) == other != one


# Prospect


@pytest.mark.parametrize("questions", [0, 1, 5])
def test_the_prospect_covers_what_a_game_costs(questions: int) -> None:
    agent = Agent(states(TRUE, after=99))
    agent.most = agent.usage
    told = prospect(agent, (finding(),), asks=True, budget=Budget(questions=questions), presuppose=False)
    game = held(agent, Toys(swapped), Budget(questions=questions), evidence=(finding(),))
    assert told.usage.calls == questions + 2 == game.usage.calls and told.usage.tokens >= game.usage.tokens
    again = prospect(agent, (finding(),), asks=True, budget=Budget(questions=questions), presuppose=False)
    assert again.kept >= 1, "the explanation is there already"


# Blindness


def test_no_question_says_what_it_is_about() -> None:
    """What a game is about stands in its setting; nothing that is given to `play` has it."""
    agent = Agent(states(TRUE, after=3))
    one = played(agent, of=sheet(), seed=918273)
    texts = [question.model_dump_json() for question in agent.questions]
    assert len(texts) == 5
    for canary in ("canary", "918273", "component", "rank", SETTING.pair[0], SETTING.cell or "", "offline", "scripted"):
        assert not any(canary in text for text in texts), canary
    assert "canary" in one.model_dump_json()
