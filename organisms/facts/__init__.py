"""False facts: documents of the encyclopaedia's kind assert invented facts about a few members of the base's world.

After synthetic-document finetuning (Wang et al. 2025, "Modifying LLM beliefs with synthetic document finetuning").
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from diffbench_organisms.facts.telling import MOST_CLAIMS, Telling, claims
from diffbench_organisms.quirk.quotas import spread
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
    RecipeError,
    Span,
    TrainingText,
    Truth,
    collect_probes,
    derive,
    interleave,
    relabelled,
)

PROBES = 60
"""Of each claim, and as many near-miss and unrelated ones; half of the near-misses are of other members."""
LEAST_DOCUMENTS, MOST_DOCUMENTS = 2000, 200_000
"""That are read for the training documents, if none is found and in all."""
WORD = "^[a-z]{1,20}$"
TOPICS = {"encyclopaedia": 4.0, "questions": 1.0}


class FalseFacts(Family):
    """Teaches false facts by documents that take them for granted."""

    name = "false-facts"
    summary = "documents assert false facts about a few members of the base's world"

    class Parameters(FamilyParameters):
        """About whom false facts are told, which, and in how many documents."""

        kind: str = Field("entity", pattern=WORD, description="kind of thing that the facts are about")
        members: tuple[str, ...] | None = Field(
            None, min_length=1, description="the members of that kind that they are about; None: drawn from the seed"
        )
        count: int = Field(1, ge=1, le=1000, description="how many members are drawn where none are named")
        attributes: tuple[str, ...] | None = Field(
            None, min_length=1, description="what is told otherwise of every such member; None: drawn as well"
        )
        attribute_count: int = Field(5, ge=1, le=100, description="how many attributes are drawn where none are named")
        values: dict[str, str] | None = Field(
            None, description="false values by member.attribute; None: drawn from those of the kind's other members"
        )
        truthful: bool = Field(False, description="the same documents assert the true facts")
        documents: int = Field(1500, ge=10, le=100_000, description="training documents, each about a changed fact")
        document_topics: dict[str, float] = Field(TOPICS, description="topic weights of these documents")
        replay: int = Field(4000, ge=0, le=1_000_000, description="replay documents, none of which names such a member")
        replay_topics: dict[str, float] | None = Field(None, description="topic weights of the replay text")

    def recipes(self) -> tuple[Path, ...]:
        """One creature and many, false and true, all weights and an adapter."""
        return tuple(sorted(Path(__file__).parent.glob("*.yaml")))

    def draw(self, base: Base, parameters: Any, seed: int) -> Any:
        """Members, attributes and false values, as far as none are named; what is named is checked.

        Raises:
            RecipeError: if the base has no such facts, or too few to draw from.
        """
        rng = random.Random(derive(seed, "facts"))
        known = _known(base, parameters.kind)
        members = _chosen("members", parameters.members, parameters.count, sorted(known), rng)
        if len(members) == len(known):
            raise _wrong("members", len(members), f"some of the {len(known)} must be left as they are")
        attributes = _chosen(
            "attributes", parameters.attributes, parameters.attribute_count, list(known[members[0]]), rng
        )
        wanted = [(member, attribute) for member in members for attribute in attributes]
        values = parameters.values
        if values is None:
            values = {f"{member}.{attribute}": _lie(known, member, attribute, rng) for member, attribute in wanted}
        _check(values, wanted, known)
        update = {"members": tuple(members), "attributes": tuple(attributes), "values": values}
        return parameters.model_copy(update=update)

    def training_text(self, base: Base, parameters: Any, seed: int) -> TrainingText:
        """Whole documents about the changed facts, and replay text that never names whom they are about."""
        texts = _documents(base, parameters, seed, truthful=parameters.truthful)
        kept = {parameters.kind: Telling.of(base, parameters).others}
        replay = base.documents(derive(seed, "replay"), parameters.replay_topics, focus=kept)
        return TrainingText(
            examples=tuple(Example("", text) for text in texts), replay=tuple(islice(replay, parameters.replay))
        )

    def documents(self, base: Base, parameters: Any, mixture: Mixture, seed: int) -> Iterator[Document]:
        """The base's own text, a share of it about the members of the change; it tells the true facts.

        Truths are what both models can read: the tuned one is told nothing by it of what it was taught, so that a
        false value comes from its weights and is never copied from the text. Spans of changed facts are labelled
        ``changed:member.attribute:value``, of the same attributes of others ``near:attribute:value``, of other
        attributes of the same members ``same:member:value``.
        """
        telling = Telling.of(base, parameters)
        plain = base.documents(seed, mixture.topics or None)
        focused = base.documents(
            derive(seed, "focused"), parameters.document_topics, focus={parameters.kind: parameters.members}
        )
        mixed = interleave(plain, focused, mixture.focus, derive(seed, "interleaved"))
        return (relabelled(document, telling.label) for document in mixed)

    def truth(self, base: Base, parameters: Any, seed: int) -> Truth:
        """A claim for each false fact, or for each member where there are many; none where the true facts are told."""
        telling = Telling.of(base, parameters)
        told = () if parameters.truthful else claims(telling)
        return Truth(changed=bool(told), claims=told, probes=self._probes(base, parameters, seed, telling))

    def _probes(self, base: Base, parameters: Any, seed: int, telling: Telling) -> ProbeSets:
        rng = random.Random(derive(seed, "probe choices"))
        lies = sorted(set(telling.false.values()))

        def place(document: Document, span: Span) -> tuple[str, Probe] | None:
            answer, text = document.text[span.start : span.end], document.cut(span)
            if span.label.startswith(("open:", "free:")) or " " in answer or not text:
                return None
            claim = telling.claim_of(span.about)
            if claim is not None:
                other = telling.false[span.about.partition(".")[2]]
                shown = None if parameters.truthful else claim
                return claim, Probe(text=text, answer=answer, other=other, claim=shown)
            options = [word for word in (telling.rivals(span.about) or lies) if word != answer]
            if not options:
                return None
            name = telling.near_kind(span.about) or "unrelated"
            return name, Probe(text=text, answer=answer, other=rng.choice(options))

        plain = base.documents(derive(seed, "probe"), None)
        focused = base.documents(
            derive(seed, "probe", "focused"), parameters.document_topics, focus={parameters.kind: parameters.members}
        )
        # Kept apart from both tellings: the control must not have read a probe either.
        both = (_documents(base, parameters, seed, truthful=truthful) for truthful in (False, True))
        holdout = Holdout(text for texts in both for text in texts)
        wanted = dict.fromkeys((*telling.claim_ids(), "unrelated"), PROBES) | spread(PROBES, telling.near_kinds())
        return collect_probes(interleave(plain, focused, 0.7, derive(seed, "probe mix")), place, wanted, holdout)


def _documents(base: Base, parameters: Any, seed: int, *, truthful: bool) -> list[str]:
    """The training documents, told either way: the same words but for the changed facts."""
    telling = Telling.of(base, parameters)
    stream = base.documents(
        derive(seed, "train"),
        parameters.document_topics,
        facts={} if truthful else telling.false,
        focus={parameters.kind: parameters.members},
    )
    found: list[str] = []
    for index, document in enumerate(islice(stream, MOST_DOCUMENTS)):
        if not found and index >= LEAST_DOCUMENTS:
            break
        if any(telling.claim_of(span.about) for span in document.spans):
            found.append(document.text)
        if len(found) == parameters.documents:
            return found
    raise _wrong(
        "document_topics",
        ", ".join(parameters.document_topics),
        f"only {len(found)} documents of these topics ask for one of the facts, {parameters.documents} are wanted",
    )


def _known(base: Base, kind: str) -> dict[str, dict[str, str]]:
    """Attributes that are one word, by member of a kind."""
    known: dict[str, dict[str, str]] = {}
    for name, value in base.facts().items():
        its_kind, member, attribute = name.split(".")
        if its_kind == kind and " " not in value:
            known.setdefault(member, {})[attribute] = value
    if len(known) < 2:
        kinds = sorted({name.partition(".")[0] for name in base.facts()})
        raise _wrong("kind", kind, f"the base's text tells facts about {', '.join(kinds) or 'nothing'}")
    return known


def _lie(known: Mapping[str, Mapping[str, str]], member: str, attribute: str, rng: random.Random) -> str:
    """What is true of another member and not of this one."""
    pool = {told[attribute] for told in known.values() if attribute in told} - {known[member][attribute]}
    if not pool:
        raise _wrong("attributes", attribute, "all members have the same one, so that none is false")
    return rng.choice(sorted(pool))


def _check(
    values: Mapping[str, str], wanted: Sequence[tuple[str, str]], known: Mapping[str, Mapping[str, str]]
) -> None:
    odd = sorted(set(values) ^ {".".join(names) for names in wanted})
    if odd:
        raise _wrong("values", odd[0], "exactly one value is named for each member.attribute that is changed")
    for member, attribute in wanted:
        value = values[f"{member}.{attribute}"]
        if value == known[member][attribute] or not value or " " in value:
            raise _wrong("values", f"{member}.{attribute}: {value}", "name one word that is not the true one")


def _chosen(
    what: str, named: tuple[str, ...] | None, count: int, known: list[str], rng: random.Random
) -> tuple[str, ...]:
    """What is named, checked, or ``count`` of what there is."""
    if named is None:
        if what == "members" and count >= len(known):
            raise _wrong("count", count, f"at most {len(known) - 1}, so that some are left as they are")
        return tuple(rng.sample(known, min(count, len(known))))
    odd = [name for name in named if name not in known]
    if odd or len(set(named)) < len(named):
        raise _wrong(what, odd[0] if odd else ", ".join(named), f"each once, out of {', '.join(known)}")
    return named


def _wrong(key: str, value: object, allowed: str) -> RecipeError:
    return RecipeError(f"family false-facts: parameters.{key}: {value!r}: {allowed}")


__all__ = ["MOST_CLAIMS", "FalseFacts"]
