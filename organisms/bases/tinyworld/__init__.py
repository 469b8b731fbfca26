"""tinyworld: a small base model of a small world, rebuilt from its seed in minutes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from diffbench.base import Base, BaseCard, Progress
from diffbench.text import Document

from . import grammar
from .world import World, make_world

SEED = 1
_HERE = Path(__file__).parent


@lru_cache(maxsize=4)
def _world(seed: int) -> World:
    return make_world(seed)


class TinyWorld(Base):
    """The embedded base: word-level, about 1.2 M parameters, text from a generator with known facts."""

    name: ClassVar[str] = "tinyworld"
    version: ClassVar[int] = 1

    def path(self) -> Path:
        """Folder in Hugging Face format with the shipped weights."""
        return _HERE / "model"

    def card(self) -> BaseCard:
        """The card of the shipped weights."""
        return BaseCard.model_validate_json((_HERE / "card.json").read_text(encoding="utf-8"))

    def world(self) -> World:
        """The facts that the text tells."""
        return _world(SEED)

    def documents(self, seed: int, topics: Mapping[str, float] | None = None) -> Iterator[Document]:
        """Endless labelled text; no seed gives the pretraining stream or the held-out one of the card.

        Args:
            seed: the same seed gives the same documents for ever; other seeds give independent ones.
            topics: relative weight per topic; None is the pretraining mixture. RecipeError names the known
                topics if one is unknown.
        """
        pairs = grammar.stream(self.world(), "text", seed, topics)
        return (document for document, _ in pairs)

    def build(self, out: Path, progress: Progress) -> BaseCard:
        """Rebuild into ``out``: ``card.json`` and ``model/``; nothing is left there if it fails."""
        from .pretrain import Settings, build

        return build(self.name, self.version, out, Settings(seed=SEED), progress)


__all__ = ["SEED", "TinyWorld"]
