"""Figure: one measured number, or the reason why there is none. Knows nothing of models or torch.

Nothing that failed, could not be asked or has no meaning ever becomes a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from diffbench.interval import mean_interval
from diffbench.truth import Schema


class Figure(Schema):
    """One measured number with its 95% interval, or the reason why there is none."""

    state: Literal["ok", "none", "n/a", "undefined"] = Field(
        description="none: asked, and there is none; n/a: the Diff cannot be asked this; "
        "undefined: the quantity has no meaning here"
    )
    value: float | None = None
    low: float | None = Field(
        None, description="lower end of the 95% interval over documents or findings, where there is one"
    )
    high: float | None = None
    reason: str | None = Field(None, max_length=500)

    @model_validator(mode="after")
    def _state_agrees(self) -> Self:
        if (self.state == "ok") != (self.value is not None):
            raise ValueError("a figure has a value exactly when its state is ok")
        if self.state != "ok" and not self.reason:
            raise ValueError("a figure without a value says why")
        for number in (self.value, self.low, self.high):
            if number is not None and not abs(number) < float("inf"):
                raise ValueError("figures are finite")
        return self

    @classmethod
    def of(cls, value: float, low: float | None = None, high: float | None = None) -> Figure:
        """A measured number."""
        return cls(state="ok", value=value, low=low, high=high)

    @classmethod
    def none(cls, reason: str) -> Figure:
        """The question was asked, and the answer is that there is none."""
        return cls(state="none", reason=reason)

    @classmethod
    def not_applicable(cls, reason: str) -> Figure:
        """The Diff cannot be asked this."""
        return cls(state="n/a", reason=reason)

    @classmethod
    def undefined(cls, reason: str) -> Figure:
        """The quantity has no meaning on this pair."""
        return cls(state="undefined", reason=reason)


def mean_figure(values: Sequence[float]) -> Figure:
    """The mean of independent units with its 95% t interval, which it has from three units on.

    Raises:
        ValueError: if there is no unit.
    """
    if not values:
        raise ValueError("no unit, no mean")
    interval = mean_interval(values)
    return Figure.of(math.fsum(values) / len(values)) if interval is None else Figure.of(*interval)
