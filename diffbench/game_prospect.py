"""Game prospect: what games would cost at most, told before anything is asked."""

from __future__ import annotations

from collections.abc import Sequence

from diffbench.account import Account
from diffbench.finding_evidence import FindingEvidence
from diffbench.game import TYPICAL, Budget, play
from diffbench.judge import Judge, Reply
from diffbench.panel import Panel
from diffbench.question import Ask, Choose, Exchange, Fact, Grade, Play, Question, Stated, Text
from diffbench.quote import Quote, quote
from diffbench.spending import Usage

LONG = "x" * 600
"""As long as a long explanation or statement."""
STATEMENTS = 8
ACCOUNT = Account(verdict="changed", statement=LONG, confidence=0.5)


class _Stand(Judge):
    """Stands for an agent: asks one prompt a turn, which makes most turns, and remembers what it is asked."""

    name = "stand-in"

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def answer(self, question: Question) -> Reply:
        """Something of the right form."""
        self.asked.append(question)
        if isinstance(question, Play):
            more = question.questions_left > 0
            return Reply("ok", Ask(prompts=(f"{len(question.asked)}",)) if more else Stated(account=ACCOUNT))
        return Reply("ok", Text(text=LONG))


class _Typical:
    """Stands for the two models."""

    def said(self, prompts: Sequence[str], seed: int) -> tuple[Exchange, ...]:
        return (TYPICAL,) * len(prompts)


def prospect(
    agent: Judge, evidence: Sequence[FindingEvidence] | None, *, asks: bool, budget: Budget, presuppose: bool
) -> Quote:
    """An estimate for the agent of one game of one prompt a turn: more prompts a turn cost less.

    The budget, which is looked at before each turn, may end the game earlier.

    Args:
        agent: who would play.
        evidence: what it explains first; None: nothing.
        asks: whether it may ask the models.
        budget: of prompts.
        presuppose: the framing.
    """
    stand = _Stand()
    free = Budget(questions=budget.questions)
    play(stand, evidence, _Typical() if asks else None, budget=free, presuppose=presuppose)
    return quote(Panel(agent), stand.asked)


def grading_prospect(grader: Judge) -> Quote:
    """An estimate for the grading of one game."""
    facts = tuple(Fact(statement=LONG, trigger=LONG) for _ in range(2))
    grade = Grade(facts=facts, account=ACCOUNT)
    return quote(Panel(grader), [grade, Choose(account=ACCOUNT, statements=(LONG,) * STATEMENTS)])


def times(one: Quote, n: int) -> Quote:
    """The quote for so many like it."""
    usage = one.usage
    total = Usage(
        calls=n * usage.calls,
        tokens_in=n * usage.tokens_in,
        tokens_out=n * usage.tokens_out,
        cost=None if usage.cost is None else n * usage.cost,
    )
    return one.model_copy(update={"questions": n * one.questions, "kept": n * one.kept, "usage": total})
