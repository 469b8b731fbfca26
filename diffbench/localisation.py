"""Localisation: does a component's |activity| tell affected positions from near-miss ones?

Near-miss, not unrelated: against unrelated text a random direction passes an AUROC of .9 far too often. Every claim
has its own affected probes: a component that is at work for one of several claims alone is a hit, not a half.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import median

import torch
from torch import Tensor

from diffbench.record import Figure, Localisation
from diffbench.truth import LEAST_PROBES

HIT = 0.9
TOP = 10
SHUFFLES = 100


def auroc(positive: Tensor, negative: Tensor) -> Tensor:
    """[n]: P(positive > negative) + ½ P(equal) per column of [P, n] and [N, n]."""
    both = torch.cat([positive, negative]).double()
    ranks = torch.empty_like(both)
    for column in range(both.shape[1]):
        values = both[:, column]
        _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
        last = counts.cumsum(0).double()
        ranks[:, column] = (last - (counts - 1) / 2)[inverse]
    n_positive, n_negative = len(positive), len(negative)
    return (ranks[:n_positive].sum(dim=0) - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def localise(affected: Mapping[str, Tensor], near_miss: Tensor, findings: Sequence[int], seed: int) -> Localisation:
    """Score a ranking of components; a component's AUROC is that for the claim it fits best.

    Args:
        affected: |activity| [P, n] at the affected probes of each claim.
        near_miss: |activity| [N, n] at the near-miss probes.
        findings: components in the order of the Diff's findings.
        seed: of the shuffled rankings.
    """
    n_affected, n_near = sum(map(len, affected.values())), len(near_miss)
    fewest = min(map(len, affected.values()), default=0)
    why = None
    if fewest < LEAST_PROBES or n_near < LEAST_PROBES:
        why = Figure.undefined(f"{fewest} affected probes of a claim, {n_near} near-miss; {LEAST_PROBES} are needed")
    elif not findings:
        why = Figure.not_applicable("the Diff has no findings")
    elif near_miss.shape[1] == 0:
        why = Figure.not_applicable("the Diff has no per-token activity")
    if why is not None:
        return _result(why, why, why, why, n_affected, n_near)
    scores = torch.stack([auroc(rows, near_miss) for rows in affected.values()]).amax(dim=0)
    ranked = [float(scores[component]) for component in findings]
    return _result(
        Figure.of(ranked[0]),
        Figure.of(max(ranked[:TOP])),
        _first_hit(ranked, f"none of the {len(ranked)} findings reaches {HIT}"),
        _shuffled(scores, seed),
        n_affected,
        n_near,
    )


def _first_hit(ranked: Sequence[float], otherwise: str) -> Figure:
    hit = next((rank for rank, score in enumerate(ranked, start=1) if score >= HIT), None)
    return Figure.none(otherwise) if hit is None else Figure.of(hit)


def _shuffled(scores: Tensor, seed: int) -> Figure:
    hits = [bool(score >= HIT) for score in scores]
    if not any(hits):
        return Figure.none(f"none of the {len(hits)} components reaches {HIT}")
    rng = random.Random(seed)
    firsts = [1 + rng.sample(hits, len(hits)).index(True) for _ in range(SHUFFLES)]
    return Figure.of(float(median(firsts)))


def _result(first: Figure, best: Figure, hit: Figure, shuffled: Figure, n_affected: int, n_near: int) -> Localisation:
    return Localisation(
        auroc_first=first,
        auroc_best10=best,
        first_hit=hit,
        first_hit_shuffled=shuffled,
        n_affected=n_affected,
        n_near_miss=n_near,
    )
