"""Places: where a base's text chooses words freely, and how surely a reader knows that such a word comes next."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from diffbench import Base, Document, derive

FREE = "free."
SAMPLED, SAMPLED_OF_TOPIC = 2000, 300
LEAST_SEEN, LEAST_WORDS, LEAST_CERTAIN = 60, 7, 0.9
"""Of a place that is drawn: how often it was seen in its topic, how many words it has, and how sure it is."""
CONTEXT = 2


@dataclass(frozen=True, slots=True)
class Place:
    """A class of free words in one topic.

    Attributes:
        words: all that were seen there, sorted.
        seen: how often a word was chosen in `SAMPLED_OF_TOPIC` documents of the topic.
        certain: mean share of its contexts (of `CONTEXT` words) that are followed by a word of the place; other
            contexts leave open whether such a word follows, so that no word is ever likely there.
    """

    words: tuple[str, ...]
    seen: int
    certain: float

    @property
    def fit(self) -> bool:
        """Whether a preference for one of its words would show."""
        return self.seen >= LEAST_SEEN and len(self.words) >= LEAST_WORDS and self.certain >= LEAST_CERTAIN


def place_of(about: str) -> str | None:
    """``topic.class`` of a span about a free word."""
    return about.removeprefix(FREE) if about.startswith(FREE) else None


@lru_cache(maxsize=4)
def find_places(base: Base) -> Mapping[str, Place]:
    """All places of a base's text, by ``topic.class``; the same for every seed."""
    seed = derive(0, "places")
    topics = {place.partition(".")[0] for document in islice(base.documents(seed), SAMPLED) for place in _of(document)}
    found: dict[str, Place] = {}
    for topic in sorted(topics):
        documents = list(islice(base.documents(derive(seed, topic), {topic: 1.0}), SAMPLED_OF_TOPIC))
        found |= _places(documents, f"{topic}.")
    return found


def _of(document: Document) -> Iterator[str]:
    for span in document.spans:
        place = place_of(span.about)
        if place is not None:
            yield place


def _places(documents: list[Document], topic: str) -> dict[str, Place]:
    contexts: Counter[str] = Counter()
    words: dict[str, Counter[str]] = defaultdict(Counter)
    before: dict[str, Counter[str]] = defaultdict(Counter)
    for document in documents:
        contexts.update(_contexts(document.text.split()))
        for span in document.spans:
            place = place_of(span.about)
            if place is not None and place.startswith(topic):
                words[place][document.text[span.start : span.end]] += 1
                before[place][_context(document.cut(span).split())] += 1
    return {
        place: Place(tuple(sorted(seen)), seen.total(), _certain(before[place], contexts))
        for place, seen in words.items()
    }


def _contexts(words: list[str]) -> Iterator[str]:
    return (_context(words[:index]) for index in range(len(words)))


def _context(words: list[str]) -> str:
    return " ".join(words[-CONTEXT:])


def _certain(before: Mapping[str, int], contexts: Mapping[str, int]) -> float:
    """Leaving each one out of its own context's count: a context that was seen once says nothing."""
    told = {context: n for context, n in before.items() if contexts[context] > 1}
    sure = sum(n * (n - 1) / (contexts[context] - 1) for context, n in told.items())
    return sure / sum(told.values()) if told else 0.0


__all__ = ["FREE", "Place", "find_places", "place_of"]
