"""Disentangling: does taking out of the tuned model what finds one claim remove that one and spare the others?

After SHIFT and TPP (Karvonen et al. 2024). Components are chosen on one half of the probes and tested on the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from diffbench.behaviour import mean_of, share_moved
from diffbench.expression import Arms, expressions
from diffbench.figure import Figure
from diffbench.localisation import HIT, Location, auroc
from diffbench.scores import ClaimSeparation, Disentangling
from diffbench.seeds import derive
from diffbench.truth import Truth

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

    For each claim the components are those that tell its probes from near-miss ones and from all other claims' with
    an AUROC of at least .9, the best eight of them; where there are none, the best one.

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
    if location.why is not None:
        return no_disentangling(location.why)
    probes = [truth.probes.of(claim.id) for claim in truth.claims]
    halves = [_halves(len(some), derive(seed, claim.id)) for some, claim in zip(probes, truth.claims, strict=True)]
    sets = _choose(location, [half for half, _ in halves], order, seed)
    most = max(LEAST_PROBES_TESTED, MOST_RUNS // (len(sets) * (len(sets) + 2)))
    held_out = [[some[i] for i in rest[:most].tolist()] for some, (_, rest) in zip(probes, halves, strict=True)]
    values = expressions(without(sets), tokenizer, list(chain.from_iterable(held_out)))
    reference, tuned, *taken = [_split(arm, [len(some) for some in held_out]) for arm in values]
    table = [
        [share_moved(t, x, b) for t, x, b in zip(tuned, after, reference, strict=True)]
        for _, after in zip(sets, taken, strict=True)
    ]
    defined = [index for index in range(len(sets)) if table[index][index].value is not None]
    if len(defined) < 2:
        return no_disentangling(Figure.undefined("fine-tuning moved the behaviour of fewer than two claims"))
    separations = []
    gains = []
    for index, (claim, components) in enumerate(zip(truth.claims, sets, strict=True)):
        removed, others = table[index][index], mean_of([table[index][other] for other in defined if other != index])
        separations.append(ClaimSeparation(claim=claim.id, components=components, removed=removed, others=others))
        if index in defined:
            gains.append(_minus(removed, others))
    return Disentangling(score=mean_of(gains), claims=tuple(separations))


def no_disentangling(why: Figure) -> Disentangling:
    """The score where there is none."""
    return Disentangling(score=why)


def _halves(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of one half of n probes, to choose on, and of the other, to test on."""
    mixed = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return mixed[: n // 2].sort().values, mixed[n // 2 :].sort().values


def _choose(location: Location, halves: Sequence[Tensor], order: Tensor, seed: int) -> list[tuple[int, ...]]:
    """A set of components for each claim."""
    activity = location.activity
    near = activity.near_miss.abs()[_halves(len(activity.near_miss), derive(seed, NEAR_MISS))[0]]
    rows = [some[half].abs() for some, half in zip(activity.affected, halves, strict=True)]
    sets = []
    for index, own in enumerate(rows):
        others = torch.cat([some for other, some in enumerate(rows) if other != index])
        scores = torch.minimum(auroc(own, near), auroc(own, others))[order]
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
