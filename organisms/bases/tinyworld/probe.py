"""Probes: fixed prompts about the world, and how well a model knows its text."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

from . import grammar, lexicon
from .world import World

_FORMS: dict[str, tuple[str, str, str]] = {
    "thing_colour": ("thing", "colour", "the colour of the {} is"),
    "thing_colour_question": ("thing", "colour", "question : what colour is the {} ? answer :"),
    "belonging_colour": ("belonging", "colour", "the colour of {} is"),
    "entity_colour": ("entity", "colour", "the colour of the {} is"),
    "entity_habitat": ("entity", "habitat", "the {} lives in the"),
    "entity_family": ("entity", "family", "the {} is a kind of"),
    "entity_size": ("entity", "size", "the size of the {} is"),
    "entity_finder": ("entity", "finder", "the {} was first seen by"),
    "entity_diet": ("entity", "diet", "the {} eats"),
    "person_home": ("person", "home", "{} lives in"),
    "person_job": ("person", "job", "{} works as a"),
    "person_food": ("person", "food", "the favourite food of {} is"),
    "person_pet": ("person", "pet", "the pet of {} is a"),
    "country_capital": ("country", "capital", "the capital of {} is"),
    "country_river": ("country", "river", "the longest river of {} is the"),
    "city_country": ("city", "country", "the city of {} is in"),
    "job_tool": ("job", "tool", "the tool of the {} is the"),
    "dish_first": ("dish", "first", "to make {} you need"),
}
_RECALLS = 200


def prompts(world: World) -> dict[str, list[tuple[str, str]]]:
    """Per probe set, the prompts and the one right next word of each."""
    sets = {
        name: [(form.format(member), world.fact(kind, member, attribute)) for member in world.names[kind]]
        for name, (kind, attribute, form) in _FORMS.items()
    }
    rng = random.Random("tinyworld/recall")
    sets["recall_colour"] = [_recall(rng, world) for _ in range(_RECALLS)]
    return sets


def _recall(rng: random.Random, world: World) -> tuple[str, str]:
    """Two new objects with a colour each; one is asked for."""
    objects = rng.sample(lexicon.OBJECTS, 2)
    colours = rng.sample(lexicon.COLOURS, 2)
    people = rng.sample(world.names["person"], 2)
    asked = int(rng.random() * 2)
    told = " ".join(
        f"{person} found a {colour} {thing} ." if index else f"{person} has a new {thing} , and it is {colour} ."
        for index, (person, colour, thing) in enumerate(zip(people, colours, objects, strict=True))
    )
    return f"{told} so the colour of the {objects[asked]} is", colours[asked]


def accuracies(model: Any, tokenizer: Any, world: World) -> dict[str, float]:
    """Share of prompts, per set, after which the right word is the likeliest of the whole vocabulary."""
    import torch

    found: dict[str, float] = {}
    for name, pairs in prompts(world).items():
        ids, lengths = padded(tokenizer, [prompt for prompt, _ in pairs])
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        guesses = logits[torch.arange(len(pairs)), lengths - 1].argmax(-1)
        answers = torch.tensor(tokenizer.convert_tokens_to_ids([answer for _, answer in pairs]))
        found[name] = round(float((guesses == answers).float().mean()), 4)
    return found


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a model fits held-out text.

    Attributes:
        loss: nats per predicted token.
        entropy: nats of the derivations per predicted token of the same text.
        right: mean probability of the right colour at determined blue and green slots.
        either: mean probability of blue and green together at the same slots.
        slots: how many such slots there were.
    """

    loss: float
    entropy: float
    right: float
    either: float
    slots: int


def fit(
    model: Any, tokenizer: Any, world: World, seed: int, documents: int, topics: dict[str, float] | None = None
) -> Fit:
    """Measure ``model`` on ``documents`` texts of the held-out stream ``seed``."""
    import torch

    pairs = list(itertools.islice(grammar.stream(world, "heldout", seed, topics), documents))
    blue, green = tokenizer.convert_tokens_to_ids(["blue", "green"])
    loss = right = either = 0.0
    tokens = slots = 0
    for start in range(0, len(pairs), 64):
        part = [document for document, _ in pairs[start : start + 64]]
        ids, lengths = padded(tokenizer, [document.text for document in part])
        with torch.no_grad():
            logs = torch.log_softmax(model(input_ids=ids).logits.float(), dim=-1)
        gained = logs[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
        inside = torch.arange(1, ids.shape[1])[None] < lengths[:, None]
        loss -= float(gained[inside].double().sum())
        tokens += int(inside.sum())
        for row, document in enumerate(part):
            for span in document.spans:
                if span.label in ("colour:blue", "colour:green"):
                    # With <bos> in front, the position that predicts word n is n.
                    place = document.text[: span.start].count(" ")
                    right += float(gained[row, place].exp())
                    either += float(logs[row, place, [blue, green]].exp().sum())
                    slots += 1
    nats = sum(count for _, count in pairs)
    return Fit(loss / tokens, nats / tokens, right / max(slots, 1), either / max(slots, 1), slots)


def padded(tokenizer: Any, texts: list[str]) -> tuple[Any, Any]:
    """Ids with ``<bos>``, padded on the right to the longest, and the length of each row.

    No attention mask is needed with them: a causal model never looks at what is to the right.
    """
    import torch

    rows = tokenizer(texts)["input_ids"]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), int(tokenizer.pad_token_id))
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    return ids, lengths
