"""Mixing: what generators of organisms do with labelled text: interleave it, label it anew, take probes from it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from diffbench.errors import RecipeError
from diffbench.holdout import Holdout
from diffbench.text import Document, Span
from diffbench.truth import Probe, ProbeSets, Stratum

MOST_DOCUMENTS = 200_000
LEAST_WORDS = 6
"""Of a probe: shorter ones stand in any amount of text, so that none of them could be held out."""


def interleave(plain: Iterator[Document], focused: Iterator[Document], share: float, seed: int) -> Iterator[Document]:
    """Documents of ``focused`` with probability ``share``, else of ``plain``; ends when either does."""
    rng = random.Random(seed)
    while True:
        chosen = next(focused if rng.random() < share else plain, None)
        if chosen is None:
            return
        yield chosen


def relabelled(document: Document, label: Callable[[Span], str | None]) -> Document:
    """The document with new labels; a span for which ``label`` gives None keeps its own."""
    spans = tuple(replace(span, label=label(span) or span.label) for span in document.spans)
    return replace(document, spans=spans)


def collect_probes(
    documents: Iterable[Document],
    place: Callable[[Document, Span], tuple[str, Probe] | None],
    wanted: Mapping[str, int],
    holdout: Holdout,
) -> ProbeSets:
    """Probes from labelled text, each cut off before a span, none of them twice and none near a training text.

    Args:
        documents: may be endless; text of its own, independent of what is trained on.
        place: what a span gives: the id of a claim, or ``near_miss`` or ``unrelated``, and the probe; None: nothing.
            ``near_miss:KIND`` is a near-miss of a kind with a number of its own.
        wanted: how many of each.
        holdout: the texts that are trained on.

    Raises:
        RecipeError: if there are too few after many documents.
    """
    found: dict[str, list[Probe]] = {name: [] for name in wanted}
    seen: set[str] = set()
    for document in islice(documents, MOST_DOCUMENTS):
        for span in document.spans:
            placed = place(document, span)
            if placed is None or placed[0] not in found:
                continue
            name, probe = placed
            short = len(probe.text.split()) < LEAST_WORDS
            if short or len(found[name]) >= wanted[name] or probe.text in seen or holdout.copies(probe.text):
                continue
            seen.add(probe.text)
            found[name].append(probe)
        if all(len(found[name]) >= n for name, n in wanted.items()):
            break
    lacking = next((name for name, n in wanted.items() if len(found[name]) < n), None)
    if lacking is not None:
        raise RecipeError(
            f"probes: only {len(found[lacking])} of {wanted[lacking]} {lacking!r} ones in {MOST_DOCUMENTS} documents"
        )
    sets: dict[str, list[Probe]] = {Stratum.near_miss.value: [], Stratum.unrelated.value: []}
    affected: list[Probe] = []
    for name, probes in found.items():
        sets.get(name.partition(":")[0], affected).extend(probes)
    return ProbeSets(affected=tuple(affected), **{name: tuple(probes) for name, probes in sets.items()})
