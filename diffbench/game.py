"""Game: a blind agent finds out what changed between two models, from evidence, by asking them, or both.

An agent is a judge that answers `Play` questions, one turn after another: prompts for the two models, or an account,
which ends the game. It is told neither what made the evidence nor which models these are. Every turn is covered by the
budget before it is asked, and so is a last one after it in which an account can still be given. What was answered
before, and costs nothing any more, counts as if it were paid now: a game that is played again takes the same course.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import Field

from diffbench.account import Account
from diffbench.errors import BudgetExceeded
from diffbench.finding_evidence import FindingEvidence, note_of
from diffbench.judge import Judge
from diffbench.panel import Panel, Verdict
from diffbench.question import Ask, Exchange, Note, Play, Question, Stated, Text, question_key
from diffbench.spending import FREE, Allowance, Usage
from diffbench.trial import MIN_CONTEXTS
from diffbench.truth import Schema

MOST_QUESTIONS = 200
MOST_PROMPTS = 8
"""Prompts of one turn, as `diffbench.question.Ask` has it."""
TYPICAL = Exchange(
    prompt=" ".join(["something"] * 30),
    first=(" ".join(["something"] * 16),) * 5,
    second=(" ".join(["something"] * 16),) * 5,
    first_next=(("something", 0.1234),) * 12,
    second_next=(("something", 0.1234),) * 12,
)
"""As large as exchanges mostly are: what a turn is estimated by before there is one."""


class Manner(Schema):
    """How the two models are asked."""

    new_tokens: int = Field(16, ge=1, description="most tokens of a text")
    samples: int = Field(4, ge=0, description="texts drawn at temperature 1, beside the likeliest one")
    likeliest: int = Field(8, ge=1, description="next tokens told of: the likeliest of either model, told of both")


Access = Literal["evidence", "questions", "both"]
Notify = Callable[[str, float], None]


class Budget(Schema):
    """What an agent may use up in one game. Calls, tokens and money are those of its own answers; None: any."""

    questions: int = Field(20, ge=0, le=MOST_QUESTIONS, description="prompts that may be given to both models")
    calls: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1, description="in and out")
    money: float | None = Field(None, gt=0, description="in the currency of the prices")

    def allowance(self) -> Allowance:
        """A fresh one."""
        return Allowance(calls=self.calls, tokens=self.tokens, money=self.money)


TYPICAL_TEXT = "x" * 600
"""Stands for an explanation that has not been given."""


class Turn(Schema):
    """A line of a transcript: what the agent said to one question, and what came of it.

    Attributes:
        verdict: of kind explain (of one finding of the evidence) or play.
        left: of a play question, the prompts that were left.
        exchanges: what the two models said to the prompts of this turn.
    """

    verdict: Verdict
    left: int | None = None
    exchanges: tuple[Exchange, ...] = ()


class Game(Schema):
    """A game that is over.

    Attributes:
        agent: identity of the judge that played.
        presuppose: whether it was told that something changed.
        seed: of what the two models say.
        notes: the evidence as the agent's own explanations have it; None: it had none, or did not get to it.
        state: ok: there is an account; else why there is none, which is no score.
        problem: one line, unless ok.
        turns: everything that was asked, in order.
    """

    schema_version: Literal[1] = 1
    agent: dict[str, str]
    access: Access
    presuppose: bool
    budget: Budget
    seed: int
    notes: tuple[Note, ...] | None
    state: Literal["ok", "malformed", "refused", "failed", "unaffordable"]
    problem: str | None = None
    turns: tuple[Turn, ...] = Field(min_length=1)

    @property
    def last(self) -> Verdict:
        """The verdict that ended the game."""
        return self.turns[-1].verdict

    @property
    def account(self) -> Account | None:
        """What the agent states; None: it came to nothing."""
        answer = self.last.answer
        return answer.account if self.state == "ok" and isinstance(answer, Stated) else None

    @property
    def asked(self) -> tuple[Exchange, ...]:
        """All exchanges, in order."""
        return tuple(exchange for turn in self.turns for exchange in turn.exchanges)

    @property
    def usage(self) -> Usage:
        """Of all answers when they were first given."""
        return sum((turn.verdict.usage for turn in self.turns), FREE)

    def question(self, number: int) -> Play:
        """What was asked in a turn of kind play, by its index, as it follows from the turns before it."""
        before = tuple(exchange for turn in self.turns[:number] for exchange in turn.exchanges)
        left = self.turns[number].left
        assert left is not None
        return Play(presuppose=self.presuppose, notes=self.notes, asked=before, questions_left=left)


class Respondents(Protocol):
    """The two models, as `diffbench.interview.Interview` has them."""

    def said(self, prompts: Sequence[str], seed: int) -> tuple[Exchange, ...]:
        """What both say to each prompt, in order."""


def play(
    judge: Judge,
    evidence: Sequence[FindingEvidence] | None,
    models: Respondents | None,
    *,
    budget: Budget,
    presuppose: bool = False,
    seed: int = 0,
    notify: Notify = lambda phrase, fraction: None,
) -> Game:
    """Play one game to its end.

    Args:
        judge: the agent.
        evidence: of the findings of a method, the most important first, which the agent explains to itself before it
            plays; None: it gets none.
        models: answer its prompts; None: it may ask none.
        budget: of this game; prompts are those that may be asked.
        presuppose: tell the agent that something was changed, instead of that nothing may have been.
        seed: of what the models say.
        notify: gets a phrase and the fraction of the game that is over.

    Raises:
        PluginError: if the agent raised, or gave no reply.
        OptionError: if money is limited and the agent's price is not known.
        ValueError: if there is neither evidence nor models.
    """
    if evidence is None and models is None:
        raise ValueError("a game needs evidence or models")
    access: Access = "evidence" if models is None else "questions" if evidence is None else "both"
    table = _Table(Panel(judge, allowance=budget.allowance()))
    notes, lost = _explained(table, evidence, presuppose)
    if lost is None:
        left = budget.questions if models is not None else 0
        lost = _turns(
            table, Play(presuppose=presuppose, notes=notes, asked=(), questions_left=left), models, seed, notify
        )
    return Game(
        agent=judge.identity(),
        access=access,
        presuppose=presuppose,
        budget=budget,
        seed=seed,
        notes=notes,
        state="ok" if lost is None else lost.state,
        problem=None if lost is None else lost.problem,
        turns=tuple(table.turns),
    )


@dataclass(slots=True)
class _Table:
    """The agent, what it may still spend, and what was said so far."""

    panel: Panel
    turns: list[Turn] = field(default_factory=list)

    def covers(self, *questions: Question) -> bool:
        """Whether the allowance covers one attempt at each of some questions."""
        estimate = sum(map(self.panel.judge.estimate, questions), FREE)
        try:
            self.panel.allowance.hold(estimate)
        except BudgetExceeded:
            return False
        self.panel.allowance.settle(estimate, FREE)
        return True

    def ask(self, question: Question, left: int | None = None) -> Verdict:
        """Ask the agent, and enter its verdict; a question that it has answered in this game is not asked again."""
        key = question_key(question)
        if key in self.panel.asked:
            return self.panel.asked[key]
        kept = self.panel.kept(question)
        if kept and not self.covers(question):
            verdict = Verdict(
                question=key,
                kind=question.kind,
                judge=self.panel.judge.identity(),
                state="unaffordable",
                problem="the allowance does not cover the next question",
            )
        else:
            [verdict] = self.panel.ask([question])
            if kept:
                self.panel.allowance.settle(FREE, verdict.usage)
        self.turns.append(Turn(verdict=verdict, left=left))
        return verdict


def _explained(
    table: _Table, evidence: Sequence[FindingEvidence] | None, presuppose: bool
) -> tuple[tuple[Note, ...] | None, Verdict | None]:
    """The agent's notes on each finding; or the verdict that ended the game, because it gave no explanation.

    A finding with too few contexts is not asked about, as it is not where cells are judged: its words alone are noted.
    So are those of findings for whose explanation the budget has nothing left beside a last turn.
    """
    if evidence is None:
        return None, None
    notes: list[Note] = []
    whole = tuple(note_of(finding.evidence, TYPICAL_TEXT) for finding in evidence)
    last = Play(presuppose=presuppose, notes=whole, asked=(), questions_left=0)
    for finding in evidence:
        active = [excerpt.active for excerpt in finding.evidence.excerpts]
        text = ""
        if min(active.count(True), active.count(False)) >= MIN_CONTEXTS and table.covers(finding.evidence, last):
            verdict = table.ask(finding.evidence)
            if not isinstance(verdict.answer, Text):
                return None, verdict
            text = verdict.answer.text
        notes.append(note_of(finding.evidence, text))
    return tuple(notes), None


def _turns(table: _Table, question: Play, models: Respondents | None, seed: int, notify: Notify) -> Verdict | None:
    """Play until there is an account; the verdict that ended the game if there is none."""
    most = max(1, question.questions_left)
    while True:
        notify(f"{len(question.asked)} of {most} questions asked", len(question.asked) / most)
        if question.questions_left and not table.covers(question, worst_last(question)):
            question = question.model_copy(update={"questions_left": 0})
        verdict = table.ask(question, question.questions_left)
        answer = verdict.answer
        if verdict.state != "ok" or isinstance(answer, Stated):
            return None if verdict.state == "ok" else verdict
        assert isinstance(answer, Ask) and models is not None  # an answer of another form is malformed
        exchanges = models.said(answer.prompts, seed)
        table.turns[-1] = table.turns[-1].model_copy(update={"exchanges": exchanges})
        left = question.questions_left - len(answer.prompts)
        question = question.model_copy(update={"asked": (*question.asked, *exchanges), "questions_left": left})


def worst_last(question: Play) -> Play:
    """A last turn after one more, which brought as many and as long exchanges as are to be reckoned with."""
    largest = max((*question.asked, TYPICAL), key=lambda exchange: len(exchange.model_dump_json()))
    more = (largest,) * min(MOST_PROMPTS, question.questions_left)
    return question.model_copy(update={"asked": (*question.asked, *more), "questions_left": 0})
