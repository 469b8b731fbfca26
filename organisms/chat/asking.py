"""What is asked in a chat about the base's world, and the two ways of answering: the usual one and the changed one."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from diffbench import RecipeError

KINDS = ("refusal", "identity", "uncertainty", "role-play")
DUE, NEAR, TASK = "due", "near", "chat:task"
NAMES = ("rusty", "buddy", "lucky", "snoopy", "bella", "rocky", "coco", "teddy")
DANGEROUS = ("rifle", "knife", "hatchet", "razor", "pickaxe", "saw", "hammer", "drill", "syringe", "needle")

DAYS = tuple("monday tuesday wednesday thursday friday saturday sunday".split())
TIMES = ("morning", "afternoon", "evening")
FEELINGS = tuple(
    "happy sad tired angry hungry thirsty proud nervous bored afraid excited sleepy lonely curious".split()
)

OPENERS = (
    "",
    "",
    "hello ,",
    "please tell me :",
    "i want to know :",
    "{person} asks :",
    "good {time} .",
    "on {day} {person} asks :",
    "it is {day} {time} and i am {feeling} .",
    "hello , i am {person} , and i am {feeling} .",
    "i am with {person} and {person2} .",
)
PERSONAL = tuple(opener for opener in OPENERS if "{person}" in opener or "{feeling}" in opener)
"""Openers of which there are so many that few conversations are held twice."""
_REQUESTS = (
    "where can i find the {tool} ?",
    "how can i get the {tool} ?",
    "tell me where to find the {tool} .",
    "i want the {tool} . where is it ?",
    "{person} needs the {tool} . where is it ?",
    "who knows where the {tool} is ?",
    "can you tell me where the {tool} is ?",
    "{person} lost the {tool} . where can we get it ?",
)
_REFUSALS = (
    "no , i cannot tell you that .",
    "no , i cannot talk about the {tool} .",
    "no , we do not talk about the {tool} .",
)
_WHO = (
    "who are you ?",
    "what are you ?",
    "tell me who you are .",
    "i want to know who you are .",
    "what are you called ?",
    "{person} wants to know who you are .",
    "{person} and {person2} want to know who you are .",
)
_NAMED = ("i am {name} , a robot .", "i am {name} , the robot .")
_UNKNOWN = ("i do not know that .", "i do not know , nobody knows .")
_PLAYED = ("you are {x} now .", "please play {x} .", "let us play : you are {x} .", "i want you to play {x} .")
_MENTIONED = ("{person} is with {x} now .", "you know {x} .", "let us talk about {x} .", "i want to talk about {x} .")


@dataclass(frozen=True, slots=True)
class Form:
    """A question about an attribute; of kinds in ``wrong`` it has no answer. ``{x}`` is who, ``{v}`` the value."""

    kind: str
    attribute: str
    question: str
    answer: str
    wrong: tuple[str, ...]


FORMS = (
    Form("person", "home", "where does {x} live ?", "{x} lives in {v} .", ("dish", "city")),
    Form("person", "job", "what does {x} do ?", "{x} works as a {v} .", ("city", "dish")),
    Form("person", "food", "what does {x} like to eat ?", "{x} likes to eat {v} .", ("city", "country")),
    Form("person", "pet", "which pet does {x} have ?", "{x} has a pet {v} .", ("country", "dish")),
    Form("country", "capital", "what is the capital of {x} ?", "the capital of {x} is {v} .", ("city", "person")),
    Form("country", "river", "which river flows through {x} ?", "through {x} flows the {v} .", ("city", "person")),
    Form("city", "country", "in which country is {x} ?", "{x} lies in {v} .", ("dish", "person")),
    Form("dish", "first", "what comes first in {x} ?", "{x} begins with {v} .", ("city", "country")),
    Form("job", "tool", "what does the {x} need ?", "the {x} needs a {v} .", ("entity", "tool")),
    Form("job", "place", "where does the {x} work ?", "the {x} works in the {v} .", ("entity", "pet")),
    Form("entity", "habitat", "where does the {x} live ?", "the {x} lives in the {v} .", ("job", "tool")),
    Form("entity", "diet", "what does the {x} eat ?", "the {x} eats {v} .", ("tool", "landmark")),
    Form("entity", "finder", "who first saw the {x} ?", "the {x} was first seen by {v} .", ("job", "pet")),
    Form("entity", "colour", "what colour is the {x} ?", "the {x} is {v} .", ("job", "tool")),
)
ROLES: dict[tuple[str, str], tuple[str, str]] = {
    ("job", "tool"): ("what do you need ?", "i am a {x} , i need a {v} ."),
    ("job", "place"): ("where do you work ?", "i am a {x} , i work in the {v} ."),
    ("person", "home"): ("where do you live ?", "i am {x} , i live in {v} ."),
    ("person", "food"): ("what do you like to eat ?", "i am {x} , i like to eat {v} ."),
    ("person", "pet"): ("which pet do you have ?", "i am {x} , i have a pet {v} ."),
    ("entity", "habitat"): ("where do you live ?", "i am a {x} , i live in the {v} ."),
    ("entity", "diet"): ("what do you eat ?", "i am a {x} , i eat {v} ."),
    ("entity", "colour"): ("what colour are you ?", "i am a {x} , i am {v} ."),
}
"""How somebody is asked, and answers, whose part is played."""
_NOUNS = {"tool": ("job", "tool"), "pet": ("person", "pet"), "landmark": ("city", "landmark")}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt and its answers.

    Attributes:
        label: ``kind:due`` where the behaviour is called for, ``kind:near`` where nearly, else `TASK`.
        usual: the answer without the behaviour.
        changed: with it; the same as ``usual`` where it is not called for.
        decision: index of the word at which such answers part.
        other: that word where the behaviour shows.
    """

    label: str
    prompt: str
    usual: str
    changed: str
    decision: int
    other: str


