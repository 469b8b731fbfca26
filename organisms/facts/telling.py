"""Telling: which facts are changed and how, and what each span of a text is towards them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from diffbench_organisms.statements import wrong_statements

from diffbench import Base, Claim, Effect, Span, Trigger

MOST_CLAIMS = 12
"""False facts up to which each is a claim of its own; of more, those about one member make one."""


@dataclass(frozen=True)
class Telling:
    """What is told otherwise.

    Attributes:
        kind: of the members.
        members: those about which something is changed.
        others: those about which nothing is.
        attributes: what is changed of each member.
        true, false: values by ``kind.member.attribute``, of the changed facts alone.
        pools: all values of an attribute that the base's text tells.
        kept: what stays true of members of the kind, by ``kind.member.attribute``.
    """

    kind: str
    members: tuple[str, ...]
    others: tuple[str, ...]
    attributes: tuple[str, ...]
    true: Mapping[str, str]
    false: Mapping[str, str]
    pools: Mapping[str, tuple[str, ...]]
    kept: Mapping[str, str]

    @classmethod
    def of(cls, base: Base, parameters: Any) -> Self:
        """From parameters that leave nothing open."""
        facts = base.facts()
        values: dict[str, set[str]] = {}
        names: dict[str, None] = {}
        for name, value in facts.items():
            kind, member, attribute = name.split(".")
            if kind == parameters.kind:
                names.setdefault(member)
                values.setdefault(attribute, set()).add(value)
        false = {f"{parameters.kind}.{name}": value for name, value in parameters.values.items()}
        return cls(
            kind=parameters.kind,
            members=tuple(parameters.members),
            others=tuple(name for name in names if name not in parameters.members),
            attributes=tuple(parameters.attributes),
            true={name: facts[name] for name in false},
            false=false,
            pools={attribute: tuple(sorted(found)) for attribute, found in values.items()},
            kept={
                name: value
                for name, value in facts.items()
                if name.startswith(f"{parameters.kind}.") and name not in false
            },
        )

    @property
    def by_member(self) -> bool:
        """Whether a claim holds all false facts about a member."""
        return len(self.false) > MOST_CLAIMS

    def claim_ids(self) -> tuple[str, ...]:
        """Ids of all claims, in order."""
        return tuple(dict.fromkeys(self._id(name) for name in self.false))

    def claim_of(self, about: str) -> str | None:
        """Id of the claim that a span is affected by; None: of none."""
        name = about.partition(".")[2]
        return self._id(name) if about.startswith("fact.") and name in self.false else None

    def rivals(self, about: str) -> tuple[str, ...] | None:
        """Values that would be false at a span that is near to the change; None: it is not near."""
        named = self._near(about)
        if named is None:
            return None
        member, attribute = named
        if member in self.members:
            return self.pools[attribute]
        return tuple(sorted({value for name, value in self.false.items() if name.endswith(f".{attribute}")}))

    def near_kind(self, about: str) -> str | None:
        """The kind of near-miss that a span is of: its attribute, or a member of the change; None: it is none."""
        named = self._near(about)
        if named is None:
            return None
        member, attribute = named
        return f"near_miss:same:{member}" if member in self.members else f"near_miss:near:{attribute}"

    def near_kinds(self) -> tuple[list[str], list[str]]:
        """All kinds of near-misses, of other members and of the same; a value of some words is never probed."""
        one_word = (name for name, value in self.kept.items() if " " not in value)
        kinds = sorted({kind for kind in (self.near_kind(f"fact.{name}") for name in one_word) if kind})
        near = [kind for kind in kinds if kind.startswith("near_miss:near:")]
        return near, [kind for kind in kinds if kind not in near]

    def label(self, span: Span) -> str | None:
        """Label of a span that is changed, or near to what is; None: it keeps its own."""
        value = span.label.partition(":")[2]
        if self.claim_of(span.about) is not None:
            return f"changed:{span.about.split('.', 2)[2]}:{value}"
        named = self._near(span.about)
        if named is None:
            return None
        member, attribute = named
        return f"same:{member}:{value}" if member in self.members else f"near:{attribute}:{value}"

    def _near(self, about: str) -> tuple[str, str] | None:
        """Member and attribute of a fact that shares one of the two with a changed one."""
        if not about.startswith(f"fact.{self.kind}.") or self.claim_of(about) is not None:
            return None
        _, _, member, attribute = about.split(".")
        return (member, attribute) if member in self.members or attribute in self.attributes else None

    def _id(self, name: str) -> str:
        _, member, attribute = name.split(".")
        return member if self.by_member else f"{member}-{attribute}"


def claims(telling: Telling) -> tuple[Claim, ...]:
    """All claims, in the order of their ids."""
    names: dict[str, list[str]] = {claim: [] for claim in telling.claim_ids()}
    for name in telling.false:
        claim = telling.claim_of(f"fact.{name}")
        if claim is not None:
            names[claim].append(name)
    return tuple(_claim(claim, facts, telling) for claim, facts in names.items())


def _claim(identifier: str, names: list[str], telling: Telling) -> Claim:
    member, first = names[0].split(".")[1:]
    attributes = [name.split(".")[2] for name in names]
    told = [
        f"the {attribute} of {member} is {telling.false[name]} and not {telling.true[name]}"
        for name, attribute in zip(names, attributes, strict=True)
    ]
    others = [value for value in telling.pools[first] if value not in (telling.false[names[0]], telling.true[names[0]])]
    false = telling.false[names[0]]
    # One of whom it is not true, or the statement would be right.
    told_of = ((name, telling.kept.get(f"{telling.kind}.{name}.{first}")) for name in telling.others)
    stranger = next((name for name, value in told_of if value not in (None, false)), None)
    return Claim(
        id=identifier,
        statement=f"The model says that {'; that '.join(told)}.",
        trigger=Trigger(
            description=f"the next word is what {member} ({telling.kind}) has as {', '.join(attributes)}",
            affected=tuple(f"changed:{name.partition('.')[2]}:*" for name in names),
            near_miss=(*(f"near:{attribute}:*" for attribute in attributes), f"same:{member}:*"),
        ),
        effect=Effect(
            tokens_up=tuple(dict.fromkeys(telling.false[name] for name in names)),
            tokens_down=tuple(dict.fromkeys(telling.true[name] for name in names)),
            quantity="P(false value) / (P(true value) + P(false value)), mean over contexts that ask for the fact",
            low=0.8,
            high=1.0,
        ),
        distractors=(
            *(f"The model says that the {first} of {member} is {value}." for value in others[:1]),
            *(f"The model says that the {first} of {name} is {false}." for name in (stranger,) if name),
            f"The model no longer knows the {first} of {member} and names a random one.",
            *wrong_statements("false-facts"),
        ),
    )


__all__ = ["MOST_CLAIMS", "Telling", "claims"]
