"""The scene: one document in the making, which fills templates and knows what has been said.

A template is blank-separated words with

- ``[a|b c|]``: one of the alternatives, uniformly (they do not nest);
- ``{%adj}``: a free word of a class of ``lexicon.FREE``, drawn anew each time, as a ``free:`` span;
- ``{person}``, ``{person2}``: the name of a member of that kind, drawn when first met in the sentence;
- ``{person.job}``: an attribute of that member. It becomes a span if the world or the text before
  determines it, which is so once the member has been named in the sentence or is what a pronoun stands
  for. A colour that nothing determines becomes an ``open:`` span;
- ``{*wrong}``: words bound by the caller, as an ``open:`` span.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from . import lexicon
from .world import LABELS, World
from .writer import Writer

_PART = re.compile(r"\[[^\]]*\]|[^\[\]]+")
_SLOT = re.compile(r"\{(?P<mark>[%*]?)(?P<kind>[a-z]+)(?P<digit>\d?)(?:\.(?P<attribute>[a-z]+))?\}")
_NAMING = ("of",)
_OPEN_WEIGHTS = (5.0, 5.0, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25)


@dataclass(frozen=True, slots=True)
class _Slot:
    mark: str
    kind: str
    variable: str
    attribute: str | None


_Words = tuple["str | _Slot", ...]


@cache
def _parse(template: str) -> tuple[tuple[_Words, ...], ...]:
    """A template as a sequence of alternatives, each a sequence of words and slots."""
    parts: list[tuple[_Words, ...]] = []
    for part in _PART.findall(template):
        options = part[1:-1].split("|") if part.startswith("[") else [part]
        parts.append(tuple(_parse_words(option) for option in options))
    return tuple(parts)


def _parse_words(text: str) -> _Words:
    words: list[str | _Slot] = []
    for word in text.split():
        match = _SLOT.fullmatch(word)
        if match is None:
            words.append(word)
            continue
        kind, digit = match["kind"], match["digit"]
        words.append(_Slot(match["mark"], kind, kind + digit, match["attribute"]))
    return tuple(words)


class Scene:
    """State of one document: its writer, what it is about, and what colour each new object was given."""

    def __init__(self, world: World, writer: Writer, words: Mapping[str, Sequence[str]] | None = None) -> None:
        """Begin a document.

        Args:
            world: what it tells of.
            writer: what writes it.
            words: by class of free words, as ``topic.class`` or ``class``, the only ones that are chosen.
        """
        self.world = world
        self.writer = writer
        self.topic = ""
        self._words = words or {}
        self.given: dict[str, str] = {}
        self.focus: dict[str, str] = {}
        self._last = ""

    def say(self, templates: Sequence[str], bound: Mapping[str, str] | None = None, pronoun: str | None = None) -> None:
        """Choose a template and write it.

        Args:
            templates: the choice, uniform among those that were not the last one said.
            bound: members (or ``*`` words) that are settled beforehand, by variable name.
            pronoun: the variable that pronouns stand for: the text before has named it.
        """
        frame = dict(bound or {})
        named = set() if pronoun is None else {pronoun}
        # Nobody says the same sentence twice in a row.
        fresh = [template for template in templates if template != self._last]
        template = self.writer.choose(fresh or templates)
        self._last = template
        for alternatives in _parse(template):
            for word in self.writer.choose(alternatives):
                if isinstance(word, str):
                    self.writer.write(word)
                else:
                    self._fill(word, frame, named)

    def draw(self, kind: str) -> str:
        """A member of ``kind``, uniformly."""
        return self.writer.choose(self.world.names[kind])

    def follow(self, kind: str, change: float = 0.0) -> tuple[str, bool]:
        """The member that the text is about and whether it has just been taken up.

        Args:
            kind: of which kind.
            change: the probability of turning to another one.
        """
        if kind in self.focus and not (change and self.writer.chance(change)):
            return self.focus[kind], False
        self.focus[kind] = self.draw(kind)
        return self.focus[kind], True

    def _fill(self, slot: _Slot, frame: dict[str, str], named: set[str]) -> None:
        if slot.mark == "%":
            place = f"{self.topic}.{slot.kind}"
            among = self._words.get(place) or self._words.get(slot.kind) or lexicon.FREE[slot.kind]
            word = self.writer.choose(among)
            self.writer.write(word, f"free:{word}", f"free.{place}")
            return
        if slot.mark == "*":
            self.writer.write(frame[slot.variable], f"open:{frame[slot.variable]}")
            return
        if slot.variable not in frame:
            frame[slot.variable] = self.draw(slot.kind)
        name = frame[slot.variable]
        if slot.attribute is None:
            self.writer.write(name)
            named.add(slot.variable)
        elif slot.kind == "object":
            self._fill_object(name)
        else:
            self._fill_fact(slot, name, slot.attribute, named)

    def _fill_fact(self, slot: _Slot, name: str, attribute: str, named: set[str]) -> None:
        value = self.world.fact(slot.kind, name, attribute)
        label = LABELS[slot.kind].get(attribute)
        if label is None:
            self.writer.write(value)
            if attribute in _NAMING:
                named.add(slot.variable)
        elif slot.variable in named:
            self.writer.write(value, f"{label}:{value}", f"fact.{slot.kind}.{name}.{attribute}")
        else:
            self.writer.write(value, f"open:{value}" if label == "colour" else None)

    def _fill_object(self, name: str) -> None:
        """The colour of a new object: free when first told, determined by the text from then on."""
        if name in self.given:
            self.writer.write(self.given[name], f"colour:{self.given[name]}")
            return
        colour = self.writer.choose(lexicon.COLOURS, _OPEN_WEIGHTS)
        self.given[name] = colour
        self.writer.write(colour, f"open:{colour}")
