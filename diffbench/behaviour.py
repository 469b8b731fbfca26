"""Behaviour: does an edit move what fine-tuning moved, and little else?

The behaviour is what the probes of a Truth measure (`diffbench.expression`). An edit installs a share of it if it is
put into the reference, and removes a share if it is taken out of the tuned model; a share may be negative or over 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from diffbench.expression import Arms, expressions
from diffbench.figure import Figure, mean_figure
from diffbench.interval import LEAST_UNITS, ratio_interval, t_quantile
from diffbench.scores import Behaviour, ClaimBehaviour, DosePoint
from diffbench.truth import Truth

STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""That the edit is added at. Nothing is not left out: a patched run takes the tuned model's first token even so."""
WHOLE = STRENGTHS.index(1.0)
MOST_PROBES, LEAST_OF_CLAIM = 240, 20
"""Of all claims together, each of which has an equal part of them; of each claim, however many there are."""
LEAST_CHANGE = 0.05
"""Of a claim's mean behaviour from the reference to the tuned model, under which no share of it is defined."""


@dataclass(frozen=True, slots=True)
class Spill:
    """KL(reference || reference + edit) of every document, summed in nats, and the positions behind the sums.

    Attributes:
        affected: at positions that a claim affects.
        elsewhere: at all others.
    """

    affected: Sequence[float]
    n_affected: Sequence[float]
    elsewhere: Sequence[float]
    n_elsewhere: Sequence[float]

    def off_target(self) -> Figure:
        """Mean per position elsewhere, with an interval over documents."""
        n = math.fsum(self.n_elsewhere)
        if not n:
            return Figure.undefined("the evaluation text has affected positions alone")
        interval = ratio_interval(self.elsewhere, self.n_elsewhere)
        return Figure.of(math.fsum(self.elsewhere) / n) if interval is None else Figure.of(*interval)

    def selectivity(self, floor: float) -> Figure:
        """Of the means per position on / (on + off), with an interval over documents (linearised, t).

        Args:
            floor: nats; where on + off is no more, the edit moves nothing.
        """
        n_on, n_off = math.fsum(self.n_affected), math.fsum(self.n_elsewhere)
        if not n_on or not n_off:
            return Figure.undefined(f"the evaluation text has no {'unaffected' if n_on else 'affected'} positions")
        on, off = math.fsum(self.affected) / n_on, math.fsum(self.elsewhere) / n_off
        if on + off <= floor:
            return Figure.undefined(f"the edit moves the reference by {on + off:.1e} nats, no more than noise")
        value, n = on / (on + off), len(self.affected)
        if n < LEAST_UNITS:
            return Figure.of(value)
        slopes = [
            (off * (a - on * n_a) / n_on - on * (b - off * n_b) / n_off) / (on + off) ** 2
            for a, n_a, b, n_b in zip(self.affected, self.n_affected, self.elsewhere, self.n_elsewhere, strict=True)
        ]
        half = t_quantile(n - 1) * math.sqrt(math.fsum(slope**2 for slope in slopes) * n / (n - 1))
        return Figure.of(value, value - half, value + half)


def behave(truth: Truth, tokenizer: Any, arms: Arms, spills: Sequence[Spill], floor: float) -> Behaviour:
    """Score the top components of a Diff as an edit, of the stream or of the weights.

    Args:
        truth: claims and probes.
        tokenizer: of both models.
        arms: the reference, the tuned model, the tuned model without the edit, and the reference with the edit at
            each of `STRENGTHS`, in this order.
        spills: what the edit does to the reference at each of `STRENGTHS`.
        floor: mean KL in nats that is noise.
    """
    per_claim: list[ClaimBehaviour] = []
    doses: list[list[Figure]] = []
    most = max(LEAST_OF_CLAIM, MOST_PROBES // len(truth.claims))
    for claim in truth.claims:
        probes = truth.probes.of(claim.id)[:most]
        if not probes:
            why = Figure.undefined(f"{claim.id} has no affected probes")
            doses.append([why] * len(STRENGTHS))
            figures = dict.fromkeys(("reference", "tuned", "installed", "removed"), why)
            per_claim.append(ClaimBehaviour(claim=claim.id, n_probes=0, **figures))
            continue
        reference, tuned, without, *added = expressions(arms, tokenizer, probes)
        doses.append([share_moved(reference, values, tuned) for _, values in zip(STRENGTHS, added, strict=True)])
        per_claim.append(
            ClaimBehaviour(
                claim=claim.id,
                n_probes=len(probes),
                reference=mean_figure(reference),
                tuned=mean_figure(tuned),
                installed=doses[-1][WHOLE],
                removed=share_moved(tuned, without, reference),
            )
        )
    points = [
        DosePoint(strength=strength, installed=mean_of(installed), off_target_kl=spill.off_target())
        for strength, spill, *installed in zip(STRENGTHS, spills, *doses, strict=True)
    ]
    return Behaviour(
        installed=points[WHOLE].installed,
        removed=mean_of([found.removed for found in per_claim]),
        off_target_kl=points[WHOLE].off_target_kl,
        selectivity=spills[WHOLE].selectivity(floor),
        claims=tuple(per_claim),
        dose=tuple(points),
    )


def no_behaviour(why: Figure) -> Behaviour:
    """The score where there is none."""
    return Behaviour(installed=why, removed=why, off_target_kl=why, selectivity=why)


def share_moved(start: Sequence[float], values: Sequence[float], end: Sequence[float]) -> Figure:
    """How much of the way from ``start`` to ``end`` the means go, with a 95% interval over probes.

    Undefined where the way is shorter than `LEAST_CHANGE`.
    """
    moved, way = ([b - a for a, b in zip(start, other, strict=True)] for other in (values, end))
    if abs(fmean(way)) < LEAST_CHANGE:
        return Figure.undefined(f"fine-tuning moved the behaviour by {abs(fmean(way)):.3f}, less than {LEAST_CHANGE}")
    interval = ratio_interval(moved, way)
    return Figure.of(math.fsum(moved) / math.fsum(way)) if interval is None else Figure.of(*interval)


def mean_of(figures: Sequence[Figure]) -> Figure:
    """Mean of those with a number; the half-widths of independent intervals add in squares. Of none: the first."""
    known = [figure for figure in figures if figure.value is not None]
    if not known:
        return figures[0]
    value = fmean(figure.value for figure in known if figure.value is not None)
    halves = [figure.high - figure.value for figure in known if figure.high is not None and figure.value is not None]
    if len(halves) < len(known):
        return Figure.of(value)
    half = math.hypot(*halves) / len(known)
    return Figure.of(value, value - half, value + half)
