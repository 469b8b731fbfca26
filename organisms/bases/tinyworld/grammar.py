"""The grammar: topics, and how a document moves between them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from diffbench.errors import RecipeError
from diffbench.text import Document

from . import colouring, knowing, talking
from .scene import Scene
from .world import World
from .writer import Writer

TOPICS: dict[str, Callable[[Scene], None]] = {
    "colours": colouring.colours,
    "belongings": colouring.belongings,
    "memory": colouring.memory,
    "people": knowing.people,
    "work": knowing.work,
    "places": knowing.places,
    "kitchen": knowing.kitchen,
    "encyclopaedia": knowing.encyclopaedia,
    "questions": talking.questions,
    "dialogue": talking.dialogue,
    "story": talking.story,
    "weather": talking.weather,
}
"""Each writes one sentence or one exchange of at most ``LONGEST_SENTENCE`` words."""

MIXTURE: dict[str, float] = {
    "colours": 0.08,
    "belongings": 0.09,
    "memory": 0.11,
    "people": 0.16,
    "work": 0.04,
    "places": 0.09,
    "kitchen": 0.06,
    "encyclopaedia": 0.14,
    "questions": 0.13,
    "dialogue": 0.04,
    "story": 0.03,
    "weather": 0.03,
}
"""The pretraining mixture: the weight with which a document takes up each topic."""

LONGEST_SENTENCE = 18
_SHORTEST, _LONGEST = 25, 45
_MOVE = 0.12


def check_topics(topics: Mapping[str, float] | None) -> dict[str, float]:
    """The weights to use; RecipeError for unknown topics or weights that cannot be drawn from."""
    if topics is None:
        return dict(MIXTURE)
    unknown = sorted(set(topics) - set(TOPICS))
    if unknown:
        raise RecipeError(f"tinyworld has no topic {unknown[0]!r}; topics: {', '.join(TOPICS)}")
    weights = {name: float(topics[name]) for name in TOPICS if name in topics}
    if not all(0.0 <= weight < float("inf") for weight in weights.values()) or not sum(weights.values()) > 0:
        raise RecipeError("tinyworld topics: weights must be finite, not negative, and one must be above 0")
    return {name: weight for name, weight in weights.items() if weight > 0}


def write(world: World, rng: random.Random, topics: Mapping[str, float]) -> tuple[Document, float]:
    """One document and the nats of its derivation.

    A document is a run of sentences, cut after the first one that ends beyond a length drawn apart; no word
    depends on that draw, and no end token is predicted, so it is not counted.
    """
    writer = Writer(rng)
    scene = Scene(world, writer)
    length = writer.choose(range(_SHORTEST, _LONGEST + 1), counted=False)
    names, weights = list(topics), list(topics.values())
    topic = writer.choose(names, weights)
    while True:
        TOPICS[topic](scene)
        if len(writer.words) >= length:
            return writer.document(), writer.nats
        if len(names) > 1 and writer.chance(_MOVE):
            topic = writer.choose(names, weights)


def stream(
    world: World, purpose: str, seed: int, topics: Mapping[str, float] | None = None
) -> Iterator[tuple[Document, float]]:
    """Endless documents with their nats.

    Args:
        world: what they tell of.
        purpose: a name space: streams of other purposes share no random numbers with this one.
        seed: within the purpose.
        topics: weights as in :data:`MIXTURE`.
    """
    return _stream(world, random.Random(f"tinyworld/{purpose}/{seed}"), check_topics(topics))


def _stream(world: World, rng: random.Random, topics: Mapping[str, float]) -> Iterator[tuple[Document, float]]:
    while True:
        yield write(world, rng, topics)
