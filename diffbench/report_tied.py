"""Report tied: the pictures of a tied crosscoder's triples, after figures 2 to 5 of Aranguri 2025."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from diffbench.chart import Axis, Point, scatter
from diffbench.dashboard import Dashboard, Shaded, TiedDashboard, Triple
from diffbench.line import one_line
from diffbench.shading import chips, largest, shaded
from diffbench.table import share

LARGEST_RATIO = 2.0
"""A ratio beyond it is drawn at the edge."""


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
        more: examples that are not shown.
    """

    picture: Markup
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
    ringed = [_place(by_triple[one.triple]) for one in shown if one.triple in by_triple]
    text = (
        "Each point is a triple: how often its tuned latent, and its base latent, fires for each time its shared one "
    )
    text += "does. Rings are the triples whose contexts are shown below."
    highest = [max(1.0, *(point.x for point in ringed), *(point.y for point in ringed))] if ringed else [1.0]
    end = min(LARGEST_RATIO, highest[0])
    picture = scatter(
        "Two ratios of every triple",
        text,
        [_place(triple) for triple in tied.triples],
        Axis("tuned to shared", 0.0, end),
        Axis("base to shared", 0.0, end),
        ringed,
    )
    return TiedView(
        picture=picture,
        facts=_facts(tied),
        base_text=one_line(tied.base_text),
        tuned_text=one_line(tied.tuned_text),
        examples=tuple(
            ExampleView(
                name=f"triple {one.triple}, chosen for its ratio of {one.chosen} to shared",
                up=chips(one.tokens_up, 8),
                base=_texts(one.base, contexts),
                tuned=_texts(one.tuned, contexts),
            )
            for one in shown
        ),
        more=len(tied.examples) - len(shown),
    )


def _facts(tied: TiedDashboard) -> str:
    tuned = sum((triple.tuned_to_shared or 0.0) > 1 for triple in tied.triples)
    base = sum((triple.base_to_shared or 0.0) > 1 for triple in tied.triples)
    return (
        f"{len(tied.triples):,} of {tied.n_triples:,} triples fire at {share(tied.least)} of the positions or more. "
        f"In {tuned:,} of them the tuned latent fires more often than the shared one, in {base:,} the base latent does."
    )


def _place(triple: Triple) -> Point:
    return Point(triple.tuned_to_shared or 0.0, triple.base_to_shared or 0.0)


def _texts(pieces: Sequence[Shaded], most: int) -> tuple[Markup, ...]:
    top = max((largest(piece.values) for piece in pieces), default=0.0)
    return tuple(shaded(piece.tokens, piece.values, top, piece.at) for piece in pieces[:most])
