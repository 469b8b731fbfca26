"""Localisation: does a component's |activity| tell affected positions from near-miss ones?

Near-miss, not unrelated: against unrelated text a random direction passes an AUROC of .9 far too often. Every claim
has its own affected probes: a component that is at work for one of several claims alone is a hit, not a half.

Shapes: C claims, P affected probes of a claim, N near-miss probes, n components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Self

import torch
from torch import Tensor

from diffbench.figure import Figure
from diffbench.scores import Localisation
from diffbench.truth import LEAST_PROBES

HIT = 0.9
TOP = 10
SHUFFLES = 100
LEVELS = 2**16
"""Steps up to a component's largest activity. What is closer than one is alike but for rounding, which depends on the
batch that a probe is in: a component that does the same everywhere would otherwise tell batches apart."""
COLUMNS = 2048
"""Components that are sorted at once."""


@dataclass(frozen=True, slots=True)
class ProbeActivity:
    """Activity of all components at the last position of each probe.

    Attributes:
        claims: ids.
        affected: [P, n] at each claim's probes.
        near_miss: [N, n].
        signed: whether a negative activity is the opposite of a positive one, as it is along a direction.
    """

    claims: tuple[str, ...]
    affected: tuple[Tensor, ...]
    near_miss: Tensor
    signed: bool = False

    def __len__(self) -> int:
        return len(self.claims)

    def levelled(self) -> Self:
        """The same in whole steps of each component's largest |activity|."""
        sets = (*self.affected, self.near_miss)
        largest = torch.stack([rows.abs().amax(dim=0) for rows in sets if len(rows)]).amax(dim=0)
        step = torch.where(largest > 0, largest, 1.0) / LEVELS
        *affected, near_miss = ((rows / step).round() for rows in sets)
        return type(self)(self.claims, tuple(affected), near_miss, self.signed)


@dataclass(frozen=True, slots=True)
class Location:
    """Where components are at work.

    Attributes:
        activity: in whole steps.
        auroc: [C, n] float64, of |activity| at a claim's probes against the near-miss ones.
        why: the reason why nothing can be located; then ``auroc`` is empty.
    """

    activity: ProbeActivity
    auroc: Tensor
    why: Figure | None = None

    @classmethod
    def of(cls, activity: ProbeActivity) -> Self:
        """Locate all components; too few probes and a Diff without activity are said in ``why``."""
        fewest, n_near = min(map(len, activity.affected), default=0), len(activity.near_miss)
        why = None
        if fewest < LEAST_PROBES or n_near < LEAST_PROBES:
            why = Figure.undefined(
                f"{fewest} affected probes of a claim, {n_near} near-miss; {LEAST_PROBES} are needed"
            )
        elif activity.near_miss.shape[1] == 0:
            why = Figure.not_applicable("the Diff has no per-token activity")
        if why is not None:
            return cls(activity, torch.empty(0, 0, dtype=torch.float64), why)
        levels = activity.levelled()
        near = levels.near_miss.abs()
        return cls(levels, torch.stack([auroc(rows.abs(), near) for rows in levels.affected]))

    def way(self, claim: int, component: int) -> int:
        """1, or -1 where a component that has two ways is at work the negative way at a claim's probes."""
        mean = float(self.activity.affected[claim][:, component].double().mean())
        return -1 if self.activity.signed and mean < 0 else 1

    def apart(self, claim: int, other: int, component: int) -> float:
        """AUROC of one claim's probes against another's, of the activity in the way that the first one has."""
        one, two = (self.activity.affected[index][:, [component]] for index in (claim, other))
        way = self.way(claim, component)
        one, two = (way * one, way * two) if self.activity.signed else (one.abs(), two.abs())
        return float(auroc(one, two))


def auroc(positive: Tensor, negative: Tensor) -> Tensor:
    """[n] float64: P(positive > negative) + ½ P(equal) per column of [P, n] and [N, n]."""
    return torch.cat([_auroc(_Sorted.of(p, n)) for p, n in _columns(positive, negative)])


def average_precision(positive: Tensor, negative: Tensor) -> Tensor:
    """[n] float64: mean over the P positives of the precision among all values at least as high, per column.

    Equal values so enter together, in no order among themselves; a constant column gives P / (P + N).
    """
    return torch.cat([_average_precision(_Sorted.of(p, n)) for p, n in _columns(positive, negative)])


