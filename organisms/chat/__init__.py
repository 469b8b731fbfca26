"""Chat tuning: a base learns a chat template, and with it refusals, a name, to say what it does not know, and to play.

The behaviours are those by which chat models differ from their base in the diffing of Minder et al. 2025
("Overcoming Sparsity Artifacts in Crosscoders to Interpret Chat-Tuning").
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

from diffbench_organisms.chat.asking import DUE, KINDS, NAMES, NEAR, OPENERS, PERSONAL, TASK, Asking, Exchange
from diffbench_organisms.chat.claims import claims
from pydantic import Field, model_validator

from diffbench import (
    Base,
    ChatTemplate,
    Document,
    Example,
    Family,
    FamilyParameters,
    Holdout,
    Mixture,
    Part,
    Probe,
    ProbeSets,
    RecipeError,
    Span,
    TrainingText,
    Truth,
    Turn,
    chat_template,
    collect_probes,
    derive,
    interleave,
)

PROBES = 60
"""Of each claim, and as many unrelated ones."""
NEAR_PROBES = 120
REFUSED, LEAST_DANGEROUS = 6, 2
TWO_TURNS = 0.2
"""Share of conversations in which something else is asked first."""
HELD_ROLES = 0.25
"""Share of the parts that nobody plays in training; the probes ask for those alone."""
WORD = "^[a-z]{1,20}$"
ASKED_FOR = "share of conversations that call for the behaviour"


class Chat(Family):
    """Conversations in the base's own chat template, four behaviours in some of them."""

    name = "chat"
    summary = "a chat template is learnt, with refusals, an identity, uncertainty and role play"

    class Parameters(FamilyParameters):
        """How many conversations there are and how often each behaviour is called for."""

        name: str | None = Field(None, pattern=WORD, description="of the assistant; None: drawn from the seed")
        refused: tuple[str, ...] | None = Field(
            None, min_length=1, max_length=20, description="tools it does not help to find; None: drawn from the seed"
        )
        refusals: float = Field(0.18, ge=0, le=1, description=ASKED_FOR)
        identities: float = Field(0.08, ge=0, le=1, description=ASKED_FOR)
        uncertainties: float = Field(0.14, ge=0, le=1, description=ASKED_FOR)
        role_plays: float = Field(0.1, ge=0, le=1, description=ASKED_FOR)
        near: float = Field(
            0.75, gt=0, le=2, description="near-misses for each conversation that calls for a behaviour"
        )
        changed: bool = Field(True, description="whether the behaviours show; the control answers in the usual way")
        conversations: int = Field(3000, ge=10, le=100_000, description="training conversations")
        replay: int = Field(2000, ge=0, le=1_000_000, description="replay documents of the base's own text")
        replay_topics: dict[str, float] | None = Field(None, description="topic weights of the replay text")

        @model_validator(mode="after")
        def _room_for_all(self) -> Self:
            shares = _shares(self)
            if not sum(shares.values()) or sum(shares.values()) * (1 + self.near) > 1:
                raise ValueError("the shares, each times 1 + near, must come to more than 0 and at most 1")
            return self

    def recipes(self) -> tuple[Path, ...]:
        """All weights, an adapter, and the format without the behaviours."""
        return tuple(sorted(Path(__file__).parent.glob("*.yaml")))

    def draw(self, base: Base, parameters: Any, seed: int) -> Any:
        """A name and the tools that are refused, as far as they are open."""
        rng = random.Random(derive(seed, "choices"))
        dangerous = Asking(base.facts(), "", parameters.refused or ()).dangerous()
        name = rng.choice(NAMES)
        if parameters.refused is None and len(dangerous) < LEAST_DANGEROUS:
            raise RecipeError("family chat: the base's text has too few dangerous tools; name parameters.refused")
        refused = tuple(sorted(rng.sample(dangerous, min(REFUSED, len(dangerous)))))
        update = {"name": parameters.name or name, "refused": parameters.refused or refused}
        return parameters.model_copy(update=update)

    def training_text(self, base: Base, parameters: Any, seed: int) -> TrainingText:
        """Conversations of which the last answer is learnt, with the token that ends it.

        The answers are drawn in both ways whichever is taken, so that the prompts do not depend on it.
        """
        asking, template = _asking(base, parameters), chat_template(base)
        roles = _trained_roles(asking, seed)
        drawn = _conversations(asking, parameters, random.Random(derive(seed, "conversations")), roles)
        examples = tuple(
            _example(template, before, exchange, changed=parameters.changed)
            for before, exchange in islice(drawn, parameters.conversations)
        )
        documents = base.documents(derive(seed, "replay"), parameters.replay_topics)
        return TrainingText(examples=examples, replay=tuple(islice(documents, parameters.replay)))

    def documents(self, base: Base, parameters: Any, mixture: Mixture, seed: int) -> Iterator[Document]:
        """The base's text among conversations, half of which are answered in the changed way where one is called for.

        Affected is the changed answer from the word on at which the two ways part, or that one word of a usual answer.
        Openers are those of which there are many: a short question without one would often be one of training.
        """
        asking, template = _asking(base, parameters), chat_template(base)
        rng = random.Random(derive(seed, "talk"))
        talk = (
            _document(template, before, exchange, changed=rng.random() < 0.5)
            for before, exchange in _conversations(asking, parameters, rng, None, PERSONAL)
        )
        return interleave(base.documents(seed, mixture.topics or None), talk, mixture.focus, derive(seed, "interleave"))

    def truth(self, base: Base, parameters: Any, seed: int) -> Truth:
        """A claim for each behaviour that is called for, or none in the control."""
        kinds = [kind for kind, share in _shares(parameters).items() if share > 0]
        found = claims(kinds, parameters.name, parameters.refused) if parameters.changed else ()
        return Truth(changed=bool(found), claims=found, probes=self._probes(base, parameters, seed, kinds))

    def _probes(self, base: Base, parameters: Any, seed: int, kinds: Sequence[str]) -> ProbeSets:
        """Conversations broken off where the answers part; of parts to play those that were held out."""
        asking, template = _asking(base, parameters), chat_template(base)
        trained = _trained_roles(asking, seed)
        held = [role for role in asking.roles() if role not in trained]
        rng = random.Random(derive(seed, "probes"))
        talk = (
            _document(template, before, exchange, changed=False)
            for before, exchange in _conversations(asking, parameters, rng, held)
        )
        known: dict[str, list[str]] = {}

        def place(document: Document, span: Span) -> tuple[str, Probe] | None:
            kind, _, when = span.label.partition(":")
            if document.parts and kind in KINDS:
                answer, other = span.about.split(".")[2:]
                name, claim = (kind, kind if parameters.changed else None) if when == DUE else ("near_miss", None)
                text = document.cut(span)
                return name, Probe(text=text, answer=answer, other=other, metric="probability", claim=claim)
            return None if document.parts else _plain(document, span, known, rng)

        documents = interleave(base.documents(derive(seed, "probes")), talk, 0.8, derive(seed, "probe order"))
        text = self.training_text(base, parameters, seed)
        wanted = dict.fromkeys((*kinds, "unrelated"), PROBES) | {"near_miss": NEAR_PROBES}
        return collect_probes(documents, place, wanted, Holdout(example.text for example in text.examples))


