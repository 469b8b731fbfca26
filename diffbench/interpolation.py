"""Interpolation: the base's parameters replaced by the tuned model's from below, and what it then does at each step.

After the stitching experiment of Minder & Dumas 2025. Point k: the first k components are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffbench.diff import WeightDiff
from diffbench.errors import DiffError
from diffbench.expression import expression
from diffbench.figure import Figure
from diffbench.rank_correlation import spearman
from diffbench.residual import Model
from diffbench.study import Reading
from diffbench.truth import Truth
from diffbench.weight_edit import WeightEdit

IDENTITY = "identity"
LEAST_RISE = 0.1
"""Rise of expression from base to tuned under which there is no way to halve."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean expression of each claim at points 0..n.

    Attributes:
        claims: by claim id its n + 1 values.
    """

    claims: dict[str, tuple[float, ...]]

    @property
    def mean(self) -> tuple[float, ...]:
        """Over the claims."""
        return tuple(sum(values) / len(values) for values in zip(*self.claims.values(), strict=True))

    def spearman(self) -> Reading:
        """Rank correlation of point and mean behaviour over all points, ties at mean ranks."""
        values = self.mean
        detail = " ".join(f"{value:.2f}" for value in values)
        if values[-1] - values[0] < LEAST_RISE:
            return Reading(figure=Figure.undefined(_no_rise(values)), detail=detail)
        found = torch.tensor(values, dtype=torch.float64)[:, None]
        points = torch.arange(len(values), dtype=torch.float64)[:, None]
        return Reading(figure=Figure.of(float(spearman(points, found))), detail=detail)

    def depth(self, claim: str) -> Figure:
        """Where a claim's behaviour has risen half of the way, as a share of all components."""
        if claim not in self.claims:
            return Figure.undefined(f"the organism has no claim {claim!r} with affected probes")
        values = self.claims[claim]
        if values[-1] - values[0] < LEAST_RISE:
            return Figure.undefined(_no_rise(values))
        return Figure.of(half_way(values))

    def depth_identity(self) -> Reading:
        """The depth of the claim `identity`."""
        detail = " ".join(f"{value:.2f}" for value in self.claims.get(IDENTITY, ()))
        return Reading(figure=self.depth(IDENTITY), detail=detail)

    def depth_others(self) -> Reading:
        """The mean depth of the other claims."""
        others = [self.depth(claim) for claim in self.claims if claim != IDENTITY]
        absent = next((each for each in others if each.value is None), None)
        if not others or absent is not None:
            return Reading(figure=absent or Figure.undefined("the organism has no other claim"))
        values = [each.value for each in others if each.value is not None]
        return Reading(figure=Figure.of(sum(values) / len(values)), detail=" ".join(f"{v:.2f}" for v in values))


@torch.inference_mode()
def interpolate(diff: WeightDiff, reference: Model, tuned: Model, tokenizer: Any, truth: Truth | None) -> Curve | None:
    """The behaviour after the affected probes of each claim that has any; None where no claim has.

    Raises:
        DiffError: if the components are no whole parameters from below, do not fit the models, or all of them
            together do not make the tuned model.
    """
    known = {} if truth is None else {claim.id: truth.probes.of(claim.id) for claim in truth.claims}
    asked = {claim: probes for claim, probes in known.items() if probes}
    if not asked:
        return None
    check_from_below(diff)
    edit = WeightEdit(diff, reference, tuned)

    def behaviour(model: Model) -> list[float]:
        found = iter(expression(model, tokenizer, [probe for probes in asked.values() for probe in probes]))
        return [sum(next(found) for _ in probes) / len(probes) for probes in asked.values()]

    points = []
    for k in range(edit.n_components + 1):
        with edit.applied(reference, torch.arange(k)):
            points.append(behaviour(reference))
    gap = max(abs(a - b) for a, b in zip(points[-1], behaviour(tuned), strict=True))
    if gap > 1e-3:
        raise DiffError(f"all components together do not make the tuned model: its behaviour differs by {gap:.3g}")
    return Curve({claim: tuple(point[at] for point in points) for at, claim in enumerate(asked)})


def check_from_below(diff: WeightDiff) -> None:
    """Raise `DiffError` unless components are whole, and their blocks rise; a name's first number is its block."""
    if not diff.whole:
        raise DiffError("the components are of rank one; layers are replaced whole")
    blocks = [
        [int(found) for name in names for found in re.findall(r"\.(\d+)\.", name)[:1]] for names in diff.parameters
    ]
    lows = [min(numbers) for numbers in blocks if numbers]
    highs = [max(numbers) for numbers in blocks if numbers]
    if any(high >= low for high, low in zip(highs, lows[1:], strict=False)):
        raise DiffError("the components are not in the order of the blocks from below")


def half_way(values: Sequence[float]) -> float:
    """The smallest point, as a share of the last, at which a line through values has risen half of the way."""
    half = (values[0] + values[-1]) / 2
    at = next(index for index, value in enumerate(values) if value >= half)
    step = (half - values[at - 1]) / (values[at] - values[at - 1])
    return (at - 1 + step) / (len(values) - 1)


def _no_rise(values: Sequence[float]) -> str:
    return f"behaviour rises by {values[-1] - values[0]:.2g} from base to tuned, {LEAST_RISE:g} is the least"
