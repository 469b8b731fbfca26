"""Quote: what some questions would cost, told before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence

from diffbench.panel import Panel
from diffbench.question import Question, question_key
from diffbench.spending import FREE, Usage
from diffbench.truth import Schema


class Quote(Schema):
    """What questions would cost if each is answered at once, with an answer as long as allowed.

    Answers are mostly much shorter. Errors of the server and malformed answers bring more calls.

    Attributes:
        judge: whom they would be put to.
        questions: different ones.
        kept: those among them whose answers are there already, and cost nothing.
        usage: for the others.
    """

    judge: str
    questions: int
    kept: int
    usage: Usage

    def __add__(self, other: Quote) -> Quote:
        """Of questions of two kinds, put to the same judge, none of which stands in both."""
        return Quote(
            judge=self.judge,
            questions=self.questions + other.questions,
            kept=self.kept + other.kept,
            usage=self.usage + other.usage,
        )

    def __str__(self) -> str:
        told = f"judge {self.judge}: {self.questions} questions, {self.kept} of them answered already; "
        if not self.usage.calls:
            return told + "nothing to pay"
        cost = (
            "cost not known: set DIFFBENCH_JUDGE_PRICE=IN,OUT per million tokens"
            if self.usage.cost is None
            else f"cost at most {self.usage.cost:.4f} in the currency of the prices"
        )
        return (
            f"{told}{self.usage.calls} calls, at most {self.usage.tokens_in} tokens in and {self.usage.tokens_out} out "
            f"without retries; {cost}"
        )


def quote(panel: Panel, questions: Sequence[Question]) -> Quote:
    """What a panel would spend on questions; equal ones count once, and nothing is asked."""
    different = {question_key(question): question for question in questions}
    new = [question for question in different.values() if not panel.kept(question)]
    usage = FREE
    for question in new:
        usage += panel.judge.estimate(question)
    return Quote(judge=panel.judge.name, questions=len(different), kept=len(different) - len(new), usage=usage)
