"""Prospects: what judging would cost is told before, never asked for, and never less than it comes to."""

from __future__ import annotations

from typing import ClassVar

from test_judging import Scripted, is_hit, odd_one_out, twenty

from diffbench.judge import Reply
from diffbench.judging import judge_findings
from diffbench.panel import Panel
from diffbench.prospect import FINDINGS, cell_questions, finding_questions, prospect
from diffbench.question import Question
from diffbench.spending import Usage


class Dear(Scripted):
    """Costs a token for every character."""

    name = "dear"
    paid: ClassVar[bool] = True
    contexts: ClassVar[int] = 20

    def __init__(self) -> None:
        super().__init__(is_hit, odd_one_out)
        self.n = 0

    def estimate(self, question: Question) -> Usage:
        return Usage(calls=1, tokens_in=len(question.model_dump_json()), tokens_out=10, cost=0.5)

    def answer(self, question: Question) -> Reply:
        self.n += 1
        return super().answer(question)


def test_nothing_is_asked_and_everything_is_counted() -> None:
    judge = Dear()
    one, two = prospect(judge, 1, 0), prospect(judge, 2, 0)
    assert judge.n == 0 and one.questions > 300 and one.kept == 0
    assert (two.questions, two.usage.calls, two.usage.cost) == (2 * one.questions, 2 * one.usage.calls, one.questions)
    assert prospect(judge, 0, 0).usage.calls == 0
    pair = prospect(judge, 0, 1)
    assert pair.questions == 2 * (one.questions - 3), "two dictionaries, of which nothing is concluded"
    assert one.usage.tokens_in > one.questions


def test_an_estimate_is_no_less_than_what_judging_takes() -> None:
    judge = Dear()
    panel = Panel(judge)
    judge.paid = False  # type: ignore[misc]
    judge_findings(panel, twenty()[:FINDINGS], 0)
    assert panel.n_new <= prospect(Dear(), 1, 0).questions - 3


def test_the_questions_of_real_evidence_are_those_that_are_asked() -> None:
    judge = Dear()
    judge.paid = False  # type: ignore[misc]
    evidence = twenty()[:3]
    panel = Panel(judge)
    judge_findings(panel, evidence, 0)
    foreseen = finding_questions(judge, evidence)
    assert sorted(q.kind for q in foreseen) == sorted(verdict.kind for verdict in panel.asked.values())
    kinds = [question.kind for question in cell_questions(judge, evidence)]
    assert kinds[-3:] == ["summarise", "grade", "choose"]
