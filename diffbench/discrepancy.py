"""Discrepancy: two documents of one schema, figure by figure, as far as they differ by more than a tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from diffbench.figure import Figure
from diffbench.line import one_line
from diffbench.truth import Schema
from diffbench.verification import Tolerance


@dataclass(slots=True)
class Comparing:
    """What a comparison has come to.

    Attributes:
        tolerance: what numbers may differ by.
        skipped: names of fields that need not agree.
        figures: that were compared.
        largest: difference between two numbers.
        found: what differs, each as ``where: this here, that there``.
    """

    tolerance: Tolerance
    skipped: frozenset[str] = frozenset()
    figures: int = 0
    largest: float = 0.0
    found: list[str] = field(default_factory=list)

    def compare(self, told: Any, again: Any, where: str = "") -> None:
        """Compare two values, models within models."""
        self.found += self._differences(where, told, again)

    def _differences(self, where: str, told: Any, again: Any) -> Iterator[str]:
        if isinstance(told, Figure) and isinstance(again, Figure):
            yield from self._figure(where, told, again)
        elif isinstance(told, Schema) and type(told) is type(again):
            for name in type(told).model_fields:
                if name not in self.skipped:
                    here = f"{where}.{name}" if where else name
                    yield from self._differences(here, getattr(told, name), getattr(again, name))
        elif isinstance(told, tuple) and isinstance(again, tuple) and len(told) == len(again):
            for n, (part, other) in enumerate(zip(told, again, strict=True)):
                yield from self._differences(f"{where}[{n}]", part, other)
        elif isinstance(told, float) and isinstance(again, float):
            self.figures += 1
            if not self._near(told, again):
                yield f"{where}: {told:.6g} there, {again:.6g} here"
        elif told != again:
            yield f"{where}: {_shown(told)} there, {_shown(again)} here"

    def _figure(self, where: str, told: Figure, again: Figure) -> Iterator[str]:
        self.figures += 1
        if told.state != again.state:
            yield f"{where}: {_shown(told)} there, {_shown(again)} here"
            return
        for end in ("value", "low", "high"):
            one, other = getattr(told, end), getattr(again, end)
            if one is None or other is None:
                same = one is other
            else:
                same = self._near(one, other)
            if not same:
                name = where if end == "value" else f"{where}.{end}"
                yield f"{name}: {_shown(one)} there, {_shown(other)} here"

    def _near(self, one: float, other: float) -> bool:
        if math.isfinite(one - other):
            self.largest = max(self.largest, abs(one - other))
        return self.tolerance.allows(one, other)


def _shown(value: Any) -> str:
    if isinstance(value, Figure):
        return value.state if value.value is None else f"{value.value:.6g}"
    return f"{value:.6g}" if isinstance(value, float) else one_line(value, 60)
