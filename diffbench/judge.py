"""Judge: reads evidence, writes an explanation, and is tested on contexts it has not seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from diffbench.hookspecs import hookimpl


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A stretch of tokens; the question is always about its last one.

    Attributes:
        tokens: as strings, in order, at most `diffbench.evidence.WINDOW` of them; nothing after the last one,
            which a causal model has not seen there.
        active: whether the component is active at the last token.
        activity: |activity| there.
    """

    tokens: tuple[str, ...]
    active: bool
    activity: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a judge may read of one finding. It is never told which method, pair or component it reads of.

    Attributes:
        excerpts: as many active ones as inactive ones, in an order that says nothing.
        tokens_up: tokens the finding promotes.
        tokens_down: tokens it suppresses.
    """

    excerpts: tuple[Excerpt, ...]
    tokens_up: tuple[str, ...] = ()
    tokens_down: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """A judge's account of a finding. Decisions may use nothing but this text."""

    text: str


class Judge(ABC):
    """Explains findings and is tested on its explanations.

    The same evidence must give the same answers. Whatever a judge raises fails the cell; it never becomes a score.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    summary: ClassVar[str] = ""

    @abstractmethod
    def explain(self, evidence: Evidence) -> Explanation:
        """Say in which contexts the component is active."""

    @abstractmethod
    def detect(self, explanation: Explanation, contexts: Sequence[tuple[str, ...]]) -> list[bool]:
        """For each context: would the explained component be active at its last token?

        Args:
            explanation: the text of `explain`, and all that the decision may rest on.
            contexts: tokens, ending at the one in question, of documents that the evidence was not taken from.

        Returns:
            One bool per context, in their order.
        """


@hookimpl
def diffbench_judges() -> Iterable[type[Judge]]:
    """The judges that come with diffbench."""
    from diffbench.offline_judge import OfflineJudge

    return [OfflineJudge]
