"""Offline choice: which statement an account speaks of, by the distinctive words that the two share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from diffbench.offline_grade import Said, mass
from diffbench.question import Choose, Pick
from diffbench.wording import TALK, content, stems

MOSTLY, SEVERAL = 0.6, 2
"""Share of a statement's words with which it is said, and words that make it another statement than the best one."""


def choose(question: Choose) -> Pick:
    """The statement with which an account shares most distinctive words, for its length; None: none, or two alike."""
    account = question.account
    if account.verdict == "abstain":
        return Pick(pick=None)
    nothing = [index for index, text in enumerate(question.statements) if says_nothing(text)]
    if account.verdict == "unchanged":
        return Pick(pick=nothing[0] if nothing else None)
    held = [frozenset[str]() if index in nothing else content(text) for index, text in enumerate(question.statements)]
    own = Said.of(account).everything
    if not any((words & own) - TALK for words in held):
        return Pick(pick=_only((len(words & own) / len(words) if words else 0.0 for words in held), MOSTLY))
    n_with = Counter(chain.from_iterable(held))
    rarity = {word: 0.0 if word in TALK else math.log((1 + len(held)) / n) for word, n in n_with.items()}
    pick = _only(mass(rarity, words & own) / math.sqrt(mass(rarity, words) or 1.0) for words in held)
    if pick is None or _ambiguous(own, [words - TALK for words in held], pick):
        return Pick(pick=None)
    return Pick(pick=pick)


def _ambiguous(own: frozenset[str], statements: Sequence[frozenset[str]], pick: int) -> bool:
    """Whether an account says another statement as well, or too little to tell the best one from another."""
    best = statements[pick]
    for index, words in enumerate(statements):
        shared = words & own
        if index == pick or not shared:
            continue
        if len(shared - best) >= SEVERAL and len(shared) >= MOSTLY * len(words):
            return True
        if shared == best & own and len(shared) < MOSTLY * len(best):
            return True
    return False


def _only(worth: Iterable[float], least: float = 1e-9) -> int | None:
    """The index of the highest value, if it is one alone and not too low."""
    values = list(worth)
    most = max(values, default=0.0)
    best = [index for index, value in enumerate(values) if value > most - 1e-9]
    return best[0] if most >= least and len(best) == 1 else None


def says_nothing(statement: str) -> bool:
    """Whether a statement says that nothing was changed."""
    return stems(statement)[:3] == stems("Nothing was changed")
