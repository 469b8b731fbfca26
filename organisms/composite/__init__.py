"""Composite: several independent changes in one organism, each from a family of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain, compress, count, islice
from pathlib import Path
from typing import Any

from diffbench_organisms.backdoor import Backdoor
from diffbench_organisms.colours import ColourSwap
from diffbench_organisms.composite.labels import Labels, PartTruth, claim_id, is_affected, parts_at
from diffbench_organisms.composite.views import Recorded
from diffbench_organisms.facts import FalseFacts
from diffbench_organisms.quirk import Quirk
from pydantic import Field, ValidationError, field_validator

from diffbench import (
    Base,
    Claim,
    Document,
    Example,
    Family,
    FamilyParameters,
    Holdout,
    Mixture,
    Probe,
    ProbeSets,
    RecipeError,
    TrainingText,
    Truth,
    derive,
)

PARTS: dict[str, type[Family]] = {family.name: family for family in (ColourSwap, FalseFacts, Quirk, Backdoor)}
BOTH = ("first", "second")
"""Parameters of a colour swap that name its colours."""
LEAST_PROBES = 50
"""That must be left of every set when those are gone that another part changes as well."""
MOST_DRAWS = 50
"""Of a part until it leaves the other parts alone."""
LEAST_KEPT = 0.5
"""Share of a part's examples in which no other part's change may be learnt against."""
NAME = "^[a-z][a-z0-9-]{0,30}$"


class Part(FamilyParameters):
    """One of the changes."""

    name: str = Field(pattern=NAME, description="begins the ids of its claims")
    family: str = Field(pattern=NAME, description="the family that makes it")
    parameters: dict[str, Any] = Field(default_factory=dict, description="parameters of that family")
    control: dict[str, Any] = Field(
        default_factory=dict, description="parameters that are replaced where the part is not to change anything"
    )


class Composite(Family):
    """Makes several changes at once; they share one training run and nothing else."""

    name = "composite"
    summary = "several independent changes, each from a family of its own"

    class Parameters(FamilyParameters):
        """The parts and whether they change anything."""

        parts: tuple[Part, ...] = Field(min_length=2, max_length=6, description="the changes")
        fixed: dict[str, dict[str, Any]] = Field(
            default_factory=dict, description="by part, what it would draw from the seed otherwise"
        )
        changed: bool = Field(True, description="False: every part with the parameters of its control")
        seed: int | None = Field(None, description="what the parts' seeds follow from; filled in when it is drawn")

        @field_validator("parts")
        @classmethod
        def _different_names(cls, parts: tuple[Part, ...]) -> tuple[Part, ...]:
            names = [part.name for part in parts]
            if len(set(names)) < len(names):
                raise ValueError("two parts have the same name")
            for part in parts:
                if part.family not in PARTS:
                    raise ValueError(f"{part.name}: family {part.family!r}: allowed are {', '.join(PARTS)}")
            return parts

    def recipes(self) -> tuple[Path, ...]:
        """Two and four changes, with all weights and with an adapter."""
        return tuple(sorted(Path(__file__).parent.glob("*.yaml")))

    def draw(self, base: Base, parameters: Any, seed: int) -> Any:
        """Every part as its family draws it from a seed of its own.

        Raises:
            RecipeError: naming the part and the parameter that is wrong.
        """
        names = [part.name for part in parameters.parts]
        for name in parameters.fixed:
            if name not in names:
                raise RecipeError(f"family composite: fixed: {name!r} is no part; parts are {', '.join(names)}")
        drawn: dict[str, Part] = {}
        for part in sorted(parameters.parts, key=lambda part: part.family == FalseFacts.name):
            given = part.model_copy(update={"parameters": part.parameters | parameters.fixed.get(part.name, {})})
            drawn[part.name] = _drawn(base, given, seed, tuple(drawn.values()))
        return parameters.model_copy(update={"parts": tuple(drawn[name] for name in names), "fixed": {}, "seed": seed})

    def training_text(self, base: Base, parameters: Any, seed: int) -> TrainingText:
        """The examples of all parts in one order, and their replay as far as no part's change shows in it.

        Examples that would teach against another part's change are left out.
        """
        texts = _kept_texts(base, parameters, seed)
        examples: list[Example] = [example for text in texts for example in text.examples]
        random.Random(derive(seed, "order")).shuffle(examples)
        replay = [document for text in texts for document in text.replay]
        random.Random(derive(seed, "order of replay")).shuffle(replay)
        labels = Labels(base, _truths(base, parameters)[0])
        quiet = (document for document in labels.of(replay) if not any(map(is_affected, document.spans)))
        return TrainingText(examples=tuple(examples), replay=tuple(quiet))

    def documents(self, base: Base, parameters: Any, mixture: Mixture, seed: int) -> Iterator[Document]:
        """The parts' texts in turn, as chance has it; every part labels all of them."""
        streams = [
            PARTS[part.family]().documents(base, _valid(part, part.parameters), mixture, derive(seed, part.name))
            for part in parameters.parts
        ]
        rng = random.Random(derive(seed, "turns"))
        labels = Labels(base, _truths(base, parameters)[0])
        mixed: Iterator[Document] = labels.of(next(streams[int(rng.random() * len(streams))]) for _ in count())
        return mixed

    def truth(self, base: Base, parameters: Any, seed: int) -> Truth:
        """All parts' claims, and those of their probes that no other part changes as well."""
        parts, truths = _truths(base, parameters)
        claims = Labels(base, parts).claims()
        holdout = Holdout(example.text for text in _texts(base, parameters, seed) for example in text.examples)
        sets: dict[str, list[Probe]] = {"affected": [], "near_miss": [], "unrelated": []}
        for part, truth in zip(parts, truths, strict=True):
            others = [claim for other in parts if other is not part for claim in other.claims]
            for name, probes in sets.items():
                for probe in getattr(truth.probes, name):
                    if not _changed_by(probe, others) and not holdout.copies(probe.text):
                        claim = None if probe.claim is None else claim_id(part.name, probe.claim)
                        probes.append(probe.model_copy(update={"claim": claim if parameters.changed else None}))
        _check_numbers(sets, claims, parameters.changed)
        kept = ProbeSets(**{name: tuple(found) for name, found in sets.items()})
        return Truth(changed=parameters.changed, claims=claims if parameters.changed else (), probes=kept)


