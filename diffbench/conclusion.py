"""Conclusion: what a judge makes of all findings of a Diff together, and how far that is true. Needs no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from diffbench.finding_evidence import FindingEvidence, note_of
from diffbench.judging import first_of_each
from diffbench.panel import Panel
from diffbench.question import Note, Stated, Summarise
from diffbench.sheet import Sheet
from diffbench.trial import Trial
from diffbench.truth_match import TruthMatch, match_questions, truth_match


@dataclass(frozen=True, slots=True)
class Conclusion:
    """A judge's account of a Diff, and how it was scored.

    Attributes:
        trials: the question for the account, and where there is a truth and an account, its grade and choice.
        match: the account against the truth.
    """

    trials: tuple[Trial, ...]
    match: TruthMatch


def notes_of(findings: Sequence[FindingEvidence], explanations: Mapping[int, str]) -> tuple[Note, ...]:
    """What is known of each finding; one whose component was not explained has its tokens and effect alone.

    Args:
        findings: evidence.
        explanations: by the rank of the first finding of each component.
    """
    texts = {finding.component: explanations.get(finding.rank, "") for finding in first_of_each(findings)}
    return tuple(note_of(finding.evidence, texts[finding.component]) for finding in findings)


def conclude(
    panel: Panel,
    notes: tuple[Note, ...],
    said: Literal["changed", "unchanged", "abstain"],
    sheet: Sheet | None,
    seed: int,
) -> Conclusion:
    """Ask a judge what changed, and hold what it says against what is true.

    Args:
        panel: the judge, who also grades.
        notes: of the findings, the most important first.
        said: the verdict of the method.
        sheet: what is true of the pair; None: nobody knows.
        seed: of the statements that are chosen among.
    """
    [account] = panel.ask([Summarise(notes=notes, said=said)])
    trials = [Trial(test="summary", verdict=account)]
    if sheet is None or not isinstance(account.answer, Stated):
        return Conclusion(tuple(trials), truth_match(sheet, account, None, None, 0))
    grade, choose, right = match_questions(account.answer.account, sheet, seed)
    graded, chosen = panel.ask([grade, choose])
    trials += [Trial(test="grade", verdict=graded), Trial(test="choice", right=(right,), verdict=chosen)]
    return Conclusion(tuple(trials), truth_match(sheet, account, graded, chosen, right))
