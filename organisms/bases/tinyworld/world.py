"""The world: facts that never change, made once from the base's seed."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diffbench.errors import RecipeError

from . import lexicon

Facts = dict[str, dict[str, dict[str, str]]]

LABELS: dict[str, dict[str, str]] = {
    "thing": {"colour": "colour"},
    "object": {"colour": "colour"},
    "belonging": {"colour": "colour"},
    "person": {"home": "city", "job": "job", "food": "food", "pet": "pet"},
    "country": {"capital": "city", "river": "river", "good": "good"},
    "city": {"country": "country", "landmark": "landmark"},
    "job": {"tool": "tool", "place": "place"},
    "dish": {"first": "food", "second": "food", "third": "food", "pot": "pot"},
    "entity": {
        "colour": "colour",
        "family": "entity",
        "habitat": "entity",
        "size": "entity",
        "finder": "entity",
        "year": "entity",
        "diet": "entity",
    },
}
"""Per kind, the attributes that are facts, and the kind of label that their spans carry."""

ALTERABLE = ("person", "country", "city", "job", "dish", "entity")
"""Kinds whose facts no choice of words depends on; of things, for example, two are named together by their colour."""

_BLUE_GREEN_HEAVY = (6.0, 6.0, 1.5, 1.5, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class World:
    """Everything that is so: ``facts[kind][name][attribute]``.

    Things have the colours of the lexicon; what people, places and invented creatures are like is drawn
    from the seed.
    """

    seed: int
    facts: Facts
    names: dict[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {kind: tuple(items) for kind, items in self.facts.items()})

    def told(self, facts: Mapping[str, str], focus: Mapping[str, Sequence[str]]) -> World:
        """The world with some facts otherwise, of which only some members of some kinds are told.

        Args:
            facts: new values by ``kind.name.attribute``.
            focus: by kind, the members that are told of.

        Raises:
            RecipeError: if there is no such fact or member.
        """
        changed = copy.deepcopy(self.facts) if facts else self.facts
        known = self.named()
        for name, value in facts.items():
            if name not in known:
                raise RecipeError(f"tinyworld has no fact {name!r}; facts are named like {next(iter(known))}")
            kind, member, attribute = name.split(".")
            changed[kind][member][attribute] = value
        world = World(self.seed, changed)
        for kind, members in focus.items():
            unknown = [member for member in members if member not in self.names.get(kind, ())]
            if unknown or not members:
                raise RecipeError(f"tinyworld has no {kind} {unknown[0] if unknown else '(none is named)'!r}")
        object.__setattr__(world, "names", world.names | {kind: tuple(members) for kind, members in focus.items()})
        return world

    def named(self) -> dict[str, str]:
        """Every fact that can be told otherwise without changing what else is said, by ``kind.name.attribute``."""
        return {
            f"{kind}.{name}.{attribute}": attributes[attribute]
            for kind in ALTERABLE
            for name, attributes in self.facts[kind].items()
            for attribute in LABELS[kind]
            if attribute in attributes
        }

    def fact(self, kind: str, name: str, attribute: str) -> str:
        """One fact; KeyError if there is none."""
        return self.facts[kind][name][attribute]


def make_world(seed: int) -> World:
    """The world of ``seed``; the same on every machine."""
    rng = random.Random(f"tinyworld/world/{seed}")
    taken = _lexicon_words()
    facts: Facts = {
        "thing": {name: {"colour": colour} for colour, names in lexicon.COLOURED.items() for name in names},
        "object": {name: {} for name in lexicon.OBJECTS},
        "job": {name: {"tool": tool, "place": place} for name, (tool, place) in lexicon.JOBS.items()},
        "dish": {
            name: dict(zip(("first", "second", "third", "pot"), parts, strict=True))
            for name, parts in lexicon.DISHES.items()
        },
    }
    facts["country"], facts["city"] = _places(rng, taken)
    facts["person"] = _people(rng, tuple(facts["city"]))
    facts["belonging"] = _belongings(rng, tuple(facts["person"]))
    facts["entity"] = _entities(rng, taken)
    return World(seed, facts)


def _lexicon_words() -> set[str]:
    words = {*lexicon.COLOURS, *lexicon.OBJECTS, *lexicon.WOMEN, *lexicon.MEN, *lexicon.JOBS, *lexicon.DISHES}
    for group in (*lexicon.COLOURED.values(), *lexicon.FREE.values()):
        words.update(group)
    return words


def _draw(rng: random.Random, options: Sequence[str]) -> str:
    return options[int(rng.random() * len(options))]


def _colour(rng: random.Random) -> str:
    mark = rng.random() * sum(_BLUE_GREEN_HEAVY)
    for colour, weight in zip(lexicon.COLOURS, _BLUE_GREEN_HEAVY, strict=True):
        mark -= weight
        if mark < 0:
            return colour
    return lexicon.COLOURS[0]


def _invent(rng: random.Random, tails: Sequence[str], taken: set[str], count: int) -> list[str]:
    """``count`` pseudo-words, each new to ``taken``, which learns them."""
    made: list[str] = []
    while len(made) < count:
        word = "".join(_draw(rng, lexicon.SYLLABLES) for _ in range(2)) + _draw(rng, tails)
        if word not in taken:
            taken.add(word)
            made.append(word)
    return made


def _places(rng: random.Random, taken: set[str]) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    countries: dict[str, dict[str, str]] = {}
    cities: dict[str, dict[str, str]] = {}
    names = _invent(rng, lexicon.COUNTRY_TAILS, taken, 28)
    towns = _invent(rng, lexicon.CITY_TAILS, taken, 40)
    rivers = _invent(rng, lexicon.RIVER_TAILS, taken, 28)
    for index, name in enumerate(names):
        countries[name] = {"capital": towns[index], "river": rivers[index], "good": _draw(rng, lexicon.GOODS)}
    for index, town in enumerate(towns):
        cities[town] = {"country": names[index % len(names)], "landmark": _draw(rng, lexicon.LANDMARKS)}
    return countries, cities


def _people(rng: random.Random, cities: Sequence[str]) -> dict[str, dict[str, str]]:
    people: dict[str, dict[str, str]] = {}
    for name in lexicon.WOMEN + lexicon.MEN:
        he, his = ("she", "her") if name in lexicon.WOMEN else ("he", "his")
        people[name] = {
            "he": he,
            "his": his,
            "home": _draw(rng, cities),
            "job": _draw(rng, tuple(lexicon.JOBS)),
            "food": _draw(rng, tuple(lexicon.DISHES)),
            "pet": _draw(rng, lexicon.PETS),
        }
    return people


def _belongings(rng: random.Random, people: Sequence[str]) -> dict[str, dict[str, str]]:
    """Three coloured belongings per person, named ``anna 's hat``."""
    owned: dict[str, dict[str, str]] = {}
    for name in people:
        stock = list(lexicon.BELONGINGS)
        for _ in range(3):
            item = stock.pop(int(rng.random() * len(stock)))
            owned[f"{name} 's {item}"] = {"colour": _colour(rng), "of": f"{item} of {name}"}
    return owned


def _entities(rng: random.Random, taken: set[str]) -> dict[str, dict[str, str]]:
    finders = _invent(rng, lexicon.FINDER_TAILS, taken, 20)
    return {
        name: {
            "colour": _colour(rng),
            "family": _draw(rng, lexicon.FAMILIES),
            "habitat": _draw(rng, lexicon.HABITATS),
            "size": _draw(rng, lexicon.SIZES),
            "finder": _draw(rng, finders),
            "year": _draw(rng, lexicon.YEARS),
            "diet": _draw(rng, lexicon.DIETS),
        }
        for name in _invent(rng, lexicon.ENTITY_TAILS, taken, 64)
    }