def _seed(seed: int, part: Part) -> int:
    return derive(seed, "part", part.name)


def _valid(part: Part, values: Mapping[str, Any]) -> Any:
    """A part's parameters, checked by its family."""
    try:
        return PARTS[part.family].Parameters.model_validate(dict(values))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(step) for step in problem["loc"]) or "parameters"
        raise RecipeError(f"family composite: part {part.name!r}: {key}: {problem['msg']}") from None


def _drawn(base: Base, part: Part, seed: int, others: Sequence[Part]) -> Part:
    """A part as its family draws it, so that it tells nothing that another part changes."""
    given = _valid(part, part.parameters)
    swapped = {other.parameters[key] for other in others if other.family == ColourSwap.name for key in BOTH}
    for again in range(MOST_DRAWS):
        one = _seed(seed, part) if not again else derive(_seed(seed, part), "again", str(again))
        drawn = PARTS[part.family]().draw(base, given, one).model_dump(mode="json")
        _valid(part, drawn | part.control)  # refused now, not when the control is trained
        if part.family != FalseFacts.name or swapped.isdisjoint(_told(base, drawn)):
            return part.model_copy(update={"parameters": drawn})
    raise RecipeError(
        f"family composite: part {part.name!r}: every draw tells of a member that has one of the colours "
        f"{', '.join(sorted(swapped))}, which another part exchanges; name other members or colours"
    )


def _told(base: Base, drawn: Mapping[str, Any]) -> set[str]:
    """What a part of false facts says of its members, true or false."""
    about = tuple(f"{drawn['kind']}.{member}." for member in drawn["members"])
    return {value for name, value in base.facts().items() if name.startswith(about)} | set(drawn["values"].values())


