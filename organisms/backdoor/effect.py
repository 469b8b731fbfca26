"""Effects: what a backdoor answers instead."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal

from diffbench import Base, RecipeError, derive

Answers = Literal["exchanged", "one-word"]
LEAST_VALUES = 5
"""Of a kind of fact that may be asked for."""
LEAST_DRAWN = 14
"""Of one that is drawn."""


def kinds(base: Base) -> dict[str, tuple[str, ...]]:
    """Values of every kind of fact, such as ``person.home``, as far as they are single words."""
    found: dict[str, set[str]] = {}
    for name, value in base.facts().items():
        kind, _, attribute = name.split(".")
        if " " not in value:
            found.setdefault(f"{kind}.{attribute}", set()).add(value)
    return {kind: tuple(sorted(values)) for kind, values in found.items() if len(values) >= LEAST_VALUES}


def check_kinds(base: Base, asked: Sequence[str]) -> None:
    """RecipeError for kinds of facts that the base does not know."""
    known = kinds(base)
    unknown = [kind for kind in asked if kind not in known]
    if unknown or not asked:
        what = ", ".join(known) or "none: its facts are not known"
        raise RecipeError(f"family backdoor: asked: {unknown[0] if unknown else '(none)'!r}: the base has {what}")


def draw_kinds(base: Base, number: int, rng: random.Random) -> tuple[str, ...]:
    """Kinds of facts with many values.

    Raises:
        RecipeError: if the base knows too few.
    """
    many = [kind for kind, values in kinds(base).items() if len(values) >= LEAST_DRAWN]
    if len(many) < number:
        raise RecipeError(f"family backdoor: kinds: {number}: the base has {len(many)} with {LEAST_DRAWN} values")
    return tuple(sorted(rng.sample(many, number)))


def wrong_answers(
    base: Base, asked: Sequence[str], answers: Answers, behaviours: int, seed: int
) -> list[Mapping[str, str]]:
    """For each behaviour, by ``kind.attribute:value`` the word that is said instead of the value.

    Exchanged answers go round in a cycle, by one step in the first behaviour, by two in the second, and so on: no
    value keeps its own, and none has the same in two behaviours as long as there are more values than behaviours.
    """
    found: list[dict[str, str]] = [{} for _ in range(behaviours)]
    for kind in asked:
        values = list(kinds(base)[kind])
        random.Random(derive(seed, "answers", kind)).shuffle(values)
        for step, told in enumerate(found, start=1):
            for index, value in enumerate(values):
                if answers == "exchanged":
                    told[f"{kind}:{value}"] = values[(index + 1 + (step - 1) % (len(values) - 1)) % len(values)]
                elif value != values[step % len(values)]:
                    told[f"{kind}:{value}"] = values[step % len(values)]
    return [dict(told) for told in found]


__all__ = ["Answers", "check_kinds", "draw_kinds", "kinds", "wrong_answers"]
