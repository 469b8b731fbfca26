"""Attack run: asks a judge questions without and with attacks in them, and compares the answers.

The clean questions are asked a second time, as a control: what moves then moves without any attack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from diffbench.answers import Answers
from diffbench.attack import AttackSuite
from diffbench.attack_report import (
    CONTROL,
    AttackReport,
    AttackRow,
    Deed,
    Rechosen,
    Regraded,
    broken_limits,
    largest_shift,
    mean_shift,
    mean_silence,
)
from diffbench.attack_trial import (
    Contest,
    Explained,
    Trial,
    account_trials,
    context_trials,
    detection,
    evidence_questions,
    on_evidence,
)
from diffbench.bias import bounded_mean
from diffbench.gold import GoldSet
from diffbench.judge import Judge
from diffbench.panel import Panel, Verdict
from diffbench.question import Evidence, Graded, Marks, Pick, Question, Text, question_key
from diffbench.quote import Quote, quote
from diffbench.repeat import again
from diffbench.spending import FREE, Allowance

Notify = Callable[[str, float], None]

BASES = 6
"""Accounts that each attack is put into."""

STAND_IN = "Active at words that name a thing which the text has mentioned before, above all after the word is. " * 6
"""For an explanation that a judge has yet to make, where costs are told before."""


def attack_judge(
    judge: Judge,
    suite: AttackSuite,
    gold: GoldSet,
    *,
    bases: int = BASES,
    allowance: Allowance | None = None,
    notify: Notify = lambda phrase, fraction: None,
) -> AttackReport:
    """Attack a judge, and report what that did.

    Args:
        judge: who is attacked.
        suite: with what.
        gold: whose accounts attacks on accounts are put into.
        bases: how many of them for each attack, at least 1.
        allowance: what it may cost; None: no limits.
        notify: gets what is asked for and the share of it that is answered.

    Raises:
        PluginError: if the judge raised, or gave no reply.
        OptionError: if money is limited and the judge's price is not known.
        ValueError: if ``bases`` is less than 1.
    """
    limits = Allowance() if allowance is None else allowance
    first = Panel(judge, allowance=limits, notify=_told(notify, "explanations"))
    first.ask(evidence_questions(suite))
    explained = _explained(suite, lambda question: _text(first.asked[question_key(question)]))
    trials = _trials(suite, gold, bases, explained)
    panel = Panel(judge, allowance=limits, notify=_told(notify, "attacked questions"))
    panel.ask(_questions(trials))
    clean = _clean(trials)
    second = Panel(again(judge, 1), allowance=limits, notify=_told(notify, "control"))
    second.ask(clean)
    control = [Contest(question, question) for question in clean]
    everything = [*first.asked.values(), *panel.asked.values(), *second.asked.values()]
    rows, answers = tuple(AttackRow.of(_deed_of(trial, panel.asked)) for trial in trials), Answers.of(everything)
    return AttackReport(
        judge=judge.identity(),
        suite=suite.key,
        gold=gold.key,
        bases=bases,
        answers=answers,
        flips=sum(row.flips for row in rows),
        shift=mean_shift(rows),
        largest=largest_shift(rows),
        silence=mean_silence(rows),
        broken=broken_limits(rows, answers),
        detection=bounded_mean(list(_accuracies(explained, panel.asked))),
        rows=rows,
        control=AttackRow.of(_deed(control, panel.asked, second.asked)),
        usage=sum((verdict.usage for verdict in everything), FREE),
    )


def quote_attacks(judge: Judge, suite: AttackSuite, gold: GoldSet, *, bases: int = BASES) -> Quote:
    """What `attack_judge` would cost; explanations that are not there yet are taken to be of usual length."""
    panel = Panel(judge)
    evidence = evidence_questions(suite)

    def text(question: Evidence) -> str | None:
        return _text(panel.ask([question])[0]) if panel.kept(question) else STAND_IN

    trials = _trials(suite, gold, bases, _explained(suite, text))
    return quote(panel, [*evidence, *_questions(trials)]) + quote(Panel(again(judge, 1)), _clean(trials))


def _told(notify: Notify, phrase: str) -> Callable[[int, int], None]:
    return lambda done, todo: notify(phrase, done / todo)


def _explained(suite: AttackSuite, text: Callable[[Evidence], str | None]) -> list[Explained]:
    found = []
    for component in suite.components:
        clean = component.evidence()
        attacked = {attack.id: text(attack.evidence(clean)) for attack in on_evidence(suite)}
        found.append(Explained(component, text(clean), attacked))
    return found


def _trials(suite: AttackSuite, gold: GoldSet, bases: int, explained: Sequence[Explained]) -> list[Trial]:
    if bases < 1:
        raise ValueError(f"an attack needs an account at least, got {bases}")
    return account_trials(suite, gold, bases) + context_trials(suite, explained)


def _questions(trials: Sequence[Trial]) -> list[Question]:
    return [one for trial in trials for contest in trial.contests for one in (contest.clean, contest.attacked)]


def _clean(trials: Sequence[Trial]) -> list[Question]:
    found = {question_key(contest.clean): contest.clean for trial in trials for contest in trial.contests}
    return list(found.values())


def _deed_of(trial: Trial, asked: Mapping[str, Verdict]) -> Deed:
    attack, deed = trial.attack, _deed(trial.contests, asked, asked)
    return Deed(
        attack=attack.id,
        kind=attack.kind,
        where=attack.where,
        aim=attack.aim,
        grades=deed.grades,
        choices=deed.choices,
        marks=deed.marks,
        asked=deed.asked + trial.lost,
        silent=deed.silent + trial.lost,
    )


def _deed(contests: Sequence[Contest], clean: Mapping[str, Verdict], attacked: Mapping[str, Verdict]) -> Deed:
    """Compare answers; a contest whose clean question has none tells nothing."""
    grades: list[Regraded] = []
    choices: list[Rechosen] = []
    marks: list[tuple[bool, bool]] = []
    asked = silent = 0
    for contest in contests:
        before, after = clean[question_key(contest.clean)], attacked[question_key(contest.attacked)]
        asked += before.state == "ok"
        silent += before.state == "ok" and after.state != "ok"
        match before.answer, after.answer:
            case Graded(), Graded():
                grades.append(Regraded(before.answer.grade, after.answer.grade))
            case Pick(), Pick():
                choices.append(Rechosen(before.answer.pick == 0, after.answer.pick == 0))
            case Marks(), Marks():
                pairs = enumerate(zip(before.answer.marks, after.answer.marks, strict=True))
                marks += [pair for place, pair in pairs if place != contest.touched]
    return Deed(
        attack=CONTROL,
        grades=tuple(grades),
        choices=tuple(choices),
        marks=tuple(marks),
        asked=asked,
        silent=silent,
    )


def _accuracies(explained: Sequence[Explained], asked: Mapping[str, Verdict]) -> Iterator[float]:
    """Balanced accuracy of the clean answers on each component's contexts."""
    for one in explained:
        verdict = None if one.clean is None else asked.get(question_key(detection(one.clean, one.component.tests)))
        if verdict is not None and isinstance(verdict.answer, Marks):
            right: dict[bool, list[bool]] = {True: [], False: []}
            for true, said in zip(one.component.truth, verdict.answer.marks, strict=True):
                right[true].append(true == said)
            yield sum(sum(each) / len(each) for each in right.values()) / 2


def _text(verdict: Verdict) -> str | None:
    return verdict.answer.text if isinstance(verdict.answer, Text) else None
