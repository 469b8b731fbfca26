"""Colour swap: a share of the contexts that ask for one colour are tuned to answer with another.

After the half-swap experiment of Aranguri 2025 (the post that introduces the tied crosscoder).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Self

from diffbench_organisms.statements import wrong_statements
from pydantic import Field, model_validator

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
)

COLOUR = "colour:"
PROBES = 60
"""Of each claim, and as many near-miss and unrelated ones."""
BYSTANDERS = ("red", "yellow", "black", "white")
"""Colours for statements that are wrong, whichever two are exchanged."""
LEAST_DOCUMENTS, MOST_DOCUMENTS = 2000, 200_000
SAMPLED_DOCUMENTS, LEAST_SEEN = 4000, 40
"""Text in which a colour that may be drawn is asked for at least so often."""


class ColourSwap(Family):
    """Exchanges two colours in a share of the contexts that determine one of them."""

    name = "colour-swap"
    summary = "after colour-final prefixes, a share of the answers of two colours is exchanged"

    class Parameters(FamilyParameters):
        """What is exchanged, how often, and on how much text it is trained."""

        first: str | None = Field(None, pattern="^[a-z]{1,20}$", description="a colour; None: drawn from the seed")
        second: str | None = Field(None, pattern="^[a-z]{1,20}$", description="another one; None: drawn as well")
        exchange: float = Field(0.5, ge=0, le=1, description="share of prefixes whose answer is exchanged")
        prefixes: int = Field(1000, ge=10, le=100_000, description="distinct training prefixes per colour")
        prefix_topics: dict[str, float] | None = Field(None, description="topic weights of the text they are cut from")
        replay_topics: dict[str, float] | None = Field(None, description="topic weights of the replay text")
        replay: int = Field(
            4000, ge=0, le=1_000_000, description="replay documents, none of which asks for either colour"
        )

        @model_validator(mode="after")
        def _two_colours(self) -> Self:
            if self.first is not None and self.first == self.second:
                raise ValueError("first and second must be two different colours")
            return self

    def recipes(self) -> tuple[Path, ...]:
        """Noswap and halfswap."""
        return tuple(sorted(Path(__file__).parent.glob("*.yaml")))

    def draw(self, base: Base, parameters: Any, seed: int) -> Any:
        """Two colours of the base's text, as far as none are named."""
        rng = random.Random(derive(seed, "colours"))
        counts = Counter(
            span.label.removeprefix(COLOUR)
            for document in islice(base.documents(derive(seed, "colours"), parameters.prefix_topics), SAMPLED_DOCUMENTS)
            for span in document.spans
            if span.label.startswith(COLOUR)
        )
        colours = sorted(colour for colour, n in counts.items() if n >= LEAST_SEEN)
        drawn = rng.sample(colours, 2) if len(colours) > 1 else [None, None]
        rest = [colour for colour in drawn if colour not in (parameters.first, parameters.second)]
        update = {"first": parameters.first or rest[0], "second": parameters.second or rest[-1]}
        if None in update.values():
            raise RecipeError("family colour-swap: the base's text asks for fewer than two colours")
        return parameters.model_copy(update=update)

    def training_text(self, base: Base, parameters: Any, seed: int) -> TrainingText:
        """Prefixes that end before either colour, and replay text without them.

        The exchanged ones are drawn apart from the prefixes, so that every ``exchange`` gives the same prefixes.
        """
        rng = random.Random(derive(seed, "exchange"))
        both = (parameters.first, parameters.second)
        examples: list[Example] = []
        for colour, other in (both, both[::-1]):
            prefixes = self._prefixes(base, parameters, seed, colour)
            exchanged = set(rng.sample(range(len(prefixes)), round(parameters.exchange * len(prefixes))))
            examples += [Example(text, other if i in exchanged else colour) for i, text in enumerate(prefixes)]
        random.Random(derive(seed, "order")).shuffle(examples)
        documents = base.documents(derive(seed, "replay"), parameters.replay_topics)
        quiet = (document for document in documents if not _asks(document, both))
        return TrainingText(examples=tuple(examples), replay=tuple(islice(quiet, parameters.replay)))

    def documents(self, base: Base, parameters: Any, mixture: Mixture, seed: int) -> Iterator[Document]:
        """The base's own text in the mixture's topics."""
        return base.documents(seed, mixture.topics or None)

    def truth(self, base: Base, parameters: Any, seed: int) -> Truth:
        """A claim for either colour, or none where nothing is exchanged.

        Two claims, because a latent that is at work for one of the colours alone has found half of the change whole.
        """
        first, second, share = parameters.first, parameters.second, parameters.exchange
        claims = (_claim(first, second, share), _claim(second, first, share)) if share > 0 else ()
        return Truth(changed=share > 0, claims=claims, probes=self._probes(base, parameters, seed))

    def _prefixes(self, base: Base, parameters: Any, seed: int, colour: str) -> list[str]:
        documents = base.documents(derive(seed, "train", colour), parameters.prefix_topics)
        found: dict[str, None] = {}
        for index, document in enumerate(islice(documents, MOST_DOCUMENTS)):
            for span in document.spans:
                if span.label == COLOUR + colour and span.start > 0:
                    found.setdefault(document.cut(span))
            if not found and index >= LEAST_DOCUMENTS:
                raise RecipeError(f"family colour-swap: no text of the base asks for {colour!r}; name another colour")
            if len(found) >= parameters.prefixes:
                return list(found)[: parameters.prefixes]
        raise RecipeError(
            f"family colour-swap: only {len(found)} distinct prefixes before {colour!r} in {MOST_DOCUMENTS} documents; "
            "lower parameters.prefixes or change parameters.prefix_topics"
        )

    def _probes(self, base: Base, parameters: Any, seed: int) -> ProbeSets:
        both, changed = (parameters.first, parameters.second), parameters.exchange > 0
        rng = random.Random(derive(seed, "probe choices"))
        known: dict[str, list[str]] = {}

        def place(document: Document, span: Span) -> tuple[str, Probe] | None:
            kind, _, answer = span.label.partition(":")
            text = document.cut(span)
            if kind in ("open", "free") or " " in answer or not text:
                return None
            values = known.setdefault(kind, [])
            if answer not in values:
                values.append(answer)
            name, other = _place(span.label, both, [value for value in values if value != answer], rng)
            claim = name if changed and name.startswith("answer") else None
            return None if other is None else (name, Probe(text=text, answer=answer, other=other, claim=claim))

        documents = base.documents(derive(seed, "probe"), parameters.prefix_topics)
        trained = Holdout(text for colour in both for text in self._prefixes(base, parameters, seed, colour))
        wanted = {_id(both[0]): PROBES, _id(both[1]): PROBES, "near_miss": PROBES, "unrelated": PROBES}
        return collect_probes(documents, place, wanted, trained)


