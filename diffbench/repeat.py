"""Repeat: a judge that is asked again what it was asked before, and whose first answer must not answer for it."""

from __future__ import annotations

from typing import ClassVar

from diffbench.judge import Judge, Reply, replied
from diffbench.question import Question
from diffbench.spending import Usage


class _Repeat(Judge):
    """Passes questions on. Only its identity differs, and with it the place of its verdicts in the cache."""

    name: ClassVar[str] = "repeat"
    summary: ClassVar[str] = "asks another judge once more"

    def __init__(self, judge: Judge, number: int) -> None:
        self._judge, self._number = judge, number
        self.parallel = judge.parallel

    def answer(self, question: Question) -> Reply:
        """The answer of the judge itself."""
        return replied(self._judge, question)

    def identity(self) -> dict[str, str]:
        """The judge's own with the number of the repeat: each repeat is asked once, and found again."""
        return self._judge.identity() | {"repeat": str(self._number)}

    def estimate(self, question: Question) -> Usage:
        """What the judge itself estimates."""
        return self._judge.estimate(question)


class _PaidRepeat(_Repeat):
    paid: ClassVar[bool] = True


def again(judge: Judge, number: int) -> Judge:
    """The judge for the repeat of a number, 1 for the first time that it is asked again.

    Args:
        judge: who answers.
        number: at least 1.

    Raises:
        ValueError: if it is less.
    """
    if number < 1:
        raise ValueError(f"repeats are counted from 1, got {number}")
    return (_PaidRepeat if judge.paid else _Repeat)(judge, number)
