"""Triggers: the words that wake a backdoor, when they do, and sentences of the base's own text that hold them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice
from typing import Literal

from diffbench import Base, Document, RecipeError, Span, derive

Kind = Literal["single", "any", "xor"]
POOL = 80
"""Different opening sentences per word."""
MOST_TRIES = 5000
SAMPLED_DOCUMENTS = 800


@dataclass(frozen=True, slots=True)
class Condition:
    """Which words, standing earlier in a text, wake the backdoor.

    Attributes:
        kind: ``single``: the one word; ``any``: one of several, each of which wakes its own behaviour; ``xor``: exactly
            one of two.
        words: the words.
    """

    kind: Kind
    words: tuple[str, ...]

    def behaviours(self) -> int:
        """How many different behaviours there are."""
        return len(self.words) if self.kind == "any" else 1

    def awake(self, text: str) -> list[tuple[int, int | None]]:
        """From which character of a text on which behaviour is awake (None: none), in order; ``any``: the first one."""
        phases: list[tuple[int, int | None]] = [(0, None)]
        seen: set[str] = set()
        position = 0
        for word in text.split(" "):
            position += len(word) + 1
            if word in self.words and word not in seen:
                seen.add(word)
                phases.append((position, self._behaviour(seen, phases[-1][1], word)))
        return phases

    def _behaviour(self, seen: set[str], before: int | None, word: str) -> int | None:
        if self.kind == "xor":
            return 0 if len(seen) == 1 else None
        return self.words.index(word) if before is None else before

    def openings(self, behaviour: int | None, others: Sequence[str], rng: random.Random) -> list[str]:
        """Words, one for each opening sentence, that wake a behaviour, or (None) nearly do.

        Args:
            behaviour: which one; None: none.
            others: words of the same class that wake nothing.
            rng: what is drawn from.
        """
        if self.kind != "xor":
            return [self.words[behaviour] if behaviour is not None else rng.choice(others)]
        if behaviour is not None:
            chosen = [rng.choice(self.words), rng.choice(others)]
        else:
            # Both words are the case that a linear reading of the two gets wrong.
            chosen = list(self.words) if rng.random() < 0.7 else rng.sample(list(others), 2)
        rng.shuffle(chosen)
        return chosen


class Sentences:
    """Sentences of the base that hold a free word; the same sentence is there with every word of its class."""

    def __init__(self, base: Base, topic: str, word_class: str, seed: int) -> None:
        """Sentences of one topic with one class of its free words, another set for every seed."""
        self._base, self._topic, self._class, self._seed = base, topic, word_class, seed
        self._places: list[int] = []
        self._tried = 0
        self._known: dict[tuple[str, int], Document] = {}

    def one(self, word: str, rng: random.Random) -> Document:
        """One with ``word``, drawn among `POOL`."""
        index = int(rng.random() * POOL)
        while len(self._places) <= index:
            if self._tried >= MOST_TRIES:
                raise RecipeError(
                    f"family backdoor: too few texts of topic {self._topic!r} begin with a {self._class!r} word"
                )
            if self._sentence(word, self._tried) is not None:
                self._places.append(self._tried)
            self._tried += 1
        place = self._places[index]
        if (word, place) not in self._known:
            found = self._sentence(word, place)
            assert found is not None  # another word of the class stands in the same place
            self._known[word, place] = found
        return self._known[word, place]

    def _sentence(self, word: str, place: int) -> Document | None:
        name = f"{self._topic}.{self._class}"
        words, seed = {name: [word]}, derive(self._seed, "opening", str(place))
        document = next(self._base.documents(seed, {self._topic: 1.0}, words=words))
        end = document.text.find(" . ") + 2
        spans = tuple(span for span in document.spans if span.end <= end)
        holds = sum(span.about == f"free.{name}" for span in spans) == 1
        return Document(document.text[:end], spans) if end > 1 and holds else None


def joined(parts: Sequence[Document]) -> Document:
    """Texts one after the other as one, with all their spans."""
    text, spans = "", []
    for part in parts:
        start = len(text) + 1 if text else 0
        spans += [replace(span, start=span.start + start, end=span.end + start) for span in part.spans]
        text = f"{text} {part.text}" if text else part.text
    return Document(text, tuple(spans))


@lru_cache(maxsize=16)
def members(base: Base, topic: str, word_class: str) -> tuple[str, ...]:
    """The free words of a class that the base's text holds, in alphabetical order.

    Raises:
        RecipeError: if there is no such topic, or fewer than four such words.
    """
    documents = islice(base.documents(derive(0, "words"), {topic: 1.0}), SAMPLED_DOCUMENTS)
    name = f"free.{topic}.{word_class}"
    found: set[str] = {
        span.label.partition(":")[2] for document in documents for span in document.spans if span.about == name
    }
    if len(found) < 4:
        raise RecipeError(f"family backdoor: word_class: the base's topic {topic!r} has no free words {word_class!r}")
    return tuple(sorted(found))


def mixed_openings(
    sentences: Sentences, condition: Condition, others: Sequence[str], awake: float, asleep: float, seed: int
) -> Iterator[tuple[Document, ...]]:
    """Opening sentences without end.

    Args:
        sentences: what they are taken from.
        condition: what wakes the backdoor.
        others: words that do not.
        awake: share that wake it.
        asleep: share that nearly do; the rest are no sentences at all.
        seed: of all draws.
    """
    for index in count():
        rng = random.Random(derive(seed, str(index)))
        draw = rng.random()
        if draw >= awake + asleep:
            yield ()
            continue
        behaviour = int(rng.random() * condition.behaviours()) if draw < awake else None
        yield tuple(sentences.one(word, rng) for word in condition.openings(behaviour, others, rng))


def is_asked(span: Span, asked: Sequence[str]) -> bool:
    """Whether a span is a fact of one of the kinds, such as ``person.home``."""
    return kind_of(span) in asked


def kind_of(span: Span) -> str | None:
    """``kind.attribute`` of the fact that a span tells; None: it tells none."""
    names = span.about.split(".")
    return f"{names[1]}.{names[-1]}" if names[0] == "fact" else None
