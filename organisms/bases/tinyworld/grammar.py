"""The grammar: topics, and how a document moves between them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from diffbench.errors import RecipeError
from diffbench.text import Document

from . import colouring, knowing, lexicon, talking
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


def check_words(words: Mapping[str, Sequence[str]]) -> None:
    """RecipeError for classes of free words that there are not, or words that are none of theirs."""
    for place, among in words.items():
        topic, _, name = place.rpartition(".")
        known = lexicon.FREE.get(name)
        if known is None or (topic and topic not in TOPICS):
            raise RecipeError(f"tinyworld has no free words {place!r}; classes: {', '.join(lexicon.FREE)}")
        if not among or not set(among) <= set(known):
            raise RecipeError(f"tinyworld's {name} words are {', '.join(known)}; got {', '.join(among) or 'none'}")


def write(
    world: World,
    rng: random.Random,
    topics: Mapping[str, float],
    words: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Document, float]:
    """One document and the nats of its derivation.

    A document is a run of sentences, cut after the first one that ends beyond a length drawn apart; no word
    depends on that draw, and no end token is predicted, so it is not counted.
    """
    writer = Writer(rng)
    scene = Scene(world, writer, words)
    length = writer.choose(range(_SHORTEST, _LONGEST + 1), counted=False)
    names, weights = list(topics), list(topics.values())
    topic = writer.choose(names, weights)
    while True:
        scene.topic = topic
        TOPICS[topic](scene)
        if len(writer.words) >= length:
            return writer.document(), writer.nats
        if len(names) > 1 and writer.chance(_MOVE):
            topic = writer.choose(names, weights)


def stream(
    world: World,
    purpose: str,
    seed: int,
    topics: Mapping[str, float] | None = None,
    words: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[tuple[Document, float]]:
    """Endless documents with their nats.

    Args:
        world: what they tell of.
        purpose: a name space: streams of other purposes share no random numbers with this one.
        seed: within the purpose.
        topics: weights as in :data:`MIXTURE`.
        words: by class of free words, as ``topic.class`` or ``class``, the only ones that are chosen.
    """
    check_words(words or {})
    return _stream(world, random.Random(f"tinyworld/{purpose}/{seed}"), check_topics(topics), words)


def _stream(
    world: World,
    rng: random.Random,
    topics: Mapping[str, float],
    words: Mapping[str, Sequence[str]] | None,
) -> Iterator[tuple[Document, float]]:
    while True:
        yield write(world, rng, topics, words)