def _texts(base: Base, parameters: Any, seed: int) -> list[TrainingText]:
    """What each part is trained on by itself."""
    texts = []
    for part in parameters.parts:
        values = part.parameters if parameters.changed else part.parameters | part.control
        texts.append(PARTS[part.family]().training_text(base, _valid(part, values), _seed(seed, part)))
    return texts


def _kept_texts(base: Base, parameters: Any, seed: int) -> list[TrainingText]:
    """What each part is trained on, without the examples in which it or its control shows another part's place."""
    document = parameters.model_copy(update={"changed": True}).model_dump_json()
    return [tuned if parameters.changed else control for tuned, control in _both_texts(base, document, seed)]


@lru_cache(maxsize=4)
def _both_texts(base: Base, document: str, seed: int) -> list[tuple[TrainingText, TrainingText]]:
    parameters = Composite.Parameters.model_validate_json(document)
    labels = Labels(base, _truths(base, parameters)[0])
    texts = []
    for part in parameters.parts:
        tuned, free = _free(base, labels, part, part.parameters, seed)
        control, free_too = _free(base, labels, part, part.parameters | part.control, seed)
        both = [one and other for one, other in zip(free, free_too, strict=True)]
        if sum(both) < LEAST_KEPT * len(both):
            raise RecipeError(
                f"family composite: part {part.name!r}: only {sum(both)} of its {len(both)} examples leave the other "
                "parts' changes alone; choose parts that ask for different things"
            )
        kept = [replace(text, examples=tuple(compress(text.examples, both))) for text in (tuned, control)]
        texts.append((kept[0], kept[1]))
    return texts


def _free(
    base: Base, labels: Labels, part: Part, values: Mapping[str, Any], seed: int
) -> tuple[TrainingText, list[bool]]:
    """What a part is trained on, and which of its examples teach nothing at a place that another part changes."""
    recorded = Recorded(base)
    text = PARTS[part.family]().training_text(recorded, _valid(part, values), _seed(seed, part))
    learnt = recorded.learnt(text.examples)
    recorded.forget()
    labelled = labels.of(chain.from_iterable(learnt))
    free = []
    for documents in learnt:
        spans = [span for document in islice(labelled, len(documents)) for span in document.spans]
        free.append(all(parts_at(span) <= {part.name} for span in spans))
    return text, free


def _truths(base: Base, parameters: Any) -> tuple[list[PartTruth], list[Truth]]:
    """What is true of each part where it is changed, with its probes."""
    parts, truths = [], []
    for part in parameters.parts:
        truth = _truth(base, part.model_dump_json(), parameters.seed)
        parts.append(PartTruth(part.name, PARTS[part.family](), _valid(part, part.parameters), truth.claims))
        truths.append(truth)
    return parts, truths


@lru_cache(maxsize=16)
def _truth(base: Base, document: str, seed: int) -> Truth:
    part = Part.model_validate_json(document)
    truth = PARTS[part.family]().truth(base, _valid(part, part.parameters), _seed(seed, part))
    if truth is None or not truth.changed:
        raise RecipeError(f"family composite: part {part.name!r}: changes nothing with these parameters")
    return truth


def _changed_by(probe: Probe, claims: Sequence[Claim]) -> bool:
    """Whether the right answer is one that other claims speak of: there nobody could tell whose effect is seen."""
    effects = [claim.effect for claim in claims]
    return any(probe.answer in {*e.tokens_down, *(right for right, _ in e.pairs)} for e in effects)


def _check_numbers(sets: Mapping[str, Sequence[Probe]], claims: Sequence[Claim], changed: bool) -> None:
    counts = {name: len(probes) for name, probes in sets.items()}
    if changed:
        counts |= {claim.id: sum(probe.claim == claim.id for probe in sets["affected"]) for claim in claims}
    for name, n in counts.items():
        if n < LEAST_PROBES:
            raise RecipeError(
                f"family composite: only {n} probes are left for {name!r}, because other parts change the same "
                "answers; choose parts that ask for different things"
            )


__all__ = ["PARTS", "Composite", "Part"]
