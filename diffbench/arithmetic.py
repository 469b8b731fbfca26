"""Arithmetic: whether the sums of a record follow from its parts, which costs nothing to ask of every record."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from diffbench.figure import Figure
from diffbench.scores import Scores
from diffbench.truth import Schema

ROUNDING = 1e-9
"""A share of the larger number, or as much where both are small."""


def contradictions(scores: Scores) -> Iterator[str]:
    """What cannot be as it is told: a value outside its own interval, a mean that is none of its parts', a wrong share.

    Whoever changes a figure and what it follows from is not found out here: the cells that are scored again do that.
    """
    for path, figure in _figures(scores, ""):
        if figure.value is None or figure.low is None or figure.high is None:
            continue
        if not _between(figure.low, figure.value, figure.high):
            yield f"{path}: {figure.value:g} lies outside its own interval [{figure.low:g}, {figure.high:g}]"
    recovery, claims = scores.recovery, scores.claims
    for name, figure, parts in (
        ("recovery.headline", recovery.headline, [point.lift for point in recovery.budgets]),
        ("recovery.budget_mean", recovery.budget_mean, [point.r for point in recovery.budgets]),
    ):
        values = [part.value for part in parts if part.value is not None]
        if figure.value is None:
            continue
        if len(values) < len(parts) or not values:
            yield f"{name}: {figure.value:g} is a mean over budgets of which some have no number"
        elif not _same(figure.value, math.fsum(values) / len(values)):
            yield f"{name}: {figure.value:g} is not the mean of its budgets, {math.fsum(values) / len(values):g}"
    if claims.recall.value is not None:
        share = len(claims.found) / claims.n_claims if claims.n_claims else math.nan
        if not _same(claims.recall.value, share):
            yield f"claims.recall: {claims.recall.value:g}, where {len(claims.found)} of {claims.n_claims} are found"


def _figures(value: Any, path: str) -> Iterator[tuple[str, Figure]]:
    """Every figure of a schema, with the names that lead to it."""
    if isinstance(value, Figure):
        yield path, value
    elif isinstance(value, Schema):
        for name in type(value).model_fields:
            yield from _figures(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, tuple):
        for at, part in enumerate(value):
            yield from _figures(part, f"{path}[{at}]")


def _between(low: float, value: float, high: float) -> bool:
    return (low <= value or _same(low, value)) and (value <= high or _same(value, high))


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)


__all__ = ["contradictions"]
