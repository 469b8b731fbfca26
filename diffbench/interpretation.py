"""Interpretation: all that a judge makes of one Diff, from its evidence to its scores. Needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from diffbench.conclusion import conclude, notes_of
from diffbench.errors import JudgeError
from diffbench.figure import Figure
from diffbench.finding_evidence import FindingEvidence
from diffbench.judging import asked_for, difference, judge_findings, texts_of
from diffbench.panel import Panel
from diffbench.scores import ControlScores, Interpretability, TruthMatch
from diffbench.seeds import derive
from diffbench.sheet import Sheet
from diffbench.trial import TESTS, Trial
from diffbench.truth import Schema

OVER = ("over_shuffled", "over_random", "over_untrained")


class Controls(Schema):
    """What a judge makes, on one pair, of what means nothing."""

    random: ControlScores
    untrained: ControlScores
    match: TruthMatch = TruthMatch.none(Figure.undefined("not asked"))


@dataclass(frozen=True, slots=True)
class Shown:
    """What a judge is shown of a Diff.

    Attributes:
        evidence: of its findings.
        why: why there is none.
        said: the verdict of the method.
    """

    evidence: tuple[FindingEvidence, ...]
    why: Figure | None
    said: Literal["changed", "unchanged", "abstain"]


def interpret(
    panel: Panel, shown: Shown, sheet: Sheet | None, seed: int, controls: Controls
) -> tuple[Interpretability, tuple[Trial, ...]]:
    """Have a judge explain findings, be tested on them, and conclude; its scores, and all it was asked.

    Args:
        panel: the judge.
        shown: what it is shown.
        sheet: what is true of the pair; None: nobody knows.
        seed: of the cell.
        controls: of the pair.

    Raises:
        PluginError: if the judge raised, or gave no reply.
    """
    found = judge_findings(panel, shown.evidence, derive(seed, "judging"))
    notes = notes_of(shown.evidence, texts_of(found.trials))
    conclusion = conclude(panel, notes, shown.said, sheet, derive(seed, "statements"))
    trials = (*found.trials, *conclusion.trials)
    asked = asked_for(trials)
    tests = {test: found.judged(test, controls.random, controls.untrained) for test in TESTS}
    if shown.why is not None:
        none = dict.fromkeys(("score", "shuffled", *OVER), shown.why)
        tests = {test: one.model_copy(update=none) for test, one in tests.items()}
    judged = Interpretability(
        judge=f"{panel.judge.name} {panel.judge.version}",
        **tests,
        findings=found.findings,
        match=conclusion.match,
        match_random=controls.match,
        account_over_random=difference(conclusion.match.structured, controls.match.structured),
        questions=asked.questions,
        unanswered=asked.unanswered,
        usage=asked.usage,
    )
    return judged, trials


def reached(panel: Panel) -> None:
    """Raise `JudgeError` where a judge did not get to answer; what it did answer is kept."""
    lost = [verdict for verdict in panel.asked.values() if verdict.state in ("failed", "unaffordable")]
    if lost:
        raise JudgeError(
            f"judge {panel.judge.name}: {len(lost)} of {len(panel.asked)} questions were not answered; the first: "
            f"{lost[0].problem}; run again: what was answered is kept"
        )


def no_control(why: Figure) -> ControlScores:
    """Where a control is not there."""
    return ControlScores(**{test: why for test in TESTS})


def limit_of(trials: Sequence[Trial]) -> int:
    """The most contexts that a judge was tested on with one finding in detection or in fuzzing; at least one."""
    counts: dict[tuple[str, str, int | None], int] = {}
    for trial in trials:
        if trial.test in ("detection", "fuzzing"):
            key = trial.test, trial.arm, trial.rank
            counts[key] = counts.get(key, 0) + len(trial.right)
    return max(counts.values(), default=1)
