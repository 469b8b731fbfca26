"""Detection: can a judge who read an explanation tell activating from other contexts it has not seen?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TypeVar

from torch import Tensor

from diffbench.diff import Finding
from diffbench.errors import PluginError
from diffbench.evidence import Contexts, active_mask, sample_splits
from diffbench.figure import Figure
from diffbench.interval import mean_interval
from diffbench.judge import Evidence, Excerpt, Explanation, Judge
from diffbench.line import one_line
from diffbench.scores import DetectionScore
from diffbench.seeds import derive

N_EXCERPTS = 100
"""Excerpts to explain from, and again as many to be tested on."""

MIN_CONTEXTS = 8
"""Distinct contexts of either class, in either split, below which nothing is scored."""

MAX_EXPLANATION = 100_000
"""Characters: an explanation is stored in the record, which has a size limit."""

Answer = TypeVar("Answer")


def detect_findings(
    judge: Judge,
    findings: Sequence[Finding],
    tokens: Sequence[Sequence[str]],
    activities: Tensor,
    where: Tensor,
    sparse: bool,
    n_excerpts: int = N_EXCERPTS,
    seed: int = 0,
) -> tuple[DetectionScore, ...]:
    """Let a judge explain each finding and test the explanation on other documents.

    Args:
        judge: who explains, and who decides from the explanation.
        findings: the m findings.
        tokens: per document of the judge split, its tokens as strings.
        activities: finite activity of each finding's component, of either sign, [n_positions, m].
        where: document index and position of every unmasked position, [n_positions, 2].
        sparse: whether an activity of zero means off (see `active_mask`).
        n_excerpts: excerpts per finding and split, half of them active.
        seed: of the excerpts.

    Returns:
        Per finding, balanced accuracy on the test excerpts; undefined, and no judge asked, where there are too few.

    Raises:
        PluginError: the judge raised, or answered something else than it should.
    """
    contexts = Contexts.of(tokens, where, seed)
    scores = []
    for finding, column in zip(findings, activities.unbind(1), strict=True):
        component = finding.component
        activity = column.detach().double().abs()
        active = active_mask(activity, sparse)
        draw = derive(seed, "component", str(component))
        explain, test = sample_splits(contexts, activity, active, n_excerpts, draw)
        short = _shortage(explain, test)
        if short is not None:
            reason = f"active at {int(active.sum())} of {active.numel()} positions: {short}"
            text, accuracy = "", Figure.undefined(reason)
        else:
            what = f"judge {judge.name!r}, finding {finding.rank} (component {component})"
            text = _explain(judge, Evidence(explain, finding.tokens_up, finding.tokens_down), what)
            accuracy = Figure.of(balanced_accuracy(test, _detect(judge, text, test, what)))
        scores.append(DetectionScore(rank=finding.rank, component=component, explanation=text, accuracy=accuracy))
    return tuple(scores)


def balanced_accuracy(excerpts: Sequence[Excerpt], answers: Sequence[bool]) -> float:
    """Mean of the share of active excerpts called active and the share of inactive ones called inactive."""
    right: dict[bool, list[bool]] = {True: [], False: []}
    for excerpt, answer in zip(excerpts, answers, strict=True):
        right[excerpt.active].append(answer == excerpt.active)
    return (fmean(right[True]) + fmean(right[False])) / 2


def mean_detection(scores: Sequence[DetectionScore]) -> Figure:
    """Mean over the findings that have a number, with a 95% t interval over findings where there are three."""
    values = [score.accuracy.value for score in scores if score.accuracy.value is not None]
    if not scores:
        return Figure.undefined("there are no findings")
    if not values:
        return Figure.undefined(
            f"none of {len(scores)} findings could be tested; the first: {scores[0].accuracy.reason}"[:500]
        )
    interval = mean_interval(values)
    if interval is None:
        return Figure.of(fmean(values))
    mean, low, high = interval
    return Figure.of(mean, max(0.0, low), min(1.0, high))


def _shortage(explain: Sequence[Excerpt], test: Sequence[Excerpt]) -> str | None:
    for excerpts, split in ((explain, "explain"), (test, "test")):
        n = min(sum(excerpt.active == wanted for excerpt in excerpts) for wanted in (True, False))
        if n < MIN_CONTEXTS:
            return f"only {n} distinct contexts of either kind in the {split} documents, {MIN_CONTEXTS} are needed"
    return None


def _explain(judge: Judge, evidence: Evidence, what: str) -> str:
    explanation = _ask(lambda: judge.explain(evidence), what, "explain")
    text = explanation.text if isinstance(explanation, Explanation) else None
    if not isinstance(text, str):
        raise PluginError(f"{what}: explain() must return an Explanation with a text, got {explanation!r:.80}")
    if len(text) > MAX_EXPLANATION:
        raise PluginError(f"{what}: explain() wrote {len(text)} characters, {MAX_EXPLANATION} are allowed")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PluginError(f"{what}: explain() wrote lone surrogates, which no file can hold")
    return text


def _detect(judge: Judge, text: str, test: Sequence[Excerpt], what: str) -> list[bool]:
    windows = [excerpt.tokens for excerpt in test]
    answers = _ask(lambda: judge.detect(Explanation(text), windows), what, "detect")
    if not isinstance(answers, list) or any(type(answer) is not bool for answer in answers):
        raise PluginError(f"{what}: detect() must return a list of bool, got {answers!r:.80}")
    if len(answers) != len(test):
        raise PluginError(f"{what}: detect() gave {len(answers)} answers to {len(test)} contexts")
    return answers


def _ask(question: Callable[[], Answer], what: str, call: str) -> Answer:
    # A judge is foreign code: whatever it raises fails the cell, and must not pass for a score.
    try:
        return question()
    except Exception as error:
        raise PluginError(f"{what}: {call}() raised {type(error).__name__}: {one_line(error, 300)}") from error
