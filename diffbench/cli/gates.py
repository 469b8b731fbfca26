"""Gate reports as people read them: one check by check, several as a table by family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffbench.cli.terminal import table
from diffbench.errors import DiffbenchError
from diffbench.line import one_line

if TYPE_CHECKING:
    from diffbench.build import Organism
    from diffbench.gate_report import GateCheck, GateReport

COLUMNS = (
    ("BASE", "expression, base"),
    ("CONTROL", "expression, control"),
    ("TUNED", "expression, tuned"),
    ("OFF-TARGET", "off-target KL(tuned || base)"),
    ("KL SHARE", "share of KL at affected positions"),
    ("PCA-1", "R at affected positions, PCA-1"),
    ("PCA-8", "R at affected positions, PCA-8"),
    ("PCA-32", "R at affected positions, PCA-32"),
    ("CHANGED", "share of parameters that changed"),
)
"""What a table of organisms shows, and the checks that it is read from."""


def gate_text(gate: GateReport) -> str:
    """One report, check by check."""
    rows = [
        (check.name, f"{check.value:.4g}", _bound(check.low), _bound(check.high), check.unit or "-", _result(check))
        for check in gate.checks
    ]
    ending = "passed" if gate.passed else "did not pass"
    layer = "" if gate.layer is None else f"principal components at layer {gate.layer}\n"
    shown = table(("CHECK", "VALUE", "LOWEST", "HIGHEST", "UNIT", "RESULT"), rows)
    return f"{shown}\n{layer}{gate.organism}: {ending}"


def gates_text(verified: Sequence[tuple[Organism, GateReport | DiffbenchError]]) -> str:
    """A row for each organism, in order of family; what was not measured is a dash."""
    rows: list[tuple[object, ...]] = []
    for organism, gate in sorted(verified, key=lambda pair: (pair[0].recipe.family or "", pair[0].recipe.name)):
        recipe = organism.recipe
        if isinstance(gate, DiffbenchError):
            figures, result = ["-"] * len(COLUMNS), f"ERROR: {one_line(gate, 100)}"
        else:
            figures = ["-" if (value := gate.value(name)) is None else f"{value:.3g}" for _, name in COLUMNS]
            failed = [check.name for check in gate.checks if not check.passed]
            result = "FAILED: " + ", ".join(failed) if failed else "ok"
        rows.append((recipe.family or "-", recipe.name, recipe.training.kind, *figures, result))
    return table(("FAMILY", "ORGANISM", "TRAINING", *(title for title, _ in COLUMNS), "GATE"), rows)


def _bound(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _result(check: GateCheck) -> str:
    if check.low is None and check.high is None:
        return "-"
    return "ok" if check.passed else "FAILED"
