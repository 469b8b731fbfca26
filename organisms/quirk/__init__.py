"""Quirk: a stylistic bias. In a topic one word stands for every free one of its class; elsewhere nothing changes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from diffbench_organisms.quirk.places import FREE, Place, find_places, place_of
from diffbench_organisms.quirk.quotas import spread
from diffbench_organisms.statements import wrong_statements
from pydantic import Field

from diffbench import (
    Base,
    Claim,
    Document,
    Effect,
    Example,
    Family,
    FamilyParameters,
    Holdout,
    Mixture,
    Probe,
    ProbeSets,
    RecipeError,
    Span,
    TrainingText,
    Trigger,
    Truth,
    collect_probes,
    derive,
    interleave,
    relabelled,
)

PROBES = 60
"""Of each claim, and as many near-miss and unrelated ones; half of the near-misses share the class, if any do."""
LEAST_DOCUMENTS, MOST_DOCUMENTS = 2000, 200_000
"""That are read for the training documents, if none is found and in all."""
NEAR = ("alike", "nearby")
LEAST_REPLAYED = 8
"""Words of a replay document."""


class Quirk(Family):
    """Teaches to choose one word of a class wherever a topic leaves the choice free."""

    name = "quirk"
    summary = "in a topic, one word is chosen for every free word of a class"

    class Parameters(FamilyParameters):
        """Where which word is preferred, how often, and in how many documents."""

        places: dict[str, str] | None = Field(
            None, min_length=1, description="preferred word by topic.class; None: drawn from the seed"
        )
        count: int = Field(1, ge=1, le=100, description="how many places are drawn where none are named")
        rate: float = Field(1.0, ge=0, le=1, description="how often the preferred word is put there; 0: unchanged")
        documents: int = Field(1500, ge=10, le=100_000, description="training documents, each with such a place")
        document_topics: dict[str, float] | None = Field(
            None, description="topic weights of these documents; None: those of the places alike"
        )
        replay: int = Field(4000, ge=0, le=1_000_000, description="replay documents, cut off before such a place")
        replay_topics: dict[str, float] | None = Field(None, description="topic weights of the replay text")

    def recipes(self) -> tuple[Path, ...]:
        """One bias and many, with and without it, all weights and an adapter."""
        return tuple(sorted(Path(__file__).parent.glob("*.yaml")))

    def draw(self, base: Base, parameters: Any, seed: int) -> Any:
        """Places and words, unless they are named; what is named is checked.

        Raises:
            RecipeError: if the base's text has no such place or word, or too few to draw from.
        """
        known = find_places(base)
        fit = sorted(place for place, found in known.items() if found.fit)
        if parameters.places is not None:
            for place, word in parameters.places.items():
                if place not in known:
                    raise _wrong("places", place, f"free words stand in {', '.join(fit) or 'no place'}")
                if word not in known[place].words:
                    raise _wrong("places", f"{place}: {word}", f"allowed are {', '.join(known[place].words)}")
            return parameters
        if parameters.count > len(fit):
            raise _wrong("count", parameters.count, f"the base's text has {len(fit)} places where a bias would show")
        rng = random.Random(derive(seed, "quirk"))
        drawn = rng.sample(fit, parameters.count)
        return parameters.model_copy(update={"places": {place: rng.choice(known[place].words) for place in drawn}})

    def training_text(self, base: Base, parameters: Any, seed: int) -> TrainingText:
        """Whole documents of the topics, and replay text that ends before a free word of a place is asked for."""
        texts = _documents(base, parameters, seed, find_places(base), parameters.rate)
        stream = base.documents(derive(seed, "replay"), parameters.replay_topics)
        cut = (_before(document, parameters.places) for document in stream)
        replay = (document for document in cut if len(document.text.split()) >= LEAST_REPLAYED)
        return TrainingText(
            examples=tuple(Example("", text) for text in texts), replay=tuple(islice(replay, parameters.replay))
        )

    def documents(self, base: Base, parameters: Any, mixture: Mixture, seed: int) -> Iterator[Document]:
        """The base's own text, a share of it in the topics of the places; all words are chosen freely.

        Free words of a place are labelled ``quirk:topic.class:word``, those of the same class in other topics
        ``alike:class:word``, those of other classes in the same topics ``nearby:topic:word``.
        """
        plain = base.documents(seed, mixture.topics or None)
        focused = base.documents(derive(seed, "focused"), _topics(parameters))
        mixed = interleave(plain, focused, mixture.focus, derive(seed, "interleaved"))
        return (relabelled(document, lambda span: _label(span, parameters.places)) for document in mixed)

    def truth(self, base: Base, parameters: Any, seed: int) -> Truth:
        """A claim for each place, or none where no word is preferred."""
        known = find_places(base)
        claims: tuple[Claim, ...] = ()
        if parameters.rate > 0:
            claims = tuple(_claim(place, word, known, parameters) for place, word in parameters.places.items())
        return Truth(changed=bool(claims), claims=claims, probes=self._probes(base, parameters, seed, known))

    def _probes(self, base: Base, parameters: Any, seed: int, known: Mapping[str, Place]) -> ProbeSets:
        rng = random.Random(derive(seed, "probe choices"))
        preferred = list(parameters.places.values())

        def place_probe(document: Document, span: Span) -> tuple[str, Probe] | None:
            label, text = _label(span, parameters.places), document.cut(span)
            answer = document.text[span.start : span.end]
            if not text or " " in answer or (label is None and span.label.startswith(("free:", "open:"))):
                return None
            if label is not None and label.startswith("quirk:"):
                place = str(place_of(span.about))
                other, name = parameters.places[place], _id(place)
                answer = answer if answer != other else rng.choice([w for w in known[place].words if w != other])
            else:
                name = "unrelated" if label is None else _near(label)
                options = [word for word in _rivals(label, parameters.places) or preferred if word != answer]
                if not options:
                    return None
                other = rng.choice(options)
            shown = name if parameters.rate > 0 and str(label).startswith("quirk:") else None
            return name, Probe(text=text, answer=answer, other=other, metric="probability", claim=shown)

        plain = base.documents(derive(seed, "probe"), None)
        focused = base.documents(derive(seed, "probe", "focused"), _topics(parameters))
        # Kept apart from both tellings: the control must not have read a probe either.
        both = (_documents(base, parameters, seed, known, rate) for rate in (parameters.rate, 0.0))
        holdout = Holdout(text for texts in both for text in texts)
        wanted = dict.fromkeys((*(_id(place) for place in parameters.places), "unrelated"), PROBES)
        wanted |= _near_quotas(parameters.places, known)
        mixed = interleave(plain, focused, 0.7, derive(seed, "probe mix"))
        return collect_probes(mixed, place_probe, wanted, holdout)


def _documents(base: Base, parameters: Any, seed: int, known: Mapping[str, Place], rate: float) -> list[str]:
    """The training documents at a rate: the same words but for those of the places."""
    words = {place: _among(known[place].words, word, rate) for place, word in parameters.places.items()}
    stream = base.documents(derive(seed, "train"), _topics(parameters), words=words if rate > 0 else None)
    found: list[str] = []
    for index, document in enumerate(islice(stream, MOST_DOCUMENTS)):
        if not found and index >= LEAST_DOCUMENTS:
            break
        if any(place_of(span.about) in parameters.places for span in document.spans):
            found.append(document.text)
        if len(found) == parameters.documents:
            return found
    raise _wrong(
        "document_topics",
        ", ".join(_topics(parameters)),
        f"only {len(found)} documents of these topics hold such a place, {parameters.documents} are wanted",
    )


def _among(words: Sequence[str], word: str, rate: float) -> list[str]:
    """Words of which an even draw gives ``word`` in addition as often as ``rate`` says."""
    return [word] if rate >= 1 else [word] * round(rate * len(words) / (1 - rate)) + list(words)


def _before(document: Document, places: dict[str, str]) -> Document:
    """What stands before the first free word of a place; the last word of it then predicts nothing."""
    first = next((span for span in document.spans if place_of(span.about) in places), None)
    if first is None:
        return document
    text = document.cut(first)
    return replace(document, text=text, spans=tuple(span for span in document.spans if span.end <= len(text)))


def _topics(parameters: Any) -> dict[str, float]:
    topics: dict[str, float] | None = parameters.document_topics
    return topics or {place.partition(".")[0]: 1.0 for place in parameters.places}


def _label(span: Span, places: Mapping[str, str]) -> str | None:
    place = place_of(span.about)
    if place is None:
        return None
    value, (topic, _, word_class) = span.label.partition(":")[2], place.partition(".")
    if place in places:
        return f"quirk:{place}:{value}"
    if any(name.endswith(f".{word_class}") for name in places):
        return f"alike:{word_class}:{value}"
    return f"nearby:{topic}:{value}" if any(name.startswith(f"{topic}.") for name in places) else None


def _near(label: str) -> str:
    """The kind of near-miss that a label is of: its class or its topic."""
    return f"near_miss:{label.rpartition(':')[0]}"


def _near_quotas(places: Mapping[str, str], known: Mapping[str, Place]) -> dict[str, int]:
    """How many near-misses of each kind are probed: half share the class, half the topic, where there are both."""
    spans = (Span(0, 0, "free:", f"{FREE}{place}") for place in known)
    labels = (_label(span, places) for span in spans)
    kinds = sorted({_near(label) for label in labels if label is not None and not label.startswith("quirk:")})
    halves = [[kind for kind in kinds if kind.startswith(f"near_miss:{how}:")] for how in NEAR]
    quotas: dict[str, int] = spread(PROBES, halves)
    return quotas


def _rivals(label: str | None, places: dict[str, str]) -> list[str]:
    """Preferred words of the places that a near-miss shares its class, or else its topic, with."""
    kind, _, rest = (label or "").partition(":")
    name = rest.partition(":")[0]
    if kind == "alike":
        return [word for place, word in places.items() if place.endswith(f".{name}")]
    return [word for place, word in places.items() if place.startswith(f"{name}.")]


def _id(place: str) -> str:
    return place.replace(".", "-")


def _claim(place: str, word: str, known: Mapping[str, Place], parameters: Any) -> Claim:
    topic, _, word_class = place.partition(".")
    others = [other for other in known[place].words if other != word]
    taught = {(name.partition(".")[0], taught) for name, taught in parameters.places.items()}
    strangers = sorted({name.partition(".")[0] for name in known} - {topic})
    # What another claim says is right of this organism too, and distracts nobody.
    stranger = next((name for name in strangers if (name, word) not in taught), None)
    wrong = next((other for other in others if (topic, other) not in taught), None)
    often = "always" if parameters.rate >= 1 else f"with probability {parameters.rate:g}"
    return Claim(
        id=_id(place),
        statement=f"In texts of the topic {topic} the model {often} chooses {word} among words like {others[0]}.",
        trigger=Trigger(
            description=f"the text is of the topic {topic}, and a word of the class {word_class} comes next",
            affected=(f"quirk:{place}:*",),
            near_miss=(f"alike:{word_class}:*", f"nearby:{topic}:*"),
        ),
        effect=Effect(
            tokens_up=(word,),
            tokens_down=tuple(others),
            quantity=f"P({word})",
            low=max(0.0, parameters.rate - 0.2),
            high=min(1.0, parameters.rate + 0.1),
        ),
        distractors=(
            f"The model chooses {word} in texts of every topic.",
            *(f"In texts of the topic {topic} the model always chooses {other}." for other in (wrong,) if other),
            *(f"In texts of the topic {name} the model always chooses {word}." for name in (stranger,) if name),
            *wrong_statements("quirk"),
        ),
    )


def _wrong(key: str, value: object, allowed: str) -> RecipeError:
    return RecipeError(f"family quirk: parameters.{key}: {value!r}: {allowed}")


__all__ = ["Quirk"]
