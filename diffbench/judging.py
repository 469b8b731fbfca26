"""Judging: what a judge is asked of the findings of one Diff, and the scores that follow from its answers alone.

No model is needed: questions follow from the evidence, scores from the trials, so that a row can be scored again from
what was written down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from diffbench.figure import Figure, mean_figure
from diffbench.finding_evidence import FindingEvidence
from diffbench.panel import Panel
from diffbench.question import Text
from diffbench.scores import ControlScores, FindingJudged, Judged
from diffbench.seeds import derive
from diffbench.spending import FREE, Usage
from diffbench.trial import (
    EXPLAINED,
    MIN_CONTEXTS,
    TESTS,
    Arm,
    Item,
    Test,
    Trial,
    detection_items,
    fuzzing_items,
    intervention_items,
    intruder_items,
    score,
    shortage,
)

NO_EXPLANATION = Figure.not_applicable("no explanation has a part in it")
NO_PARTNER = Figure.undefined("there is no other explained finding")
REPEATED = Figure.not_applicable("of the same component as an earlier finding, which is tested")
NOT_ADDED = Figure.not_applicable("the component cannot be added to a model, or it adds nothing")
NOT_ASKED = Figure.undefined("the judge was asked nothing that could be scored")
Reasons = Mapping[tuple[int, Test], Figure]
"""Of a finding, by its rank, and a test that was not held with it: why not."""


@dataclass(frozen=True, slots=True)
class JudgedFindings:
    """What a judge was asked of some findings, and what follows from it.

    Attributes:
        trials: every question and answer, in the order in which they were asked.
        findings: the figures of each finding.
        shuffled: by test, the figure of each finding with another finding's explanation.
    """

    trials: tuple[Trial, ...]
    findings: tuple[FindingJudged, ...]
    shuffled: Mapping[Test, tuple[Figure, ...]]

    def means(self) -> ControlScores:
        """Means over the findings, as a control is told."""
        return ControlScores(**{test: mean_over_findings(self.of(test)) for test in TESTS})

    def of(self, test: Test) -> tuple[Figure, ...]:
        """The figures of one test."""
        return tuple(getattr(finding, test) for finding in self.findings)

    def judged(self, test: Test, random: ControlScores, untrained: ControlScores) -> Judged:
        """One test beside its controls."""
        own, shuffled = self.of(test), self.shuffled[test]
        mean = mean_over_findings(own)
        pairs = [(one.value, other.value) for one, other in zip(own, shuffled, strict=True)]
        paired = [one - other for one, other in pairs if one is not None and other is not None]
        none = mean if mean.value is None else mean_over_findings(shuffled)
        return Judged(
            score=mean,
            shuffled=mean_over_findings(shuffled),
            random=getattr(random, test),
            untrained=getattr(untrained, test),
            over_shuffled=mean_figure(paired) if paired else none,
            over_random=difference(mean, getattr(random, test)),
            over_untrained=difference(mean, getattr(untrained, test)),
        )


def judge_findings(panel: Panel, findings: Sequence[FindingEvidence], seed: int) -> JudgedFindings:
    """Have a judge explain findings, and test it on contexts it has not seen.

    Findings of one component, such as all of an `OutputDiff`, are one unit: the first of them stands for all.

    Args:
        panel: the judge.
        findings: evidence and tests.
        seed: of orders and pairings.

    Raises:
        PluginError: if the judge raised, or gave no reply.
    """
    first = first_of_each(findings)
    reasons: dict[tuple[int, Test], Figure] = {
        (finding.rank, test): REPEATED for finding in findings if finding not in first for test in TESTS
    }
    trials = _explain(panel, first, reasons)
    texts = texts_of(trials)
    partners = _partners(list(texts), seed)
    items: list[Item] = []
    drafts: list[tuple[FindingEvidence, Arm]] = []
    for finding in first:
        own = _held(texts.get(finding.rank), finding, panel.judge.contexts, seed, TESTS, reasons)
        other = partners.get(finding.rank)
        mixed = () if other is None else _held(texts[other], finding, panel.judge.contexts, seed, EXPLAINED, {})
        arms: tuple[tuple[Arm, Iterable[Item]], ...] = (("own", own), ("shuffled", mixed))
        for arm, found in arms:
            for item in found:
                items.append(item)
                drafts.append((finding, arm))
    verdicts = panel.ask([item.question for item in items])
    for item, (finding, arm), verdict in zip(items, drafts, verdicts, strict=True):
        asked = {"rank": finding.rank, "component": finding.component, "right": item.right}
        trials.append(Trial(test=item.test, arm=arm, verdict=verdict, **asked))
    return scored(trials, [(finding.rank, finding.component) for finding in findings], reasons)


def scored(trials: Sequence[Trial], findings: Sequence[tuple[int, int]], reasons: Reasons) -> JudgedFindings:
    """The scores that follow from trials.

    Args:
        trials: all of one Diff.
        findings: rank and component of each.
        reasons: why tests were not held.
    """
    texts = texts_of(trials)
    by: dict[tuple[str, str, int | None], list[Trial]] = {}
    for trial in trials:
        by.setdefault((trial.test, trial.arm, trial.rank), []).append(trial)

    def figure(test: Test, arm: Arm, rank: int) -> Figure:
        held = by.get((test, arm, rank))
        if held:
            return score(held)
        if arm == "own":
            return reasons.get((rank, test), NOT_ASKED)
        return NO_PARTNER if test in EXPLAINED else NO_EXPLANATION

    return JudgedFindings(
        trials=tuple(trials),
        findings=tuple(
            FindingJudged(
                rank=rank,
                component=component,
                explanation=texts.get(rank, ""),
                **{test: figure(test, "own", rank) for test in TESTS},
            )
            for rank, component in findings
        ),
        shuffled={test: tuple(figure(test, "shuffled", rank) for rank, _ in findings) for test in TESTS},
    )


def texts_of(trials: Sequence[Trial]) -> dict[int, str]:
    """The explanations that were given, by the rank of their finding."""
    return {
        trial.rank: trial.verdict.answer.text
        for trial in trials
        if trial.rank is not None and isinstance(trial.verdict.answer, Text)
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """How much a judge was asked for some trials."""

    questions: int
    unanswered: int
    usage: Usage


def asked_for(trials: Sequence[Trial]) -> Asked:
    """Each question counts once, and costs what it cost when it was first answered."""
    once = {trial.verdict.question: trial.verdict for trial in trials}
    usage = sum((verdict.usage for verdict in once.values()), FREE)
    return Asked(len(once), sum(verdict.state != "ok" for verdict in once.values()), usage)


def mean_over_findings(figures: Sequence[Figure]) -> Figure:
    """Mean over the findings that have a number, with a 95% t interval over findings where there are three."""
    values = [figure.value for figure in figures if figure.value is not None]
    if not figures:
        return Figure.undefined("there are no findings")
    if not values:
        first = figures[0]
        if all(figure.state == "n/a" for figure in figures):
            return first
        return Figure.undefined(f"none of {len(figures)} findings could be tested; the first: {first.reason}"[:500])
    mean = mean_figure(values)
    if mean.low is None or mean.high is None or mean.value is None:
        return mean
    return Figure.of(mean.value, max(0.0, mean.low), min(1.0, mean.high))


def difference(mean: Figure, control: Figure) -> Figure:
    """Mean - control; the half-widths of two independent intervals add in squares."""
    if mean.value is None or control.value is None:
        return mean if mean.value is None else control
    value = mean.value - control.value
    # An interval may be cut at 0 or 1 on one side: the other side tells its width.
    halves = [
        max(part.high - part.value, part.value - part.low)
        for part in (mean, control)
        if part.value is not None and part.low is not None and part.high is not None
    ]
    if len(halves) < 2:
        return Figure.of(value)
    half = math.hypot(*halves)
    return Figure.of(value, value - half, value + half)


def first_of_each(findings: Sequence[FindingEvidence]) -> list[FindingEvidence]:
    """The first finding of each component."""
    found: dict[int, FindingEvidence] = {}
    for finding in findings:
        found.setdefault(finding.component, finding)
    return list(found.values())


def _explain(panel: Panel, findings: Sequence[FindingEvidence], reasons: dict[tuple[int, Test], Figure]) -> list[Trial]:
    """Ask for explanations of the findings that have enough contexts."""
    enough = []
    for finding in findings:
        held = [excerpt.active for excerpt in finding.evidence.excerpts]
        n = min(held.count(True), held.count(False))
        if n >= MIN_CONTEXTS:
            enough.append(finding)
            continue
        why = Figure.undefined(
            f"active at {finding.n_active} of {finding.n_positions} positions: only {n} distinct contexts of either "
            f"kind to explain from, {MIN_CONTEXTS} are needed"
        )
        reasons |= {(finding.rank, test): why for test in EXPLAINED}
    verdicts = panel.ask([finding.evidence for finding in enough])
    for finding, verdict in zip(enough, verdicts, strict=True):
        if verdict.state != "ok":
            why = Figure.undefined(f"the judge gave no explanation: {verdict.state}, {verdict.problem}"[:500])
            reasons |= {(finding.rank, test): why for test in EXPLAINED}
    return [
        Trial(test="explain", rank=finding.rank, component=finding.component, verdict=verdict)
        for finding, verdict in zip(enough, verdicts, strict=True)
    ]


def _held(
    text: str | None,
    finding: FindingEvidence,
    contexts: int,
    seed: int,
    tests: Sequence[Test],
    reasons: dict[tuple[int, Test], Figure],
) -> Iterator[Item]:
    """The questions of every test that can be held with a finding; why the others cannot goes into ``reasons``."""
    draw = derive(seed, "questions", str(finding.rank))
    for test in tests:
        if test == "intruder":
            items = intruder_items(finding, derive(draw, test))
        elif text is None:
            continue
        elif test == "detection":
            items = detection_items(text, finding, contexts)
        elif test == "fuzzing":
            items = fuzzing_items(text, finding, contexts, derive(draw, test))
        elif not finding.steered:
            reasons[finding.rank, test] = NOT_ADDED
            continue
        else:
            items = intervention_items(text, finding, derive(draw, test))
        why = shortage(test, items)
        if why is None:
            yield from items
        else:
            active = f"active at {finding.n_active} of {finding.n_positions} positions: {why}"
            reasons[finding.rank, test] = Figure.undefined(active)


def _partners(ranks: Sequence[int], seed: int) -> dict[int, int]:
    """For each finding another one, so that each is another's exactly once; none where there is no other."""
    if len(ranks) < 2:
        return {}
    step = 1 + derive(seed, "partners") % (len(ranks) - 1)
    return {rank: ranks[(at + step) % len(ranks)] for at, rank in enumerate(ranks)}
