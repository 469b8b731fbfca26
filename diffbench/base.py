"""Base models that can be rebuilt: where their weights are, the text they were trained on, their card."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from diffbench.text import Document
from diffbench.truth import Schema

Progress = Callable[[str, float], None]
"""Called with a short phrase and the fraction done (0..1)."""


class BaseCard(Schema):
    """What is known of a base model; every figure is measured when it is built."""

    name: str
    version: int = Field(description="raised whenever the text, the tokenizer or the training changes")
    seed: int
    vocabulary: int = Field(description="entries of the tokenizer")
    parameters: int
    layers: int
    width: int = Field(description="residual width d")
    training_tokens: int
    heldout_loss: float = Field(description="nats per predicted token on held-out text")
    generator_entropy: float = Field(
        description="nats per predicted token of the generator's own derivations on the same held-out text"
    )
    probes: dict[str, float] = Field(description="accuracy per fixed knowledge probe set, 0..1")
    sha256: str = Field(description="of model.safetensors")


class Base(ABC):
    """A base model and the ordinary text that goes with it."""

    name: ClassVar[str]

    @property
    def at_hand(self) -> bool:
        """Whether its text is there without running a model."""
        return True

    @abstractmethod
    def path(self) -> Path:
        """Folder in Hugging Face format: config.json, safetensors weights, tokenizer files."""

    @abstractmethod
    def key(self) -> str:
        """SHA-256 that stands for the weights."""

    @abstractmethod
    def layers(self) -> int:
        """Number of transformer blocks."""

    @abstractmethod
    def documents(
        self,
        seed: int,
        topics: Mapping[str, float] | None = None,
        *,
        facts: Mapping[str, str] | None = None,
        focus: Mapping[str, Sequence[str]] | None = None,
        words: Mapping[str, Sequence[str]] | None = None,
    ) -> Iterator[Document]:
        """Endless labelled text of the base's own distribution.

        Args:
            seed: the same seed gives the same documents for ever; other seeds give independent ones. Facts that are
                told otherwise and words that are chosen otherwise change the words in their places and nothing else.
            topics: relative weight per topic; None is the pretraining mixture.
            facts: facts that are told otherwise, by their name in `facts`.
            focus: by kind of thing, the only members that the text is about.
            words: by class of free words, as ``topic.class`` or ``class``, the only words that are chosen.

        Raises:
            RecipeError: if the base's text has no such topic, fact, member or word.
        """

    def facts(self) -> Mapping[str, str]:
        """All facts of the base's text, ``kind.name.attribute`` to value; none where it is not known what it tells."""
        return {}

    def portion(self, name: str) -> Base:
        """The base with that part of its text alone which no other portion holds; of endless text it is all of it.

        Args:
            name: ``train``, ``gate``, ``method``, ``evaluation`` or ``judge``.
        """
        return self

    def text_key(self) -> Any:
        """What its text follows from besides its code and weights, as a part of stages' keys."""
        return None

    def check(self) -> None:
        """Raise at once what keeps weights or text from being had."""
        self.path()


class EmbeddedBase(Base):
    """A base model that ships with the recipe that rebuilds it."""

    version: ClassVar[int]

    @abstractmethod
    def card(self) -> BaseCard:
        """The card stored beside the weights."""

    @abstractmethod
    def build(self, out: Path, progress: Progress) -> BaseCard:
        """Rebuild tokenizer and weights from the seed into ``out`` and measure the card anew."""

    def key(self) -> str:
        """SHA-256 of the weights."""
        return self.card().sha256

    def layers(self) -> int:
        """Number of transformer blocks."""
        return self.card().layers
