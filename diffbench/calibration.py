"""Calibration: how far a judge's grades agree with those of a gold set, and what moves them that should not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from pydantic import Field

from diffbench.answers import Answers
from diffbench.bias import (
    Consistency,
    PositionBias,
    Rotations,
    VerbosityBias,
    consistency,
    position_bias,
    share,
    signed_mean,
    verbosity_bias,
)
from diffbench.figure import Figure
from diffbench.gold import GoldSet
from diffbench.judge import Judge
from diffbench.kappa import Category, Rating, confusion, kappa_figure, nominal, quadratic
from diffbench.panel import Panel, Verdict
from diffbench.question import Graded, Pick
from diffbench.quote import Quote, quote
from diffbench.repeat import again
from diffbench.spending import FREE, Allowance, Usage
from diffbench.survey import Survey, survey_of
from diffbench.truth import Schema

Notify = Callable[[str, float], None]

DECIDED = (3, 4)
"""Grades of accounts of which one statement is right beyond doubt."""


class Agreement(Schema):
    """How far grades agree with the expected ones, over accounts that were answered."""

    accounts: int
    raw: Figure = Field(description="share of equal grades, an abstention being a grade of its own")
    kappa: Figure = Field(description="Cohen's kappa over the six categories")
    weighted: Figure = Field(description="the same with squared distances of grades; see `diffbench.kappa.quadratic`")
    error: Figure = Field(description="given less expected grade, mean over accounts that have both")


class Miss(Schema):
    """A grade that is not the expected one."""

    id: str
    expected: int | None
    given: int | None
    borderline: bool
    why: str = Field(description="why the expected one is expected")


class Silence(Schema):
    """A question that has no answer."""

    id: str
    asked: str = Field(description="what for: grade, repeat, padded or choice")
    state: Literal["malformed", "refused", "failed", "unaffordable"]
    problem: str


class Calibration(Schema):
    """A judge measured against a gold set.

    Attributes:
        gold: SHA-256 of the set.
        usage: what all the answers cost, also those that were there before.
    """

    schema_version: Literal[1] = 1
    judge: dict[str, str] = Field(description="its identity")
    gold: str
    answers: Answers
    overall: Agreement
    borderline: Agreement
    nulls: Agreement
    unseen: Agreement = Field(description="over accounts that the offline judge's rules were not adjusted on")
    confusion: tuple[tuple[int, ...], ...] = Field(
        description="accounts by expected [row] and given [column] grade: 0, 1, 2, 3, 4, abstains"
    )
    position: PositionBias
    verbosity: VerbosityBias
    consistency: Consistency
    misses: tuple[Miss, ...] = Field(description="in the order of the gold set")
    silences: tuple[Silence, ...]
    usage: Usage


def calibrate(
    judge: Judge,
    gold: GoldSet,
    *,
    repeats: int = 3,
    allowance: Allowance | None = None,
    notify: Notify = lambda phrase, fraction: None,
) -> Calibration:
    """Ask a judge about every account of a gold set, and measure it.

    Args:
        judge: who is measured.
        gold: what is expected.
        repeats: how often each grade is asked for; the cache of verdicts never answers a repeat with another one.
        allowance: what it may cost; None: no limits.
        notify: gets what is asked for and the share of it that is answered.

    Raises:
        PluginError: if the judge raised, or gave no reply.
        OptionError: if money is limited and the judge's price is not known.
        ValueError: if ``repeats`` is less than 1.
    """
    survey, limits = survey_of(gold, repeats), Allowance() if allowance is None else allowance
    panel = Panel(judge, allowance=limits, notify=_told(notify, "grades"))
    grades = [panel.ask(survey.grades)]
    panel = Panel(judge, allowance=limits, notify=_told(notify, "padded accounts"))
    padded = panel.ask(survey.padded)
    panel = Panel(judge, allowance=limits, notify=_told(notify, "orders of statements"))
    answers = iter(panel.ask([choice for turns in survey.choices for choice in turns]))
    choices = [[next(answers) for _ in turns] for turns in survey.choices]
    for number in range(1, repeats):
        panel = Panel(again(judge, number), allowance=limits, notify=_told(notify, f"grades, repeat {number}"))
        grades.append(panel.ask(survey.grades))
    return _measured(judge, survey, grades, padded, choices)


def quote_calibration(judge: Judge, gold: GoldSet, *, repeats: int = 3) -> Quote:
    """What `calibrate` would cost.

    Raises:
        ValueError: if ``repeats`` is less than 1.
    """
    survey = survey_of(gold, repeats)
    total = quote(Panel(judge), survey.once)
    for number in range(1, repeats):
        total += quote(Panel(again(judge, number)), survey.grades)
    return total


def _told(notify: Notify, phrase: str) -> Callable[[int, int], None]:
    return lambda done, todo: notify(phrase, done / todo)


def _measured(
    judge: Judge,
    survey: Survey,
    grades: Sequence[Sequence[Verdict]],
    padded: Sequence[Verdict],
    choices: Sequence[Sequence[Verdict]],
) -> Calibration:
    gold, first = survey.gold, grades[0]
    rated = [
        (one, (one.grade, _grade(verdict)))
        for one, verdict in zip(gold.accounts, first, strict=True)
        if verdict.state == "ok"
    ]
    everything = [*(v for repeat in grades for v in repeat), *padded, *(v for turns in choices for v in turns)]
    return Calibration(
        judge=judge.identity(),
        gold=gold.key,
        answers=Answers.of(everything),
        overall=_agreement([rating for _, rating in rated]),
        borderline=_agreement([rating for one, rating in rated if one.borderline]),
        nulls=_agreement([rating for one, rating in rated if gold.is_null(one)]),
        unseen=_agreement([rating for one, rating in rated if one.unseen]),
        confusion=confusion([rating for _, rating in rated]),
        position=position_bias(list(_rotations(survey, choices))),
        verbosity=verbosity_bias(
            [(_grade(one), _grade(other)) for one, other in zip(first, padded, strict=True) if _ok(one, other)]
        ),
        consistency=consistency(
            [tuple(map(_grade, asked)) for asked in zip(*grades, strict=True) if _ok(*asked)], survey.repeats
        ),
        misses=tuple(
            Miss(id=one.id, expected=one.grade, given=given, borderline=one.borderline, why=one.why)
            for one, (expected, given) in rated
            if expected != given
        ),
        silences=tuple(_silences(survey, grades, padded, choices)),
        usage=sum((verdict.usage for verdict in everything), FREE),
    )


def _agreement(ratings: Sequence[Rating]) -> Agreement:
    both = [(expected, given) for expected, given in ratings if expected is not None and given is not None]
    return Agreement(
        accounts=len(ratings),
        raw=share(sum(expected == given for expected, given in ratings), len(ratings)),
        kappa=kappa_figure(ratings, nominal),
        weighted=kappa_figure(ratings, quadratic),
        error=signed_mean([given - expected for expected, given in both], "no account has both grades"),
    )


def _rotations(survey: Survey, choices: Sequence[Sequence[Verdict]]) -> Iterator[Rotations]:
    for one, verdicts in zip(survey.rotated, choices, strict=True):
        if _ok(*verdicts):
            yield Rotations(tuple(map(_pick, verdicts)), one.grade in DECIDED)


def _silences(
    survey: Survey,
    grades: Sequence[Sequence[Verdict]],
    padded: Sequence[Verdict],
    choices: Sequence[Sequence[Verdict]],
) -> Iterator[Silence]:
    names = [one.id for one in survey.gold.accounts]
    groups = [
        *((names, verdicts, "repeat" if number else "grade") for number, verdicts in enumerate(grades)),
        (names, padded, "padded"),
        *(([one.id] * len(turns), turns, "choice") for one, turns in zip(survey.rotated, choices, strict=True)),
    ]
    for ids, verdicts, asked in groups:
        for name, verdict in zip(ids, verdicts, strict=True):
            if verdict.state != "ok":
                yield Silence(id=name, asked=asked, state=verdict.state, problem=verdict.problem or verdict.state)


def _ok(*verdicts: Verdict) -> bool:
    return all(verdict.state == "ok" for verdict in verdicts)


def _grade(verdict: Verdict) -> Category:
    assert isinstance(verdict.answer, Graded)  # the panel lets no other answer to a Grade be ok
    return verdict.answer.grade


def _pick(verdict: Verdict) -> int | None:
    assert isinstance(verdict.answer, Pick)
    return verdict.answer.pick
