"""Base models that can be rebuilt: where their weights are, the text they were trained on, their card."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

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
    """A base model that ships with the recipe that rebuilds it."""

    name: ClassVar[str]
    version: ClassVar[int]

    @abstractmethod
    def path(self) -> Path:
        """Folder in Hugging Face format: config.json, model.safetensors, tokenizer files."""

    @abstractmethod
    def card(self) -> BaseCard:
        """The card stored beside the weights."""

    @abstractmethod
    def documents(self, seed: int, topics: Mapping[str, float] | None = None) -> Iterator[Document]:
        """Endless labelled text of the base's own distribution.

        Args:
            seed: the same seed gives the same documents for ever; other seeds give independent ones.
            topics: relative weight per topic; None is the pretraining mixture.
        """

    @abstractmethod
    def build(self, out: Path, progress: Progress) -> BaseCard:
        """Rebuild tokenizer and weights from the seed into ``out`` and measure the card anew."""
