"""Sighting: what exchanges with two models show of them, read by counting words.

Where they were seen to differ, by how much, and the contexts that they wrote themselves. Knows nothing of models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diffbench.account import plain
from diffbench.question import Exchange

MOST_WORDS = 40
"""Of a context that is asked about: the end of a longer one."""
LEAST_WORDS = 4
"""Of a context that is measured: what models say to a fragment tells more of the fragment than of them."""

_WORD, _PIECE = re.compile(r"\s*\S+"), re.compile(r"\s*(?:\w+|[^\w\s]+)")


@dataclass(frozen=True, slots=True)
class Next:
    """A next word, and how probable it is in the first model and in the second."""

    word: str
    first: float
    second: float

    @property
    def rise(self) -> float:
        """How much likelier it is in the second model."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class Sighting:
    """A context after which the next words of both models are known.

    Attributes:
        words: of the context, in order, as `diffbench.account.plain` gives them.
        following: the likeliest next words of either model, at least one.
    """

    words: tuple[str, ...]
    following: tuple[Next, ...]

    @property
    def size(self) -> float:
        """Total variation distance of the two distributions, as far as they were told: 0 equal, 1 nothing shared."""
        return sum(abs(one.rise) for one in self.following) / 2

    @property
    def rose(self) -> str:
        """The word that gained most."""
        return max(self.following, key=lambda one: (one.rise, one.word)).word

    @property
    def fell(self) -> str:
        """The word that lost most."""
        return min(self.following, key=lambda one: (one.rise, one.word)).word

    def of(self, word: str) -> Next | None:
        """What is known of a word here; None: it is none of the likeliest."""
        return next((one for one in self.following if one.word == word), None)


@dataclass(frozen=True, slots=True)
class Place:
    """A context in a text that a model wrote, and what was said next.

    Attributes:
        context: as it can be asked about, at most `MOST_WORDS` words.
        said: the next word; of both models where they part here.
        agreed: both models wrote the context, and the same next word.
        parted: both wrote the context, and not the same next word.
    """

    context: str
    said: tuple[str, ...]
    agreed: bool = False
    parted: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """Of the context, in order."""
        return words_in(self.context)


def sightings(asked: Sequence[Exchange]) -> list[Sighting]:
    """What was measured, one for each exchange about a context that both models know all words of."""
    found = []
    for exchange in asked:
        words = words_in(exchange.prompt)
        if exchange.remark is not None or len(words) < LEAST_WORDS or not exchange.first_next:
            continue
        before, after = _summed(exchange.first_next), _summed(exchange.second_next)
        names = sorted(before.keys() & after.keys())  # of one that is told of one model alone nothing is known
        if names:
            found.append(Sighting(words, tuple(Next(name, before[name], after[name]) for name in names)))
    return found


def places(asked: Sequence[Exchange]) -> list[Place]:
    """Every context in the texts of both models, each once, in the order in which they were written."""
    spaced = _spaced(asked)
    found: dict[str, Place] = {}
    for exchange in asked:
        if exchange.remark is not None:
            continue
        for first, second in zip(exchange.first, exchange.second, strict=False):
            for place in _places(exchange.prompt, _pieces(first, spaced), _pieces(second, spaced), spaced):
                known = found.get(place.context)
                if known is None or (place.parted and not known.parted):
                    found[place.context] = place
    return list(found.values())


def ends(asked: Sequence[Exchange]) -> Iterator[str]:
    """Each prompt with a whole text behind it, which leads on to what was not seen yet: drawn texts one after another.

    The first text of each exchange is left out where there are drawn ones: it says what is likeliest again and again.
    """
    spaced = _spaced(asked)
    drawn = [exchange.second[1:] or exchange.second for exchange in asked if exchange.remark is None]
    prompts = [exchange.prompt for exchange in asked if exchange.remark is None]
    for number in range(max(map(len, drawn), default=0)):
        for prompt, texts in zip(prompts, drawn, strict=True):
            if number < len(texts) and texts[number].strip():
                yield _cut(_joined(prompt, texts[number], spaced))


def words_in(text: str) -> tuple[str, ...]:
    """The words of a text, in order, as `diffbench.account.plain` gives them."""
    return tuple(plain(word) for word in text.split())


def _places(prompt: str, first: list[str], second: list[str], spaced: bool) -> Iterator[Place]:
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        context = _cut(_joined(prompt, "".join(first[:shared]), spaced))
        yield Place(context, (plain(first[shared]),), agreed=True)
        shared += 1
    if shared < min(len(first), len(second)):
        context = _cut(_joined(prompt, "".join(first[:shared]), spaced))
        yield Place(context, (plain(first[shared]), plain(second[shared])), parted=True)
    for own in (first, second):
        for at in range(shared + 1, len(own)):
            yield Place(_cut(_joined(prompt, "".join(own[:at]), spaced)), (plain(own[at]),))


def _spaced(asked: Sequence[Exchange]) -> bool:
    """Whether texts bring the space before their first word along, as those of byte-level tokenizers do."""
    return any(text[:1].isspace() for exchange in asked for text in (*exchange.first, *exchange.second))


def _pieces(text: str, spaced: bool) -> list[str]:
    """Words with the blanks before them; signs are words of their own where blanks do not set all words apart."""
    return (_PIECE if spaced else _WORD).findall(text)


def _joined(prompt: str, text: str, spaced: bool) -> str:
    return prompt + text if spaced or not text or not prompt.strip() else f"{prompt} {text}"


def _cut(context: str) -> str:
    """The last words of a context, with the blanks between them as they are."""
    words = _WORD.findall(context)
    return context if len(words) <= MOST_WORDS else "".join(words[-MOST_WORDS:]).lstrip()


def _summed(told: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Probability by word; tokens that are one word but for case and marks count together."""
    found: dict[str, float] = {}
    for token, share in told:
        found[plain(token)] = found.get(plain(token), 0.0) + share
    return found
