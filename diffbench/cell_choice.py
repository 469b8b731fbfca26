"""Cell choice: the one finished cell of a run that somebody means."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from diffbench.errors import OptionError, UnknownName
from diffbench.stored_cell import StoredCell, stored_cells
from diffbench.truth import Schema


class CellChoice(Schema):
    """Which cell is meant.

    Attributes:
        organism: its name.
        row: of the method, as tables name it.
        seed: of the method; None: there must be cells of one only. Likewise reference and tier.
    """

    organism: str
    row: str
    reference: Literal["base", "control"] | None = None
    seed: int | None = None
    tier: str | None = None


def choose_cell(choice: CellChoice, run: Path) -> StoredCell:
    """The one finished cell that is asked for; those that differ in their judge alone are alike.

    Raises:
        UnknownName: for an organism or a row that has no finished cell.
        OptionError: if there is no such cell, or there are several.
    """
    found = [cell for _, cell in stored_cells(run) if isinstance(cell, StoredCell) and cell.status == "ok"]
    for name, kind, wanted in (
        ("organism", "organism with a finished cell in this run", choice.organism),
        ("row", "row with a finished cell on it", choice.row),
    ):
        known = {str(getattr(cell.cell, name)) for cell in found}
        found = [cell for cell in found if getattr(cell.cell, name) == wanted]
        if not found:
            raise UnknownName(kind, wanted, known)
    for name in ("reference", "seed", "tier"):
        value = getattr(choice, name)
        there = sorted({str(getattr(cell.cell, name)) for cell in found})
        found = [cell for cell in found if value is None or getattr(cell.cell, name) == value]
        if not found:
            raise OptionError(f"{name}: there is no such cell of {name} {value}; there are {', '.join(there)}")
    for name in ("reference", "seed", "tier"):
        there = sorted({str(getattr(cell.cell, name)) for cell in found})
        if len(there) > 1:
            raise OptionError(f"{name}: there are cells of {', '.join(there)}; choose one with --{name}")
    return found[0]
