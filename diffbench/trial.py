"""Trial: one question of an interpretability test with the right answer and the judge's, and how tests are made.

Four tests. Detection: is the component active at the last token of a context? Fuzzing: do marks stand where it is
active? Intruder: which of five contexts is not one of the component's? Intervention: which of two texts was written
while it was added to the model? The first two are balanced and scored by balanced accuracy, the last two by the share
of right picks (Bills et al. 2023; Paulo et al. 2024, arXiv 2410.13928; 2507.08473).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Literal, TypeAlias, TypeVar

from pydantic import Field

from diffbench.figure import Figure
from diffbench.finding_evidence import FindingEvidence
from diffbench.panel import Verdict
from diffbench.question import Detect, Excerpt, Fuzz, Intervene, Intrude, Marked, Marks, Pick, Question
from diffbench.truth import Schema

Test: TypeAlias = Literal["detection", "fuzzing", "intruder", "intervention"]
TESTS: tuple[Test, ...] = ("detection", "fuzzing", "intruder", "intervention")
EXPLAINED: tuple[Test, ...] = ("detection", "fuzzing", "intervention")
"""Tests that an explanation has a part in."""

MIN_CONTEXTS = 8
"""Distinct contexts of either class under which a test is not held."""
MIN_PICKS = 5
"""Picks under which one is not held."""
BATCH = 10
"""Contexts of one question."""
FAMILY = 4
"""Contexts of an intruder question that belong together."""
INTRUDERS = 10
"""Intruder questions of a finding."""
MOST_FAILED = 0.1
"""Share of a finding's questions of one test that may go without an answer; were there more, it has no score."""

Arm: TypeAlias = Literal["own", "shuffled"]
Thing = TypeVar("Thing")


class Item(Schema):
    """A question that is to be asked, and the right answer: a mark for each context, or an index."""

    test: Test
    question: Question
    right: tuple[int, ...]


class Trial(Schema):
    """A line of ``verdicts.jsonl``: what was asked for which finding, the right answer, and what the judge said."""

    test: Literal["explain", "summary", "grade", "choice", "detection", "fuzzing", "intruder", "intervention"]
    arm: Arm = Field("own", description="shuffled: asked with another finding's explanation")
    rank: int | None = Field(None, description="of the finding; null: of all together")
    component: int | None = None
    right: tuple[int, ...] = ()
    verdict: Verdict


def detection_items(explanation: str, evidence: FindingEvidence, contexts: int) -> list[Item]:
    """Up to ``contexts`` test contexts, as many active ones as inactive ones, some to a question."""
    half = contexts // 2
    chosen = _balanced(evidence.tests, half)
    return [
        Item(
            test="detection",
            question=Detect(explanation=explanation, contexts=tuple(excerpt.tokens for excerpt in part)),
            right=tuple(int(excerpt.active) for excerpt in part),
        )
        for part in _parts(chosen)
    ]


def fuzzing_items(explanation: str, evidence: FindingEvidence, contexts: int, seed: int) -> list[Item]:
    """Up to ``contexts`` marked contexts, half of them marked rightly, some to a question."""
    half = min(contexts // 2, len(evidence.marked_right), len(evidence.marked_wrong))
    both = [(context, 1) for context in evidence.marked_right[:half]]
    both += [(context, 0) for context in evidence.marked_wrong[:half]]
    random.Random(seed).shuffle(both)
    return [
        Item(
            test="fuzzing",
            question=Fuzz(explanation=explanation, contexts=tuple(context for context, _ in part)),
            right=tuple(mark for _, mark in part),
        )
        for part in _parts(both)
    ]


def intruder_items(evidence: FindingEvidence, seed: int) -> list[Item]:
    """Up to ten sets of four contexts in which the component is active and one in which it is not.

    The intruder's place goes round, so that a place of its own that a judge prefers is right as often as chance is.
    """
    rng = random.Random(seed)
    active = [excerpt for excerpt in evidence.tests if excerpt.active]
    others = [excerpt for excerpt in evidence.tests if not excerpt.active]
    items = []
    start = rng.randrange(FAMILY + 1)
    for n in range(min(INTRUDERS, len(others)) if len(active) >= FAMILY else 0):
        place = (start + n) % (FAMILY + 1)
        family = rng.sample(active, FAMILY)
        shown = [*family[:place], others[n], *family[place:]]
        contexts = tuple(Marked(tokens=one.tokens, marked=(len(one.tokens) - 1,)) for one in shown)
        items.append(Item(test="intruder", question=Intrude(contexts=contexts), right=(place,)))
    return items


def intervention_items(explanation: str, evidence: FindingEvidence, seed: int) -> list[Item]:
    """Every prompt after which the two texts differ; the steered one stands first as often as second."""
    pairs = [pair for pair in evidence.steered if pair.plain != pair.steered]
    order = [n % 2 for n in range(len(pairs))]
    random.Random(seed).shuffle(order)
    return [
        Item(
            test="intervention",
            question=Intervene(
                explanation=explanation,
                prompt=pair.prompt,
                texts=(pair.plain, pair.steered) if place else (pair.steered, pair.plain),
            ),
            right=(place,),
        )
        for pair, place in zip(pairs, order, strict=True)
    ]


def shortage(test: Test, items: Sequence[Item]) -> str | None:
    """Why a test cannot be held, or None."""
    rights = [mark for item in items for mark in item.right]
    if test in ("intruder", "intervention"):
        return None if len(rights) >= MIN_PICKS else f"{len(rights)} {test} questions, {MIN_PICKS} are needed"
    n = min(rights.count(0), rights.count(1))
    return None if n >= MIN_CONTEXTS else f"{n} distinct contexts of either kind, {MIN_CONTEXTS} are needed"


def score(trials: Sequence[Trial]) -> Figure:
    """The score of one finding in one test.

    Questions without an answer are left out where they are no more than a tenth; where more are missing there is no
    score, since what a judge does not answer is no random sample.
    """
    missing = [trial.verdict for trial in trials if trial.verdict.state != "ok"]
    if len(missing) > MOST_FAILED * len(trials):
        first = missing[0]
        return Figure.undefined(
            f"{len(missing)} of {len(trials)} questions without an answer; the first: {first.state}, "
            f"{first.problem or 'no reason given'}"[:500]
        )
    marks: dict[int, list[bool]] = {0: [], 1: []}
    picks: list[bool] = []
    for trial in trials:
        answer = trial.verdict.answer
        if isinstance(answer, Marks):
            for right, said in zip(trial.right, answer.marks, strict=True):
                marks[right].append(said == bool(right))
        elif isinstance(answer, Pick):
            picks.append((answer.pick,) == trial.right)
    if picks:
        return Figure.of(fmean(picks))
    if not marks[0] or not marks[1]:
        return Figure.undefined("only one kind of context was answered")
    return Figure.of((fmean(marks[0]) + fmean(marks[1])) / 2)


def _balanced(excerpts: Sequence[Excerpt], half: int) -> list[Excerpt]:
    """As many of either class, the first ones, in their order."""
    n = min(half, *(sum(excerpt.active == wanted for excerpt in excerpts) for wanted in (True, False)))
    left = {True: n, False: n}
    chosen = []
    for excerpt in excerpts:
        if left[excerpt.active]:
            left[excerpt.active] -= 1
            chosen.append(excerpt)
    return chosen


def _parts(things: Sequence[Thing]) -> Iterator[Sequence[Thing]]:
    for start in range(0, len(things), BATCH):
        yield things[start : start + BATCH]