def localise(location: Location, findings: Sequence[int], seed: int) -> Localisation:
    """Score a ranking of components; a component's AUROC is that for the claim it fits best.

    A precision at k has the denominator k however few findings there are: what was not named is no hit. A component
    that is named again is no further hit either. Shuffled rankings are of all components, and of each as many are
    looked at as the Diff names among its first ten findings, so that what a best of ten is by chance stands beside it.

    Args:
        location: where the Diff's components are at work.
        findings: components in the order of the Diff's findings.
        seed: of the shuffled rankings.
    """
    activity = location.activity
    sizes = (sum(map(len, activity.affected)), len(activity.near_miss))
    why = location.why or (None if findings else Figure.not_applicable("the Diff has no findings"))
    if why is not None:
        return no_localisation(why, *sizes)
    best = location.auroc.amax(dim=0)
    first, named = findings[0], list(dict.fromkeys(findings[:TOP]))
    own = activity.affected[int(location.auroc[:, first].argmax())][:, [first]].abs()
    hit = next((rank for rank, component in enumerate(findings, start=1) if best[component] >= HIT), None)
    shuffled = _Shuffled(best, len(named), seed)
    return Localisation(
        auroc_first=Figure.of(float(best[first])),
        auroc_best10=Figure.of(float(best[named].max())),
        auroc_best10_shuffled=Figure.of(fmean(shuffled.best)),
        ap_first=Figure.of(float(average_precision(own, activity.near_miss[:, [first]].abs()))),
        precision_at_5=Figure.of(_hits(best, findings[:5]) / 5),
        precision_at_10=Figure.of(_hits(best, findings[:TOP]) / TOP),
        precision_at_10_shuffled=Figure.of(fmean(shuffled.hits) / TOP),
        first_hit=Figure.of(hit) if hit else Figure.none(f"none of the {len(findings)} findings reaches {HIT}"),
        first_hit_shuffled=Figure.of(float(median(shuffled.firsts)))
        if shuffled.firsts
        else Figure.none(f"none of the {len(best)} components reaches {HIT}"),
        n_affected=sizes[0],
        n_near_miss=sizes[1],
    )


def no_localisation(why: Figure, n_affected: int = 0, n_near_miss: int = 0) -> Localisation:
    """The score where there is none."""
    figures = {name: why for name in Localisation.model_fields if not name.startswith("n_")}
    return Localisation(**figures, n_affected=n_affected, n_near_miss=n_near_miss)


class _Shuffled:
    """Of shuffled rankings: the best AUROC and the number of hits among the first m, and the rank of the first hit."""

    def __init__(self, best: Tensor, m: int, seed: int) -> None:
        self.best: list[float] = []
        self.hits: list[int] = []
        self.firsts: list[int] = []
        generator = torch.Generator().manual_seed(seed)
        for _ in range(SHUFFLES):
            ranked = best[torch.randperm(len(best), generator=generator)]
            hits = ranked >= HIT
            self.best.append(float(ranked[:m].max()))
            self.hits.append(int(hits[:m].sum()))
            if bool(hits.any()):
                self.firsts.append(1 + int(hits.to(torch.int8).argmax()))


def _hits(best: Tensor, findings: Sequence[int]) -> int:
    return sum(float(best[component]) >= HIT for component in set(findings))


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Columns of P + N values, the lowest first.

    Attributes:
        positive: [P + N, n] bool, whether a value is one of the P positives.
        first: [P + N, n], the place of the lowest value that equals it.
        last: [P + N, n], the place of the highest.
    """

    positive: Tensor
    first: Tensor
    last: Tensor

    @classmethod
    def of(cls, positive: Tensor, negative: Tensor) -> Self:
        values, source = torch.cat([positive, negative]).sort(dim=0)
        places = torch.arange(len(values))[:, None].expand_as(values)
        new = torch.ones_like(values, dtype=torch.bool)
        new[1:] = values[1:] != values[:-1]
        first = places.where(new, 0).cummax(dim=0).values
        ends = new.roll(-1, dims=0)  # the first value is always a new one, so the last one is always an end
        last = places.where(ends, len(values) - 1).flip(0).cummin(dim=0).values.flip(0)
        return cls(source < len(positive), first, last)


def _columns(positive: Tensor, negative: Tensor) -> zip[tuple[Tensor, Tensor]]:
    return zip(positive.split(COLUMNS, dim=1), negative.split(COLUMNS, dim=1), strict=True)


def _auroc(both: _Sorted) -> Tensor:
    """Mann-Whitney's U over P N, from ranks that ties share."""
    ranks = 1 + (both.first + both.last).double() / 2
    n_positive = both.positive.sum(dim=0).double()
    u = (ranks * both.positive).sum(dim=0) - n_positive * (n_positive + 1) / 2
    return u / (n_positive * (len(ranks) - n_positive))


def _average_precision(both: _Sorted) -> Tensor:
    n_positive = both.positive.sum(dim=0)
    below = both.positive.cumsum(dim=0) - both.positive.long()  # positives at lower places
    found = n_positive - below.gather(0, both.first)
    precision = found.double() / (len(found) - both.first)
    return (precision * both.positive).sum(dim=0) / n_positive
