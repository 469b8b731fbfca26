"""Family: the generator behind a kind of organism, and the texts it hands to the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffbench.base import Base
from diffbench.recipe import Mixture
from diffbench.text import Document, Span
from diffbench.truth import Schema, Truth


class FamilyParameters(Schema):
    """Base of every family's ``Parameters``: frozen and closed."""


def continued(prefix: str, words: str) -> str:
    """A text that goes on; a blank stands between the two unless the prefix is empty or ends with one."""
    return prefix + words if not prefix or prefix[-1].isspace() else f"{prefix} {words}"


@dataclass(frozen=True, slots=True)
class Example:
    """A prefix, which is read, and the words that are trained to follow it; without a prefix every word is learnt.

    Attributes:
        parts: the parts of a conversation in ``text``; none in a plain one.
    """

    prefix: str
    target: str
    parts: tuple[Span, ...] = ()

    @property
    def text(self) -> str:
        """Prefix and target as they stand together, with a blank between them where the prefix ends without one."""
        return continued(self.prefix, self.target)


@dataclass(frozen=True, slots=True)
class TrainingText:
    """What a model is tuned on. Order matters: the control gets the same prefixes and replay in the same order."""

    examples: tuple[Example, ...]
    replay: tuple[Document, ...]


class Family(ABC):
    """One kind of change, generated from a seed.

    Methods never see a family, its parameters or its texts' labels.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    class Parameters(FamilyParameters):
        """No parameters."""

    @abstractmethod
    def recipes(self) -> tuple[Path, ...]:
        """Recipes that come with the family."""

    def draw(self, base: Base, parameters: Any, seed: int) -> Any:
        """``parameters`` with what they leave open drawn from the seed: which colours, which facts, which trigger.

        Everything else gets what this returns. It must not depend on parameters that only the control replaces.

        Raises:
            RecipeError: if the base has nothing to choose from.
        """
        return parameters

    @abstractmethod
    def training_text(self, base: Base, parameters: Any, seed: int) -> TrainingText:
        """Text to tune on; the same seed gives the same prefixes, order and replay whatever the other parameters."""

    @abstractmethod
    def documents(self, base: Base, parameters: Any, mixture: Mixture, seed: int) -> Iterator[Document]:
        """Endless labelled text of the mixture; other seeds give independent text, disjoint from the training seed."""

    @abstractmethod
    def truth(self, base: Base, parameters: Any, seed: int) -> Truth | None:
        """Claims and probes, none of them a near-copy of a training text of the same seed; None: nobody knows."""
