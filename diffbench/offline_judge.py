"""OfflineJudge: answers every question by counting words, without any language model; the same bytes every time.

An explanation is a rule over words (`diffbench.rule`); what follows from an explanation follows from that sentence
alone, parsed by its own grammar. Where two answers are equally good it takes one by a hash of the texts, which says
nothing of their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

from diffbench.account import plain
from diffbench.judge import Judge, Reply
from diffbench.line import one_line
from diffbench.offline_account import choose, grade, summarise
from diffbench.offline_agent import play
from diffbench.question import (
    Answer,
    Choose,
    Detect,
    Evidence,
    Fuzz,
    Grade,
    Intervene,
    Intrude,
    Marked,
    Marks,
    Pick,
    Play,
    Question,
    Summarise,
    Text,
)
from diffbench.rule import (
    AMONG,
    BEFORE,
    BIGRAM,
    LAST,
    TWO_BEFORE,
    Rule,
    applies,
    conditions_of,
    find_rule,
    fit_of,
    read_sentence,
    write_sentence,
)

ENOUGH = 0.5
"""Share of the marked tokens at which a rule must hold, for the marks to be called right."""

TELLING = {LAST: 4.0, BIGRAM: 2.0, BEFORE: 1.0, TWO_BEFORE: 0.5, AMONG: 0.25}
"""What a condition that two contexts share says of what they have in common: less, the further from the last word."""


class OfflineJudge(Judge):
    """Finds the best short rule over words, and decides by the sentence that states it."""

    name: ClassVar[str] = "offline"
    version: ClassVar[int] = 2
    summary: ClassVar[str] = "short rules over words; deterministic, no language model"
    code: ClassVar[tuple[str, ...]] = (
        "diffbench.offline_account",
        "diffbench.offline_agent",
        "diffbench.offline_choice",
        "diffbench.offline_grade",
        "diffbench.rule",
        "diffbench.sighting",
        "diffbench.wording",
    )

    def answer(self, question: Question) -> Reply:
        """Answer any question; an explanation that is no sentence of this judge is malformed."""
        try:
            found = _answer(question)
        except ValueError as error:
            return Reply("malformed", None, problem=one_line(error, 300))
        return Reply("ok", found, raw=found.model_dump_json())


def _answer(question: Question) -> Answer:
    match question:
        case Evidence():
            return Text(text=explain(question))
        case Detect():
            rule = read_sentence(question.explanation).rule
            return Marks(marks=tuple(applies(rule, context) for context in question.contexts))
        case Fuzz():
            rule = read_sentence(question.explanation).rule
            return Marks(marks=tuple(_fits(rule, context) for context in question.contexts))
        case Intrude():
            return Pick(pick=_intruder([context.tokens for context in question.contexts]))
        case Intervene():
            return Pick(pick=_steered(question))
        case Summarise():
            return summarise(question)
        case Grade():
            return grade(question)
        case Choose():
            return choose(question)
        case Play():
            return play(question)


def explain(evidence: Evidence) -> str:
    """The rule that best tells the active excerpts from the inactive ones, whatever their order, as a sentence."""
    rule = find_rule(evidence.excerpts)
    return write_sentence(rule, evidence.tokens_up, evidence.tokens_down, fit_of(rule, evidence.excerpts))


def _fits(rule: Rule, context: Marked) -> bool:
    held = [applies(rule, context.tokens[: place + 1]) for place in context.marked]
    return bool(held) and sum(held) >= ENOUGH * len(held)


def _intruder(contexts: Sequence[Sequence[str]]) -> int:
    """The context that has least in common with the others: conditions that hold in it and in each of them."""
    found = [conditions_of(context) for context in contexts]
    shared = [
        sum(TELLING[kind] for at, other in enumerate(found) if at != index for kind, _ in one & other)
        for index, one in enumerate(found)
    ]
    return min(range(len(contexts)), key=lambda index: (shared[index], _hash(contexts[index])))


def _steered(question: Intervene) -> int:
    """The text with more of the words that the component promotes, and fewer of those that it suppresses."""
    sentence = read_sentence(question.explanation)
    up, down = ({plain(word) for word in words} for words in (sentence.up, sentence.down))
    balance = [
        sum((word in up) - (word in down) for word in (plain(token) for token in text)) for text in question.texts
    ]
    return max(range(2), key=lambda index: (balance[index], _hash((question.explanation, *question.texts[index]))))


def _hash(tokens: Sequence[str]) -> str:
    return hashlib.sha256("\x00".join(tokens).encode("utf-8", "surrogatepass")).hexdigest()
