"""Disentangling: does taking out of the tuned model what finds one claim remove that one and spare the others?

After SHIFT and TPP (Karvonen et al. 2024). Components are chosen on one half of the probes and tested on the other.
Claims of opposite effects are sides of one exchange (`diffbench.claim_scores.opposite`): they need not be told apart,
so neither is spared for the other's sake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from diffbench.behaviour import mean_of, share_moved
from diffbench.claim_scores import opposite
from diffbench.expression import Arms, expressions
from diffbench.figure import Figure
from diffbench.localisation import HIT, Location, auroc
from diffbench.scores import ClaimSeparation, Disentangling
from diffbench.seeds import derive
from diffbench.truth import Claim, Truth

MOST_COMPONENTS = 8
MOST_RUNS, LEAST_PROBES_TESTED = 1500, 10
"""Of a model on a probe, which grow with the square of the claims; of each claim, however many there are."""
NEAR_MISS = "near miss"

Without = Callable[[Sequence[tuple[int, ...]]], Arms]
"""From sets of components to models: the reference, the tuned model, and the tuned model without each set in turn."""


def disentangle(
    truth: Truth, tokenizer: Any, location: Location, order: Tensor, without: Without, seed: int
) -> Disentangling:
    """Score how well components of single claims can be told apart.

    For each claim the components are those that tell its probes from near-miss ones and from those of all claims that
    are not its opposite with an AUROC of at least .9, the best eight of them; where there are none, the best one.

    Args:
        truth: claims and probes.
        tokenizer: of both models.
        location: where the Diff's components are at work.
        order: [n], components, most changed first; it decides among equals.
        without: the models to test.
        seed: of the halves.
    """
    if len(truth.claims) < 2:
        return no_disentangling(Figure.not_applicable("there is one claim, so there is nothing to tell apart"))
    rivals = [_rivals(index, truth.claims) for index in range(len(truth.claims))]
    if not any(rivals):
        return no_disentangling(Figure.not_applicable("all claims are sides of one exchange: nothing to tell apart"))
    if location.why is not None:
        return no_disentangling(location.why)
    probes = [truth.probes.of(claim.id) for claim in truth.claims]
    halves = [_halves(len(some), derive(seed, claim.id)) for some, claim in zip(probes, truth.claims, strict=True)]
    sets = _choose(location, [half for half, _ in halves], rivals, order, seed)
    most = max(LEAST_PROBES_TESTED, MOST_RUNS // (len(sets) * (len(sets) + 2)))
    held_out = [[some[i] for i in rest[:most].tolist()] for some, (_, rest) in zip(probes, halves, strict=True)]
    values = expressions(without(sets), tokenizer, list(chain.from_iterable(held_out)))
    reference, tuned, *taken = [_split(arm, [len(some) for some in held_out]) for arm in values]
    table = [
        [share_moved(t, x, b) for t, x, b in zip(tuned, after, reference, strict=True)]
        for _, after in zip(sets, taken, strict=True)
    ]
    separations = tuple(
        ClaimSeparation(
            claim=claim.id,
            components=sets[index],
            removed=table[index][index],
            others=_others(table[index], rivals[index]),
        )
        for index, claim in enumerate(truth.claims)
    )
    known = [one for one in separations if one.removed.value is not None and one.others.value is not None]
    if not known:
        why = "fine-tuning moved the behaviour of fewer than two claims that have to be told apart"
        return no_disentangling(Figure.undefined(why))
    return Disentangling(score=mean_of([_minus(one.removed, one.others) for one in known]), claims=separations)


def no_disentangling(why: Figure) -> Disentangling:
    """The score where there is none."""
    return Disentangling(score=why)


def _rivals(claim: int, claims: Sequence[Claim]) -> list[int]:
    """The claims that one has to be told apart from."""
    return [at for at, other in enumerate(claims) if at != claim and not opposite(claims[claim], other)]


def _others(row: Sequence[Figure], rivals: Sequence[int]) -> Figure:
    """Mean share that goes of the claims that are to be spared, of those that fine-tuning moved."""
    if not rivals:
        return Figure.not_applicable("all other claims are the other side of an exchange")
    return mean_of([row[rival] for rival in rivals])


def _halves(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of one half of n probes, to choose on, and of the other, to test on."""
    mixed = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return mixed[: n // 2].sort().values, mixed[n // 2 :].sort().values


def _choose(
    location: Location, halves: Sequence[Tensor], rivals: Sequence[Sequence[int]], order: Tensor, seed: int
) -> list[tuple[int, ...]]:
    """A set of components for each claim."""
    activity = location.activity
    near = activity.near_miss.abs()[_halves(len(activity.near_miss), derive(seed, NEAR_MISS))[0]]
    rows = [some[half].abs() for some, half in zip(activity.affected, halves, strict=True)]
    sets = []
    for own, apart in zip(rows, rivals, strict=True):
        scores = auroc(own, near)
        if apart:
            scores = torch.minimum(scores, auroc(own, torch.cat([rows[rival] for rival in apart])))
        scores = scores[order]
        best = scores.argsort(descending=True, stable=True)
        n = min(MOST_COMPONENTS, max(1, int((scores >= HIT).sum())))
        sets.append(tuple(order[best[:n]].tolist()))
    return sets


def _split(values: Sequence[float], sizes: Sequence[int]) -> list[Sequence[float]]:
    parts, start = [], 0
    for size in sizes:
        parts.append(values[start : start + size])
        start += size
    return parts


def _minus(one: Figure, other: Figure) -> Figure:
    """The difference of two figures of different probes; half-widths add in squares."""
    assert one.value is not None and other.value is not None
    value = one.value - other.value
    if one.high is None or other.high is None:
        return Figure.of(value)
    half = math.hypot(one.high - one.value, other.high - other.value)
    return Figure.of(value, value - half, value + half)
