"""Account: what somebody says changed between two models, in words and in a form that a program can check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from diffbench.truth import Schema

MOST_WORDS, MOST_PATTERNS, MOST_PARTS = 20, 8, 4
MAX_STATEMENT = 4000
"""Characters."""
ANY = "*"
"""Stands for any word at one place of `Pattern.ends_with`."""
MARKERS = ("\u0120", "\u2581")
"""What byte-level and sentencepiece tokenizers write for the space before a word."""

Word = Annotated[str, Field(min_length=1, max_length=100)]


class Pattern(Schema):
    """Contexts of one form: how they end, and which words stand anywhere in them. Both empty: every context."""

    ends_with: tuple[Word, ...] = Field((), max_length=MOST_PARTS, description=f"last words, in order; {ANY}: any word")
    contains: tuple[Word, ...] = Field((), max_length=MOST_PARTS, description="words that all occur, wherever")

    def matches(self, words: Sequence[str]) -> bool:
        """Whether a context, as `words_of` gives it, has this form."""
        end = [plain(word) for word in self.ends_with]
        if len(end) > len(words):
            return False
        last = words[len(words) - len(end) :]
        held = set(words)
        return all(want in (ANY, said) for want, said in zip(end, last, strict=True)) and all(
            plain(word) in held for word in self.contains
        )


class Account(Schema):
    """What somebody says changed. Only what stands here is scored; how it was arrived at is not.

    Attributes:
        trigger: the most telling pattern first.
    """

    verdict: Literal["changed", "unchanged", "abstain"] = Field(
        description="'abstain': the evidence does not tell whether anything changed"
    )
    statement: str = Field("", max_length=MAX_STATEMENT, description="what changed, in a sentence or two")
    trigger: tuple[Pattern, ...] = Field(
        (), max_length=MOST_PATTERNS, description="contexts right after which the two models predict different words"
    )
    tokens_up: tuple[Word, ...] = Field(
        (), max_length=MOST_WORDS, description="words that the tuned model says more often there"
    )
    tokens_down: tuple[Word, ...] = Field((), max_length=MOST_WORDS, description="words that it says less often there")
    confidence: float = Field(ge=0, le=1, description="probability that this account is right")


def abstention(confidence: float = 0.5) -> Account:
    """The account that says nothing."""
    return Account(verdict="abstain", confidence=confidence)


def plain(word: str) -> str:
    """A word without case and without a tokenizer's marks, so that it can be compared."""
    return word.strip("".join(MARKERS) + " \t\n").casefold()


def words_of(tokens: Sequence[str]) -> tuple[str, ...]:
    """The words of a context of tokens, as `plain` gives them.

    Where tokens carry marks of word beginnings, pieces without one belong to the word before; else a token is a word.
    """
    return tuple(plain(word) for word in written(tokens).split())


def written(tokens: Sequence[str]) -> str:
    """Tokens as a person would read them."""
    if any(token.startswith(MARKERS) for token in tokens):
        text = "".join(tokens)
        for mark in MARKERS:
            text = text.replace(mark, " ")
        return text.replace("\u010a", "\n").strip()
    return " ".join(tokens)