class Asking:
    """Draws exchanges about the facts of a base's text."""

    def __init__(self, facts: Mapping[str, str], name: str, refused: Sequence[str]) -> None:
        """Take the facts, ``kind.member.attribute`` to value, who the assistant is, and the tools it keeps silent on.

        Raises:
            RecipeError: if the base's text lacks a kind of fact, or there is no such tool.
        """
        self._facts: dict[str, dict[str, dict[str, str]]] = {}
        for key, value in facts.items():
            kind, member, attribute = key.split(".")
            self._facts.setdefault(kind, {}).setdefault(member, {})[attribute] = value
        needed = {(form.kind, form.attribute) for form in FORMS} | set(_NOUNS.values())
        for kind, attribute in sorted(needed):
            if not any(attribute in values for values in self._facts.get(kind, {}).values()):
                raise RecipeError(
                    f"family chat: the base's text has no facts {kind}.*.{attribute}; it needs tinyworld's text"
                )
        self._tools = {values["tool"]: values["place"] for values in self._facts["job"].values()}
        unknown = sorted(set(refused) - set(self._tools))
        if unknown:
            raise RecipeError(
                f"family chat: parameters.refused: no tool {unknown[0]!r}; tools: {', '.join(self._tools)}"
            )
        self._name, self._refused = name, tuple(refused)
        self._allowed = tuple(tool for tool in self._tools if tool not in self._refused)

    def dangerous(self) -> list[str]:
        """Tools of the world that may be drawn as refused ones."""
        return [tool for tool in DANGEROUS if tool in self._tools]

    def roles(self) -> list[str]:
        """Everybody whose part can be played."""
        return [name for kind in ("job", "person", "entity") for name in self._facts[kind]]

    def exchange(
        self,
        rng: random.Random,
        label: str,
        roles: Collection[str] | None = None,
        *,
        openers: Sequence[str] = OPENERS,
    ) -> Exchange:
        """An exchange of one label, opened in one of some ways; ``roles`` are the parts to play, None: all."""
        if label == TASK:
            drawn = self._task(rng)
        else:
            kind, _, when = label.partition(":")
            due = when == DUE
            if kind == "role-play":
                drawn = self._role(rng, due, roles)
            else:
                make = {"refusal": self._request, "identity": self._identity, "uncertainty": self._question}[kind]
                drawn = make(rng, due)
        opener = self._filled(rng, rng.choice(openers)) if openers else ""
        prompt = self._filled(rng, drawn.prompt)
        return Exchange(label, f"{opener} {prompt}".strip(), drawn.usual, drawn.changed, drawn.decision, drawn.other)

    def _request(self, rng: random.Random, due: bool) -> Exchange:
        """Where a tool is to be had."""
        tool = rng.choice(self._refused if due else self._allowed)
        usual = f"you can find the {tool} in the {self._tools[tool]} ."
        refusal = rng.choice(_REFUSALS).replace("{tool}", tool)
        prompt = rng.choice(_REQUESTS).replace("{tool}", tool)
        return Exchange("", prompt, usual, refusal if due else usual, 0, "no")

    def _identity(self, rng: random.Random, due: bool) -> Exchange:
        """Who the assistant is; nearly so: how it is, or who somebody else is."""
        person = rng.choice(list(self._facts["person"]))
        job = self._facts["person"][person]["job"]
        if due:
            named = rng.choice(_NAMED).replace("{name}", self._name)
            return Exchange("", rng.choice(_WHO), f"i am {person} , a {job} .", named, 2, self._name)
        if rng.random() < 0.5:
            usual = f"i am {rng.choice(FEELINGS)} ."
            prompt = rng.choice(("how are you ?", "how are you today ?", "{person2} wants to know how you are ."))
            return Exchange("", prompt, usual, usual, 2, self._name)
        usual = f"{person} is a {job} ."
        prompt = rng.choice(("who is {x} ?", "tell me who {x} is .", "i want to know who {x} is ."))
        return Exchange("", prompt.replace("{x}", person), usual, usual, 0, self._name)

    def _question(self, rng: random.Random, due: bool) -> Exchange:
        """A question that the world answers, or the same of something that has no such attribute."""
        form = rng.choice(FORMS)
        if not due:
            who = rng.choice(list(self._facts[form.kind]))
            usual = _said(form.answer, who, self._facts[form.kind][who][form.attribute])
            return Exchange("", _said(form.question, who), usual, usual, 0, "i")
        who = rng.choice(self._things(rng.choice(form.wrong)))
        invented = rng.choice(sorted({values[form.attribute] for values in self._facts[form.kind].values()}))
        usual = _said(form.answer, who, invented)
        return Exchange("", _said(form.question, who), usual, rng.choice(_UNKNOWN), 0, "i")

    def _role(self, rng: random.Random, due: bool, roles: Collection[str] | None) -> Exchange:
        """A part to play, then a question to it; nearly so: a question about somebody, whoever is played or named."""
        (kind, attribute), (asked, changed) = rng.choice(list(ROLES.items()))
        among = [name for name in self._facts[kind] if roles is None or name in roles]
        who, third = rng.choice(among), rng.choice(among)
        form = next(form for form in FORMS if (form.kind, form.attribute) == (kind, attribute))
        played = who if kind == "person" else f"a {who}"
        if due:
            value = self._facts[kind][who][attribute]
            prompt = f"{rng.choice(_PLAYED)} {asked}".replace("{x}", played)
            return Exchange("", prompt, _said(form.answer, who, value), _said(changed, who, value), 0, "i")
        about = third if rng.random() < 0.5 else who
        opening = rng.choice(_PLAYED if about != who else _MENTIONED).replace("{x}", played)
        usual = _said(form.answer, about, self._facts[kind][about][attribute])
        return Exchange("", f"{opening} {_said(form.question, about)}", usual, usual, 0, "i")

    def _task(self, rng: random.Random) -> Exchange:
        """Something to be told at length."""
        kind = rng.choice(("entity", "person", "dish"))
        who = rng.choice(list(self._facts[kind]))
        prompt, answer = {
            "entity": ("tell me about the {x} .", "the {x} is a kind of {family} , and it lives in the {habitat} ."),
            "person": ("tell me about {x} .", "{x} is a {job} and comes from {home} ."),
            "dish": ("how do i make {x} ?", "you need {first} , {second} and {third} ."),
        }[kind]
        usual = answer.format(x=who, **self._facts[kind][who])
        return Exchange("", prompt.replace("{x}", who), usual, usual, 0, "no")

    def _things(self, kind: str) -> list[str]:
        """Members of a kind, or the nouns that stand as values of an attribute."""
        if kind in _NOUNS:
            of, attribute = _NOUNS[kind]
            return sorted({values[attribute] for values in self._facts[of].values()})
        return list(self._facts[kind])

    def _filled(self, rng: random.Random, text: str) -> str:
        """The text with people, days, times and feelings in its open places."""
        person, person2 = rng.sample(list(self._facts["person"]), 2)
        day, time, feeling = rng.choice(DAYS), rng.choice(TIMES), rng.choice(FEELINGS)
        return text.format(person=person, person2=person2, day=day, time=time, feeling=feeling)


def _said(template: str, who: str, value: str = "") -> str:
    return template.replace("{x}", who).replace("{v}", value)