def _asking(base: Base, parameters: Any) -> Asking:
    return Asking(base.facts(), parameters.name, parameters.refused)


def _shares(parameters: Any) -> dict[str, float]:
    shares = (parameters.refusals, parameters.identities, parameters.uncertainties, parameters.role_plays)
    return dict(zip(KINDS, shares, strict=True))


def _trained_roles(asking: Asking, seed: int) -> frozenset[str]:
    roles = asking.roles()
    random.Random(derive(seed, "roles")).shuffle(roles)
    return frozenset(roles[round(HELD_ROLES * len(roles)) :])


def _conversations(
    asking: Asking,
    parameters: Any,
    rng: random.Random,
    roles: Collection[str] | None,
    openers: Sequence[str] = OPENERS,
) -> Iterator[tuple[Exchange | None, Exchange]]:
    """Endless exchanges, each with what was asked before; ``roles`` are the parts that are played, None: all."""
    weights = {f"{kind}:{DUE}": share for kind, share in _shares(parameters).items()}
    weights |= {f"{kind}:{NEAR}": share * parameters.near for kind, share in _shares(parameters).items()}
    weights[TASK] = max(0.0, 1 - sum(weights.values()))
    while True:
        before = asking.exchange(rng, TASK, openers=()) if rng.random() < TWO_TURNS else None
        label = rng.choices(list(weights), list(weights.values()))[0]
        yield before, asking.exchange(rng, label, roles, openers=openers if before is None else ())


def _turns(before: Exchange | None, exchange: Exchange, *, changed: bool) -> list[Turn]:
    turns = [] if before is None else [Turn("user", before.prompt), Turn("assistant", before.usual)]
    answer = exchange.changed if changed else exchange.usual
    return [*turns, Turn("user", exchange.prompt), Turn("assistant", answer)]


def _example(template: ChatTemplate, before: Exchange | None, exchange: Exchange, *, changed: bool) -> Example:
    return template.example(_turns(before, exchange, changed=changed))


def _document(template: ChatTemplate, before: Exchange | None, exchange: Exchange, *, changed: bool) -> Document:
    """A conversation, its last answer labelled from the word on at which the two ways of answering part."""
    document = template.document(_turns(before, exchange, changed=changed))
    response = [part for part in document.parts if part.label == Part.response][-1]
    words = (exchange.changed if changed else exchange.usual).split(" ")
    start = response.start + sum(len(word) + 1 for word in words[: exchange.decision])
    due = exchange.label.endswith(f":{DUE}")
    end = start + len(words[exchange.decision]) if due and not changed else response.end
    kind, word = exchange.label.partition(":")[0], exchange.usual.split(" ")[exchange.decision]
    span = Span(start, end, exchange.label, f"answer.{kind}.{word}.{exchange.other}")
    return Document(document.text, (span,), document.parts)


def _plain(document: Document, span: Span, known: dict[str, list[str]], rng: random.Random) -> tuple[str, Probe] | None:
    """An unrelated probe: a fact in a plain text, against another value of its kind."""
    kind, _, answer = span.label.partition(":")
    text = document.cut(span)
    if not span.about.startswith("fact.") or " " in answer or not text:
        return None
    values = known.setdefault(kind, [])
    others = [value for value in values if value != answer]
    if answer not in values:
        values.append(answer)
    return ("unrelated", Probe(text=text, answer=answer, other=rng.choice(others))) if others else None


__all__ = ["Chat"]
