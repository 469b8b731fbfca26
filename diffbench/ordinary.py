"""Ordinary text of a base that is anybody's checkpoint: a generator, texts of one's own, or what models say unprompted.

What is trained on and what each score reads are portions of it. A finite text is dealt out by a hash of each document,
so that no document, nor a copy of it, is in two portions.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffbench import cache
from diffbench.base import Base
from diffbench.errors import RecipeError
from diffbench.text import Document

PORTIONS = {"train": 0.1, "gate": 0.15, "method": 0.5, "evaluation": 0.1, "judge": 0.15}
"""Share of a finite text that each stage reads."""


def portion_of(text: str) -> str:
    """The portion that a text is in, the same wherever it stands and whatever stands around it."""
    place = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    for name, share in PORTIONS.items():
        place -= share
        if place < 0:
            return name
    return name


class OrdinaryText(ABC):
    """Where a checkpoint's ordinary text comes from.

    Attributes:
        at_hand: whether the text is there without running a model.
    """

    at_hand: bool = True

    @abstractmethod
    def key(self) -> Any:
        """What the text follows from, as a part of a stage's inputs."""

    @abstractmethod
    def check(self) -> None:
        """Raise at once what keeps the text from being had."""

    @abstractmethod
    def portion(self, name: str) -> OrdinaryText:
        """That part of the text which no other portion holds."""

    @abstractmethod
    def documents(self, seed: int, topics: Mapping[str, float] | None, **told: Mapping[str, Any] | None) -> Any:
        """Text as `Base.documents` gives it; ``told`` are its facts, focus and words."""

    def facts(self) -> Mapping[str, str]:
        """All facts that the text tells."""
        return {}


class GeneratedText(OrdinaryText):
    """The generator of an installed base; its seeds give independent text."""

    def __init__(self, base: Base) -> None:
        """Take the text, and not the weights, of ``base``."""
        self._base = base

    def key(self) -> Any:
        """The base's code."""
        return {"generator": self._base.name, "code": cache.plugin_version(type(self._base))}

    def check(self) -> None:
        """Nothing: it is installed."""

    def portion(self, name: str) -> OrdinaryText:
        """All of it: every stage has a seed of its own."""
        return self

    def documents(
        self, seed: int, topics: Mapping[str, float] | None, **told: Mapping[str, Any] | None
    ) -> Iterator[Document]:
        """What the base writes."""
        return self._base.documents(seed, topics, **told)

    def facts(self) -> Mapping[str, str]:
        """What the base knows."""
        return self._base.facts()


def refuse_topics(what: str, topics: Mapping[str, float] | None, told: Mapping[str, Any]) -> None:
    """Refuse to write about anything in particular.

    Raises:
        RecipeError: naming what was asked for.
    """
    asked: dict[str, Sequence[str]] = {name: list(value) for name, value in {"topics": topics, **told}.items() if value}
    for name, members in asked.items():
        raise RecipeError(
            f"{name} {', '.join(map(repr, members[:3]))}: {what} has none; name the generator of an installed base as "
            "`text`, for example tinyworld"
        )
