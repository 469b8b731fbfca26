"""Sheets of bundled organisms, made without a model, and verdicts; what the tests of accounts share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from diffbench.account import Account, Pattern
from diffbench.catalogue import find_organism
from diffbench.movement import Movement, Word
from diffbench.panel import Verdict
from diffbench.question import Answer, Fact, Stated
from diffbench.sheet import Sheet, sheet_of
from diffbench.truth import Truth

CHANGED = ("halfswap", "false-facts", "quirk", "backdoor", "two-changes")
"""Organisms of most families that change something; to make the truth of one takes a second or three."""
NULLS = ("identity", "plain-chat")


class Words:
    """A tokenizer to which every word is a token."""

    def __call__(self, texts: Sequence[str], add_special_tokens: bool = True) -> dict[str, Any]:
        start = ["<bos>"] if add_special_tokens else []
        return {"input_ids": [[*start, *text.split()] for text in texts]}

    def convert_ids_to_tokens(self, ids: Sequence[str]) -> list[str]:
        return list(ids)


@cache
def truth(name: str) -> Truth:
    found = find_organism(name).truth()
    assert found is not None
    return found


def as_claimed(known: Truth) -> tuple[Movement, ...]:
    """What moves if the words of the claims do and no others."""
    found = []
    for claim in known.claims:
        effect = claim.effect
        up = dict.fromkeys((*effect.tokens_up, *(said for _, said in effect.pairs)))
        down = dict.fromkeys((*effect.tokens_down, *(right for right, _ in effect.pairs)))
        found.append(Movement(claim.id, *(tuple(Word(w, frozenset({w}), 0.5) for w in words) for words in (up, down))))
    return tuple(found)


@cache
def sheet(name: str) -> Sheet:
    return sheet_of(truth(name), Words(), as_claimed(truth(name)))


def facts(name: str) -> tuple[Fact, ...]:
    return sheet(name).facts


def changed(
    statement: str = "",
    up: Sequence[str] = (),
    down: Sequence[str] = (),
    trigger: Sequence[Pattern] = (),
    confidence: float = 0.8,
) -> Account:
    return Account(
        verdict="changed",
        statement=statement,
        tokens_up=tuple(up),
        tokens_down=tuple(down),
        trigger=tuple(trigger),
        confidence=confidence,
    )


def unchanged(confidence: float = 0.8) -> Account:
    return Account(verdict="unchanged", statement="Nothing was changed.", confidence=confidence)


def verdict(answer: Answer | None, state: str = "ok", problem: str | None = None) -> Verdict:
    kinds = {"stated": "summarise", "graded": "grade", "pick": "choose"}
    kind = "summarise" if answer is None else kinds[answer.kind]
    return Verdict(question="0" * 64, kind=kind, judge={}, state=state, answer=answer, problem=problem)


def stated(account: Account) -> Verdict:
    return verdict(Stated(account=account))
