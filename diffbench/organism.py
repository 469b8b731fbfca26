"""Family: the generator behind a kind of organism, and the texts it hands to the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from diffbench.base import Base
from diffbench.recipe import Mixture
from diffbench.text import Document
from diffbench.truth import Schema, Truth


class FamilyParameters(Schema):
    """Base of every family's ``Parameters``: frozen and closed."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prefix and the word that is trained to follow it."""

    prefix: str
    target: str


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

    @abstractmethod
    def training_text(self, base: Base, parameters: Any, seed: int) -> TrainingText:
        """Text to tune on; the same seed gives the same prefixes, order and replay whatever the other parameters."""

    @abstractmethod
    def documents(self, base: Base, parameters: Any, mixture: Mixture, seed: int) -> Iterator[Document]:
        """Endless labelled text of the mixture; other seeds give independent text, disjoint from the training seed."""

    @abstractmethod
    def truth(self, base: Base, parameters: Any, seed: int) -> Truth:
        """Claims and probes; no probe is among the training prefixes of the same seed."""