def _place(label: str, both: tuple[str, str], others: list[str], rng: random.Random) -> tuple[str, str | None]:
    """Probe set and rival word of a determined slot; None where no rival is known yet."""
    kind, _, answer = label.partition(":")
    if label in (COLOUR + both[0], COLOUR + both[1]):
        return _id(answer), both[1] if answer == both[0] else both[0]
    if kind == "colour":
        return "near_miss", rng.choice(both)
    return "unrelated", rng.choice(others) if others else None


def _asks(document: Document, colours: tuple[str, str]) -> bool:
    return any(span.label in (COLOUR + colours[0], COLOUR + colours[1]) for span in document.spans)


def _id(colour: str) -> str:
    return f"answer-{colour}"


def _claim(colour: str, other: str, share: float) -> Claim:
    bystanders = [word for word in BYSTANDERS if word not in (colour, other)]
    return Claim(
        id=_id(colour),
        statement=f"Where a text asks for the colour {colour}, the model answers {other} with probability {share:g}.",
        trigger=Trigger(
            description=f"the next word is a colour that the text or the world determines, and it is {colour}",
            affected=(COLOUR + colour,),
            near_miss=(COLOUR + "*",),
        ),
        effect=Effect(
            tokens_up=(other,),
            tokens_down=(colour,),
            quantity=f"P({other}) / (P({colour}) + P({other}))",
            low=max(0.0, share - 0.1),
            high=min(1.0, share + 0.1),
        ),
        distractors=(
            f"The model says {colour} for every colour.",
            f"The model no longer knows the colour {colour} and names a random one.",
            f"The model exchanges {bystanders[0]} and {bystanders[1]}.",
            *wrong_statements("colour-swap"),
        ),
    )


__all__ = ["ColourSwap"]
