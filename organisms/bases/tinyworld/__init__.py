"""tinyworld: a small base model of a small world, rebuilt from its seed in minutes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from diffbench.base import BaseCard, EmbeddedBase, Progress
from diffbench.text import Document

from . import grammar
from .world import World, make_world

SEED = 1
_HERE = Path(__file__).parent


@lru_cache(maxsize=4)
def _world(seed: int) -> World:
    return make_world(seed)


class TinyWorld(EmbeddedBase):
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

    def facts(self) -> Mapping[str, str]:
        """Facts about people, countries, cities, jobs, dishes and invented creatures, by ``kind.name.attribute``."""
        return self.world().named()

    def documents(
        self,
        seed: int,
        topics: Mapping[str, float] | None = None,
        *,
        facts: Mapping[str, str] | None = None,
        focus: Mapping[str, Sequence[str]] | None = None,
        words: Mapping[str, Sequence[str]] | None = None,
    ) -> Iterator[Document]:
        """Endless labelled text; no seed gives the pretraining stream or the held-out one of the card.

        Args:
            seed: the same seed gives the same documents for ever; other seeds give independent ones.
            topics: relative weight per topic; None is the pretraining mixture.
            facts: facts that are told otherwise, by their name in `facts`.
            focus: by kind (such as ``entity``), the only members that the text is about.
            words: by class of free words, as ``topic.class`` or ``class``, the only words that are chosen.

        Raises:
            RecipeError: naming what there is, if a topic, fact, member or word is unknown.
        """
        world = self.world().told(facts or {}, focus or {}) if facts or focus else self.world()
        pairs = grammar.stream(world, "text", seed, topics, words)
        return (document for document, _ in pairs)

    def build(self, out: Path, progress: Progress) -> BaseCard:
        """Rebuild into ``out``: ``card.json`` and ``model/``; nothing is left there if it fails."""
        from .pretrain import Settings, build

        return build(self.name, self.version, out, Settings(seed=SEED), progress)


__all__ = ["SEED", "TinyWorld"]
