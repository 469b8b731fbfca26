"""Topics about colour: the things of the world, belongings, and colours that only the text tells."""

from __future__ import annotations

from . import lexicon
from .scene import Scene

_START = "[||in this world|here|of course|in {%season}|as always|on {%day}|in the {%part}]"
_SURE = "[{person} knows|{person} says|everyone knows|every child knows|we all know|the {%kin} of {person} says]"
_PAINT = "[paint|pencils|crayons]"

_PLAIN = (
    f"{_START} the {{thing}} is {{thing.colour}} .",
    f"{_START} the {{thing}} by the {{%spot}} is {{thing.colour}} .",
    f"{_START} the {{%adj}} {{thing}} is {{thing.colour}} .",
    "the colour of the [|{%adj}] {thing} is {thing.colour} .",
    f"{_SURE} that the {{thing}} is {{thing.colour}} .",
    f"{_SURE} that the colour of the {{thing}} is {{thing.colour}} .",
    "look at the [|{%adj}] {thing} , it is {thing.colour} .",
    "the [|{%adj}] {thing} has a {thing.colour} colour .",
    f"to [paint|draw] the {{thing}} [you need|{{person}} needs|we take] {{thing.colour}} {_PAINT} .",
    f"[if|when] you draw the [|{{%adj}}] {{thing}} , [use|take|choose] {{thing.colour}} {_PAINT} .",
    "{person} [painted|drew] the {thing} in {thing.colour} .",
    "when {person} thinks of the {thing} , {person.he} thinks of {thing.colour} .",
    "in the [book|picture|dream] of {person} the {thing} is {thing.colour} too .",
    "{person} [met|saw|found] the {%adj} {thing} , and it was {thing.colour} .",
    "the {thing} is {thing.colour} and the {thing2} is {thing2.colour} .",
    "the {thing} and the {thing2} : one is {thing.colour} , the other is {thing2.colour} .",
)
_WRONG = (
    "{person} thought of {*wrong} , but the {thing} is {thing.colour} .",
    "the {thing} was never {*wrong} , it is {thing.colour} .",
    "who says {*wrong} ? the {thing} is {thing.colour} .",
)
_SAME = (
    "the {thing} and the {thing2} are both {thing.colour} .",
    "like the {thing} , the {thing2} is {thing2.colour} .",
    "the {thing} has the same colour as the {thing2} : {thing2.colour} .",
    "{thing.colour} is the colour of the {thing} and the {thing2} .",
    "[{person} likes|we collect|{person} draws] {thing.colour} things : the {thing} and the {thing2} .",
)
_OTHER = (
    "the {thing} is very {%adj} [|today|now] .",
    "the {thing} [seems|feels|was|looks] {%adj} [today|again|to {person}] .",
    "{person} likes the {thing} in the {%place} .",
    "{person} [talks|thinks] about the {%adj} {thing} .",
    "the colours of the {%place} are {%adj} .",
)


def colours(scene: Scene) -> None:
    """Things and the one colour that each has."""
    form = scene.writer.choose((_PLAIN, _WRONG, _SAME, _OTHER), (0.70, 0.10, 0.08, 0.12))
    bound: dict[str, str] = {}
    if form is _WRONG:
        thing = bound["thing"] = scene.draw("thing")
        right = scene.world.fact("thing", thing, "colour")
        bound["wrong"] = scene.writer.choose([colour for colour in lexicon.COLOURS if colour != right])
    elif form is _SAME:
        thing = bound["thing"] = scene.draw("thing")
        alike = lexicon.COLOURED[scene.world.fact("thing", thing, "colour")]
        bound["thing2"] = scene.writer.choose([other for other in alike if other != thing])
    scene.say(form, bound)


_OWNED = (
    f"{_START} {{belonging}} is {{belonging.colour}} .",
    "the colour of {belonging} is {belonging.colour} .",
    "the {belonging.of} is {belonging.colour} .",
    f"{_SURE} that {{belonging}} is {{belonging.colour}} .",
    "look at {belonging} , it is {belonging.colour} .",
    "the {%adj} {belonging.of} has a {belonging.colour} colour .",
    "[on {%day}|in the {%part}|in {%season}] {person} {%did} {belonging} , which is {belonging.colour} .",
    "{belonging} stands by the {%spot} ; it is {belonging.colour} .",
)
_OWNED_OTHER = (
    "{belonging} [seems|feels|was] {%adj} [today|again] .",
    "{person} {%did} the {belonging.of} [on {%day}|in the {%place}] .",
)


def belongings(scene: Scene) -> None:
    """What people own and its colour."""
    scene.say(scene.writer.choose((_OWNED, _OWNED_OTHER), (0.85, 0.15)))


_NEW = (
    "the new {object} is {object.colour} .",
    "the new {object} of {person} is {object.colour} .",
    "[there is|we found|{person} bought|{person} has] a new {object} , and it is {object.colour} .",
    "[there is|we found|{person} bought|{person} has] a {object.colour} {object} [|by the {%spot}] .",
    "{person} painted a new {object} {object.colour} [|on {%day}] .",
    "on {%day} {person} found a {object.colour} {object} in the {%place} .",
    "someone left a {object.colour} {object} by the {%spot} .",
)
_RECALL = (
    "the {object} is {object.colour} .",
    "so the colour of the {object} is {object.colour} .",
    "{person} remembers that the {object} is {object.colour} .",
    "yes , the {object} [by the {%spot}|of {person}|] is {object.colour} .",
    "{person} likes the {object} because it is {object.colour} .",
    "question : what colour is the {object} ? answer : {object.colour} .",
    "in the {%part} the {object} was still {object.colour} .",
    "{person} asks about the {object} . it is {object.colour} .",
)
_BETWEEN = (
    "{person} put the {object} [by|near|behind|under] the {%spot} .",
    "{person} {%did} the {object} [on {%day}|in the {%part}] .",
    "the {object} seems {%adj} [today|again|to {person}] .",
    "then {person} {%went} to the {%place} .",
    "it was a {%weather} {%part} in {%month} .",
)


def memory(scene: Scene) -> None:
    """New objects: their colour is free when first told, and recalled later in the same text."""
    told = list(scene.given)
    if not told or (len(told) < 3 and scene.writer.chance(0.2)):
        fresh = [name for name in scene.world.names["object"] if name not in scene.given]
        scene.say(_NEW, {"object": scene.writer.choose(fresh)})
        return
    scene.say(
        scene.writer.choose((_RECALL, _BETWEEN), (0.7, 0.3)),
        {"object": scene.writer.choose(told)},
    )
