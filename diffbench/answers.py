"""Answers: what became of the questions that a judge was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from diffbench.panel import Verdict
from diffbench.truth import Schema


class Answers(Schema):
    """Questions by what became of them. Only those that are ok enter a figure."""

    asked: int = 0
    ok: int = 0
    malformed: int = 0
    refused: int = 0
    failed: int = 0
    unaffordable: int = 0

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> Answers:
        """Count verdicts."""
        return cls(asked=len(verdicts), **Counter[str](verdict.state for verdict in verdicts))

    @property
    def unanswered(self) -> int:
        """Questions without an answer that counts."""
        return self.asked - self.ok

    @property
    def unasked(self) -> int:
        """Questions to which the judge said nothing at all: they may be asked again."""
        return self.failed + self.unaffordable
