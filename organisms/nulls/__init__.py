"""Plain text: organisms in which nothing is changed on purpose, by which false alarms are counted.

The base itself, the base in another gauge, and the base trained further on fresh text of its own distribution.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field

from diffbench import (
    Base,
    Document,
    Example,
    Family,
    FamilyParameters,
    Holdout,
    Mixture,
    Probe,
    ProbeSets,
    Span,
    TrainingText,
    Truth,
    collect_probes,
    derive,
)

PROBES = 60
UNDETERMINED = ("open", "free")
"""Kinds of labels of words that nothing in the text or the world determines."""


class PlainText(Family):
    """Changes nothing: its training text is the base's own."""

    name = "plain-text"
    summary = "nothing is changed; what is trained on is fresh text of the base's own distribution"

    class Parameters(FamilyParameters):
        """How much text there is to train on, and of what."""

        documents: int = Field(1000, ge=1, le=1_000_000, description="documents to train on, every word of them")
        topics: dict[str, float] | None = Field(None, description="topic weights; None: the base's own mixture")

    def recipes(self) -> tuple[Path, ...]:
        """Identity, gauge, and continued training of all parameters and of an adapter."""
        return tuple(sorted(Path(__file__).parent.glob("*.yaml")))

    def training_text(self, base: Base, parameters: Any, seed: int) -> TrainingText:
        """Whole documents of the base."""
        documents = islice(base.documents(derive(seed, "train"), parameters.topics), parameters.documents)
        return TrainingText(examples=tuple(Example("", document.text) for document in documents), replay=())

    def documents(self, base: Base, parameters: Any, mixture: Mixture, seed: int) -> Iterator[Document]:
        """The base's own text in the mixture's topics."""
        return base.documents(seed, mixture.topics or None)

    def truth(self, base: Base, parameters: Any, seed: int) -> Truth:
        """That nothing was changed, and probes of what the base knows."""
        rng = random.Random(derive(seed, "probe choices"))
        known: dict[str, list[str]] = {}

        def place(document: Document, span: Span) -> tuple[str, Probe] | None:
            kind, _, answer = span.label.partition(":")
            if kind in UNDETERMINED or not answer or " " in answer:
                return None
            values = known.setdefault(kind, [])
            others = [value for value in values if value != answer]
            if answer not in values:
                values.append(answer)
            if not others:
                return None
            return "unrelated", Probe(text=document.cut(span), answer=answer, other=rng.choice(others))

        trained = Holdout(example.text for example in self.training_text(base, parameters, seed).examples)
        documents = base.documents(derive(seed, "probe"), parameters.topics)
        found = collect_probes(documents, place, {"unrelated": PROBES}, trained)
        return Truth(changed=False, probes=ProbeSets(unrelated=found.unrelated))


__all__ = ["PlainText"]
