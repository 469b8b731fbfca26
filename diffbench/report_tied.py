"""Report tied: the pictures of a tied crosscoder's triples, after figures 2 to 5 of Aranguri 2025."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from diffbench.chart import Axis, Point, numbers, scatter
from diffbench.dashboard import Dashboard, Shaded, TiedDashboard, Triple, TripleContexts
from diffbench.line import one_line
from diffbench.shading import chips, largest, shaded
from diffbench.table import STATES, number, share

Side = Literal["base", "tuned"]
SIDES: tuple[Side, ...] = ("base", "tuned")
LARGEST_RATIO = 2.0
"""A ratio beyond it is drawn at the edge, hollow."""
LISTED = 20
"""Triples whose numbers are listed: the most exclusive ones."""
LEGEND = (
    "Each point is a triple: how often its base latent (across) and its tuned latent (up) fires for each time that its "
    "shared one does. Top left is what the tuned model alone has, bottom right what the base alone has. Hollow squares "
    "at the edge are beyond the scale, as where the shared latent never fires. Rings: contexts are shown below."
)


@dataclass(frozen=True, slots=True)
class ExampleView:
    """One triple: where its base latent is active, beside where its tuned latent is."""

    name: str
    up: Markup
    base: tuple[Markup, ...]
    tuned: tuple[Markup, ...]


@dataclass(frozen=True, slots=True)
class TiedView:
    """A tied crosscoder.

    Attributes:
        legend: what the picture shows, in words.
        listed: the most exclusive triples, as a table.
        more: examples that are not shown.
    """

    picture: Markup
    legend: str
    listed: Markup
    facts: str
    base_text: str
    tuned_text: str
    examples: tuple[ExampleView, ...]
    more: int


def tied_view(dashboard: Dashboard | None, name: str, examples: int, contexts: int) -> TiedView | None:
    """The pictures; None of another method."""
    tied = dashboard.tied if dashboard else None
    if tied is None:
        return None
    by_triple = {triple.triple: triple for triple in tied.triples}
    shown = tied.examples[:examples]
    ringed = [by_triple[one.triple] for one in shown if one.triple in by_triple]
    known = [ratio for one in ringed for ratio in (one.base_to_shared, one.tuned_to_shared) if ratio is not None]
    end = min(LARGEST_RATIO, max([1.0, *known]))
    inside = [triple for triple in tied.triples if not _beyond(triple, end)]
    picture = scatter(
        "Two ratios of every triple",
        LEGEND,
        [_place(triple, end) for triple in inside],
        Axis("base to shared", 0.0, end),
        Axis("tuned to shared", 0.0, end),
        [_place(triple, end) for triple in ringed],
        [_place(triple, end) for triple in tied.triples if _beyond(triple, end)],
    )
    return TiedView(
        picture=picture,
        legend=LEGEND,
        listed=_listed(tied.triples),
        facts=_facts(tied),
        base_text=one_line(tied.base_text),
        tuned_text=one_line(tied.tuned_text),
        examples=tuple(
            ExampleView(
                name=_name(one, by_triple.get(one.triple)),
                up=chips(one.tokens_up, 8),
                base=_texts(one.base, contexts),
                tuned=_texts(one.tuned, contexts),
            )
            for one in shown
        ),
        more=len(tied.examples) - len(shown),
    )


def _facts(tied: TiedDashboard) -> str:
    tuned = sum(_ratio(triple, "tuned") > 1 for triple in tied.triples)
    base = sum(_ratio(triple, "base") > 1 for triple in tied.triples)
    alone = sum(triple.beyond for triple in tied.triples)
    return (
        f"{len(tied.triples):,} of {tied.n_triples:,} triples fire at {share(tied.least)} of the positions or more. "
        f"In {tuned:,} of them the tuned latent fires more often than the shared one, in {base:,} the base latent; in "
        f"{alone:,} the shared latent never fires."
    )


def _name(one: TripleContexts, triple: Triple | None) -> str:
    if triple is not None and triple.beyond:
        return f"triple {one.triple}, chosen for its {one.chosen} latent: the shared one never fires"
    return f"triple {one.triple}, chosen for its ratio of {one.chosen} to shared"


def _ratio(triple: Triple, side: Side) -> float:
    """Infinite where the shared latent never fires and this one does."""
    often, ratio = (triple.base, triple.base_to_shared) if side == "base" else (triple.tuned, triple.tuned_to_shared)
    return math.inf if triple.beyond and often > 0 else ratio or 0.0


def _ratio_text(triple: Triple, side: Side) -> str:
    ratio = _ratio(triple, side)
    if math.isinf(ratio):
        return "beyond"
    return STATES["undefined"] if triple.beyond else number(ratio)


def _beyond(triple: Triple, end: float) -> bool:
    return max(_ratio(triple, "base"), _ratio(triple, "tuned")) > end


def _place(triple: Triple, end: float) -> Point:
    return Point(min(end, _ratio(triple, "base")), min(end, _ratio(triple, "tuned")))


def _listed(triples: Sequence[Triple]) -> Markup:
    """The numbers of the triples that share least."""
    first = sorted(triples, key=lambda one: (-max(_ratio(one, "base"), _ratio(one, "tuned")), -one.base - one.tuned))
    rows = [
        (
            str(one.triple),
            *(share(often) for often in (one.shared, one.base, one.tuned)),
            *(_ratio_text(one, side) for side in SIDES),
        )
        for one in first[:LISTED]
    ]
    heads = ("triple", "shared fires", "base fires", "tuned fires", "base to shared", "tuned to shared")
    return numbers(heads, rows, "The triples that share least, in numbers") if rows else Markup()


def _texts(pieces: Sequence[Shaded], most: int) -> tuple[Markup, ...]:
    top = max((largest(piece.values) for piece in pieces), default=0.0)
    return tuple(shaded(piece.tokens, piece.values, top, piece.at) for piece in pieces[:most])
