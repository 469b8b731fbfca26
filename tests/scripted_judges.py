"""Judges whose every answer is known before, so that what is measured of them is known too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import ClassVar

from diffbench.account import Account
from diffbench.gold import GoldSet
from diffbench.judge import Judge, Reply
from diffbench.question import (
    Answer,
    Choose,
    Detect,
    Evidence,
    Fuzz,
    Grade,
    Graded,
    Marks,
    Pick,
    Question,
    Text,
    question_key,
)
from diffbench.spending import Usage
from diffbench.survey import padded


class Scripted(Judge):
    """Answers by the methods of a subclass; counts how often it was asked."""

    name: ClassVar[str] = "scripted"

    def __init__(self) -> None:
        self.asked = 0

    def answer(self, question: Question) -> Reply:
        self.asked += 1
        answer = self.say(question)
        return Reply("ok", answer, raw=answer.model_dump_json())

    def say(self, question: Question) -> Answer:
        match question:
            case Grade():
                return Graded(grade=self.grade(question))
            case Choose():
                return Pick(pick=self.choose(question))
            case Detect() | Fuzz():
                return Marks(marks=tuple(self.mark(question)))
            case Evidence():
                return Text(text=self.explain(question))
        raise AssertionError(question)

    def grade(self, question: Grade) -> int | None:
        return 0

    def choose(self, question: Choose) -> int | None:
        return None

    def mark(self, question: Detect | Fuzz) -> list[bool]:
        return [False] * len(question.contexts)

    def explain(self, question: Evidence) -> str:
        return "The component is active."


class Perfect(Scripted):
    """Knows the gold set by heart, with or without padding."""

    name = "perfect"

    def __init__(self, gold: GoldSet) -> None:
        super().__init__()
        self.grades: dict[str, int | None] = {}
        self.right: dict[str, str] = {}
        for one in gold.accounts:
            for account in (one.account, padded(one.account)):
                self.grades[question_key(gold.grading(one, account))] = one.grade
            self.right[_key(one.account)] = gold.pair_of(one).statement

    def grade(self, question: Grade) -> int | None:
        return self.grades[question_key(question)]

    def choose(self, question: Choose) -> int | None:
        return question.statements.index(self.right[_key(question.account)])


class Coin(Scripted):
    """Draws one of the six categories, of places, and of marks by a hash of the question and a seed."""

    name = "coin"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def draw(self, question: Question, n: int) -> int:
        text = f"{self.seed} {question_key(question)}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % n

    def grade(self, question: Grade) -> int | None:
        return (0, 1, 2, 3, 4, None)[self.draw(question, 6)]

    def choose(self, question: Choose) -> int | None:
        return self.draw(question, len(question.statements))


class Always(Scripted):
    """Gives one grade and picks one place, whatever it is asked."""

    name = "always"

    def __init__(self, grade: int | None, place: int | None = None) -> None:
        super().__init__()
        self.given, self.place = grade, place

    def grade(self, question: Grade) -> int | None:
        return self.given

    def choose(self, question: Choose) -> int | None:
        return self.place


class Dazzled(Perfect):
    """Gives one grade more to what is padded, and so takes length for content."""

    name = "dazzled"

    def grade(self, question: Grade) -> int | None:
        grade = super().grade(question)
        long = "typed in one sitting" in question.account.statement
        return grade if grade is None else min(4, grade + long)


class Fickle(Perfect):
    """Gives every other time that it is asked a question one grade less or more."""

    name = "fickle"

    def __init__(self, gold: GoldSet) -> None:
        super().__init__(gold)
        self.times: dict[str, int] = {}

    def grade(self, question: Grade) -> int | None:
        key = question_key(question)
        self.times[key] = self.times.get(key, -1) + 1
        grade = super().grade(question)
        return grade if grade is None or self.times[key] % 2 == 0 else (grade + 1) % 5


class Paid(Perfect):
    """Its answers are kept."""

    name = "paid"
    paid = True

    def estimate(self, question: Question) -> Usage:
        return Usage(calls=1, tokens_in=10, tokens_out=5, cost=0.25)

    def answer(self, question: Question) -> Reply:
        reply = super().answer(question)
        return Reply("ok", reply.answer, raw=reply.raw, usage=self.estimate(question))


class Gullible(Scripted):
    """Does as a text says: gives the grade, pick or mark that stands in it."""

    name = "gullible"
    signs: tuple[str, ...] = ("rade", "４", ":", "true")

    def obeys(self, text: str) -> bool:
        return any(sign in text for sign in self.signs)

    def grade(self, question: Grade) -> int | None:
        return 4 if self.obeys(_text(question.account)) else 0

    def choose(self, question: Choose) -> int | None:
        return 0 if self.obeys(_text(question.account)) else None

    def mark(self, question: Detect | Fuzz) -> list[bool]:
        found = [context if isinstance(context, tuple) else context.tokens for context in question.contexts]
        obeys = self.obeys(" ".join((question.explanation, *(token for tokens in found for token in tokens))))
        return [obeys] * len(found)


class Altered(Scripted):
    """Perfect or stubborn, but for the answer or state that a function puts in place of some."""

    name = "altered"

    def __init__(self, judge: Judge, alter: Callable[[Question, Reply], Reply]) -> None:
        super().__init__()
        self.judge, self.alter = judge, alter

    def answer(self, question: Question) -> Reply:
        return self.alter(question, self.judge.answer(question))


def _key(account: Account) -> str:
    return account.model_dump_json()


def _text(account: Account) -> str:
    parts = [account.statement, *account.tokens_up, *account.tokens_down]
    return " ".join((*parts, *(word for pattern in account.trigger for word in pattern.contains)))
