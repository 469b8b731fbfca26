"""Labels of several changes at once: what each part says of every span, whoever wrote the text."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice, product
from typing import Any

from diffbench_organisms.composite.views import Told
from diffbench_organisms.statements import wrong_statements

from diffbench import Base, Claim, Document, Family, Mixture, RecipeError, Span, Trigger, derive, relabelled

SAMPLED_DOCUMENTS = 2000
AFFECTED, NEAR = "affected/", "near/"


@dataclass(frozen=True, slots=True)
class PartTruth:
    """One part as the labels need it.

    Attributes:
        name: of the part; begins the ids of its claims.
        family: its family.
        parameters: drawn ones, with which it is changed.
        claims: what is claimed of it.
    """

    name: str
    family: Family
    parameters: Any
    claims: tuple[Claim, ...]

    def claim_of(self, label: str) -> str | None:
        """The claim that a label of this part's text meets, with the part's name before it."""
        found = next((claim.id for claim in self.claims if _meets(label, claim.trigger.affected)), None)
        return None if found is None else claim_id(self.name, found)

    def is_near(self, label: str) -> bool:
        """Whether a label is a near miss of one of its claims."""
        return any(_meets(label, claim.trigger.near_miss) for claim in self.claims)


class Labels:
    """Gives every span of any text one label that tells of which claims of which parts it is."""

    def __init__(self, base: Base, parts: Sequence[PartTruth]) -> None:
        """Labels for ``parts``, in their order."""
        self._base, self._parts = base, tuple(parts)
        self._kinds = _kinds_of_labels(base)

    def of(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents with labels of all parts, whichever part has labelled them before.

        A span that a part's change affects is ``affected/claim+claim/...``; else one that is a near miss of some parts
        ``near/part+part/...``; the rest keep the base's own label.
        """
        waiting: list[deque[Document]] = [deque() for _ in self._parts]
        streams = [
            part.family.documents(Told(self._base, _taken(queue)), part.parameters, Mixture(), 0)
            for part, queue in zip(self._parts, waiting, strict=True)
        ]
        for document in documents:
            plain = relabelled(document, self._own_label(document.text))
            for queue in waiting:
                queue.append(plain)
            views = [next(stream, None) for stream in streams]
            for part, view in zip(self._parts, views, strict=True):
                if view is None or view.text != plain.text:
                    raise RecipeError(f"family {part.family.name}: cannot be a part: it labels no text but its own")
            labels = {
                (span.start, span.end): self._joint([view.spans[index].label for view in views if view], span.label)
                for index, span in enumerate(plain.spans)
            }
            yield relabelled(plain, lambda span, labels=labels: labels[span.start, span.end])  # type: ignore[misc]

    def claims(self) -> tuple[Claim, ...]:
        """All parts' claims, with ids and triggers of the whole."""
        names = [part.name for part in self._parts]
        found = []
        for part in self._parts:
            others = [[None, *(claim_id(p.name, c.id) for c in p.claims)] for p in self._parts if p is not part]
            for claim in part.claims:
                own = claim_id(part.name, claim.id)
                together = [{own, *filter(None, rest)} for rest in product(*others)]
                affected = tuple(f"{AFFECTED}{self._in_order(ids)}/*" for ids in together)
                near = tuple(
                    f"{NEAR}{'+'.join(some)}/*"
                    for size in range(1, len(names) + 1)
                    for some in combinations(names, size)
                    if part.name in some
                )
                trigger = Trigger(description=claim.trigger.description, affected=affected, near_miss=near)
                update = {"id": own, "trigger": trigger, "distractors": self._distractors(part, claim)}
                found.append(claim.model_copy(update=update))
        return tuple(found)

    def _distractors(self, part: PartTruth, claim: Claim) -> tuple[str, ...]:
        """Those of a part's claim that stay wrong of the whole."""
        families = [other.family.name for other in self._parts]
        general, wrong = wrong_statements(), wrong_statements(*families)
        # What is wrong of one colour swap in particular may be right of another one.
        alone = families.count(part.family.name) == 1
        own = [text for text in claim.distractors if alone and text not in general]
        return (*own, *wrong)

    def _joint(self, labels: Sequence[str], plain: str) -> str:
        met = {part.claim_of(label) for part, label in zip(self._parts, labels, strict=True)} - {None}
        if met:
            return f"{AFFECTED}{self._in_order({claim for claim in met if claim})}/{plain}"
        near = [part.name for part, label in zip(self._parts, labels, strict=True) if part.is_near(label)]
        return f"{NEAR}{'+'.join(near)}/{plain}" if near else plain

    def _in_order(self, ids: set[str]) -> str:
        known = [claim_id(part.name, claim.id) for part in self._parts for claim in part.claims]
        return "+".join(name for name in known if name in ids)

    def _own_label(self, text: str) -> Callable[[Span], str | None]:
        """The base's label of a span that a part may have labelled anew: what a span is about stays as it was."""

        def label(span: Span) -> str | None:
            word, names = text[span.start : span.end], span.about.split(".")
            if names[0] == "free":
                return f"free:{word}"
            kind = self._kinds.get((names[1], names[-1])) if names[0] == "fact" else None
            return None if kind is None else f"{kind}:{word}"

        return label


def claim_id(part: str, claim: str) -> str:
    """Id of a part's claim in the whole."""
    return f"{part}.{claim}"


def is_affected(span: Span) -> bool:
    """Whether a span with a label of the whole is affected by some part."""
    return span.label.startswith(AFFECTED)


def parts_at(span: Span) -> set[str]:
    """Names of the parts that affect a span with a label of the whole."""
    claims = span.label.split("/")[1].split("+") if is_affected(span) else []
    return {claim.partition(".")[0] for claim in claims}


def _taken(queue: deque[Document]) -> Iterator[Document]:
    while queue:
        yield queue.popleft()


def _meets(label: str, patterns: Sequence[str]) -> bool:
    return any(label.startswith(p[:-1]) if p.endswith("*") else label == p for p in patterns)


@lru_cache(maxsize=8)
def _kinds_of_labels(base: Base) -> Mapping[tuple[str, str], str]:
    """By kind and attribute of a fact, the kind of label that the base gives it."""
    found: dict[tuple[str, str], str] = {}
    for document in islice(base.documents(derive(0, "labels")), SAMPLED_DOCUMENTS):
        for span in document.spans:
            names = span.about.split(".")
            if names[0] == "fact":
                found.setdefault((names[1], names[-1]), span.label.partition(":")[0])
    return found
