"""Gate report: the measured numbers of an organism beside what they must be."""

from __future__ import annotations

from pydantic import Field

from diffbench.errors import GateError
from diffbench.truth import Schema


class GateCheck(Schema):
    """One measured number and the range it must lie in; without bounds it is told and not judged."""

    name: str
    value: float
    low: float | None
    high: float | None
    unit: str = ""

    @classmethod
    def measured(cls, name: str, value: float, unit: str = "") -> GateCheck:
        """A number that nothing is asked of."""
        return cls(name=name, value=value, low=None, high=None, unit=unit)

    @property
    def passed(self) -> bool:
        """Whether the value lies in the range."""
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)

    def line(self) -> str:
        """As a person reads it."""
        low = "" if self.low is None else f"{self.low:g} <= "
        high = "" if self.high is None else f" <= {self.high:g}"
        mark = "ok" if self.passed else "FAILED"
        return f"{self.name}: {low}{self.value:.4g}{high} {self.unit}".rstrip() + f" [{mark}]"


class GateReport(Schema):
    """All checks of one organism."""

    organism: str
    checks: tuple[GateCheck, ...] = Field(min_length=1)
    layer: int | None = Field(None, description="at which the principal components were taken")

    def value(self, name: str) -> float | None:
        """The number of that name; None: it was not measured."""
        return next((check.value for check in self.checks if check.name == name), None)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def require(self, asked: str) -> None:
        """Raise `GateError` with the numbers unless everything passed.

        Args:
            asked: name or path by which the organism was asked for.
        """
        if not self.passed:
            failed = "; ".join(check.line() for check in self.checks if not check.passed)
            raise GateError(
                f"organism {self.organism}: gate not passed: {failed}; see `diffbench organisms verify {asked}`"
            )
