"""Choices: the statements among which a judge says which one an account speaks of.

They follow from a sheet and a seed alone, so that all accounts of a pair are asked about the same ones. Each consists
of whole sentences, as many as come nearest to a length that is drawn for it; what lengths are drawn around is itself
drawn so that the right one's could be one of them. Length so does not give the right one away.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from diffbench.seeds import derive
from diffbench.sheet import Sheet

WRONG = 7
"""Wrong statements beside the right one, as far as there are so many."""
OWN = 3
"""Of them, those that the claims' own author offers, at most."""
MOST_TOLD = 150
"""Words of a right statement that tells several claims: others are left out."""
NULL_WORDS = (12, 60)
"""Words of the right statement about a pair in which nothing was changed."""
SPREAD = (0.6, 1.5)
"""Least and greatest length of a statement, in terms of what the lengths are drawn around."""


def choices(sheet: Sheet, seed: int) -> tuple[tuple[str, ...], int]:
    """`n_choices` statements about a pair in a drawn order, one of them right, and its index."""
    rng = random.Random(derive(seed, "statements"))
    right, length = _right(sheet, rng)
    wrong = _wrong(sheet, length, rng)
    rng.shuffle(wrong)
    index = rng.randrange(len(wrong) + 1)
    return (*wrong[:index], right, *wrong[index:]), index


def n_choices(sheet: Sheet) -> int:
    """How many statements there are, whatever the seed."""
    always, own, other = _always(sheet), _of(sheet, "own"), _of(sheet, "other")
    return 1 + min(WRONG, len(always) + min(OWN, len(own)) + len(other))


def _right(sheet: Sheet, rng: random.Random) -> tuple[str, int]:
    """The right statement, and the length around which others are drawn."""
    if not sheet.changed:
        length = rng.randint(*NULL_WORDS)
        [nothing] = _of(sheet, "nothing")
        return " ".join(_as_many(nothing, _near(length, rng))), length
    statements = [fact.statement for fact in sheet.facts]
    told = _as_many(rng.sample(statements, len(statements)), MOST_TOLD)
    text = " ".join(statement for statement in statements if statement in told)
    return text, round(len(text.split()) / rng.uniform(*SPREAD))


def _of(sheet: Sheet, *kinds: str) -> list[tuple[str, ...]]:
    return [one.sentences for one in sheet.distractors if one.kind in kinds]


def _always(sheet: Sheet) -> list[tuple[str, ...]]:
    """That nothing was changed, where that is wrong, and generic chat tuning."""
    return _of(sheet, "nothing", "chat") if sheet.changed else _of(sheet, "chat")


def _wrong(sheet: Sheet, length: int, rng: random.Random) -> list[str]:
    drawn = [_as_many(sentences, _near(length, rng)) for sentences in _always(sheet)]
    # The author's best ones come first; what makes them long enough is drawn from the others.
    own = [sentence for sentences in _of(sheet, "own") for sentence in sentences]
    leads, rest = own[:OWN], own[OWN:]
    rng.shuffle(rest)
    for lead in leads:
        drawn.append(_as_many([lead, *rest], _near(length, rng)))
        rest = rest[len(drawn[-1]) - 1 :]
    others = _of(sheet, "other")
    rng.shuffle(others)
    while len(drawn) < WRONG and others:
        limit, pool = _near(length, rng), list(others.pop(0))
        while len(others) > WRONG - len(drawn) - 1 and len(" ".join(pool).split()) < limit:
            pool += others.pop(0)
        drawn.append(_as_many(pool, limit))
    return [" ".join(told) for told in drawn[:WRONG]]


def _near(length: int, rng: random.Random) -> int:
    return round(length * rng.uniform(*SPREAD))


def _as_many(sentences: Sequence[str], limit: int) -> list[str]:
    """The first sentence, and those after it as long as they bring the number of words nearer to a limit."""
    told: list[str] = []
    words = 0
    for sentence in sentences:
        more = words + len(sentence.split())
        if told and abs(limit - more) >= abs(limit - words):
            break
        told.append(sentence)
        words = more
    return told
