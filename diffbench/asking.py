"""Asking: which cells a run was asked for, by what its ``run.json`` says, and which of them are not there.

One folder may hold the cells of several commands, and ``run.json`` tells the last one alone; such a folder is no
submission until one command asks for all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffbench.errors import SubmissionError
from diffbench.grid import PINNED
from diffbench.plugins import load_plugins, provenance
from diffbench.record import Record
from diffbench.run_folder import RUN_FILE
from diffbench.verification import AskedCell

OWN = "diffbench"
"""The distribution whose methods every installation has."""
MOST_CELLS = 200_000
"""That a run may ask for: a small file can name a product that fits no memory."""


def asked_cells(config: Mapping[str, Any], records: Sequence[Record]) -> list[AskedCell]:
    """Every cell that a configuration asks for, in a fixed order.

    Where it asks for all installed methods these are the bundled ones, and those that any record is of. A pair of one's
    own is known by its records alone.

    Args:
        config: of ``run.json``; what is malformed in it asks for nothing.
        records: of the run.

    Raises:
        SubmissionError: if these are more than `MOST_CELLS`.
    """
    own = sorted({record.cell.organism for record in records if record.cell.training == "given"})
    organisms = own if isinstance(config.get("pair"), dict) else _texts(config.get("organisms"))
    seeds = _whole(config.get("organism_seeds"))
    references, methods, drawn = _texts(config.get("references")), _rows(config, records), _whole(config.get("seeds"))
    n = len(organisms) * len(seeds or [0]) * len(references) * len(methods) * len(drawn)
    if n > MOST_CELLS:
        raise SubmissionError(f"{RUN_FILE} asks for {n} cells, and at most {MOST_CELLS} are read; split the run")
    if seeds:
        organisms = [f"{name.partition('@')[0]}@{seed}" for name in organisms for seed in seeds]
    cells = [
        AskedCell(organism=organism, reference=reference, row=row, seed=seed)
        for organism in organisms
        for reference in references
        for row in methods
        for seed in drawn
    ]
    return list(dict.fromkeys(cells))


def missing_cells(config: Mapping[str, Any], records: Sequence[Record]) -> list[AskedCell]:
    """The cells that a configuration asks for and that have no record at its tier, by its judge."""
    there = {name for record in records if _alike(config, record) for name in _names(record)}
    return [cell for cell in asked_cells(config, records) if cell not in there]


def unasked_cells(config: Mapping[str, Any], records: Sequence[Record]) -> list[AskedCell]:
    """The records that a configuration does not ask for: it cannot be told then which others are missing."""
    asked = set(asked_cells(config, records))
    return [asked_of(one) for one in records if not _alike(config, one) or asked.isdisjoint(_names(one))]


def asked_of(record: Record) -> AskedCell:
    """What a record is of."""
    cell = record.cell
    return AskedCell(organism=cell.organism, reference=cell.reference, row=cell.row, seed=cell.seed)


def _names(record: Record) -> list[AskedCell]:
    """What a record may be asked for as: at the recipe's own seed an organism is not called by it."""
    asked = asked_of(record)
    kind = record.cell.organism.partition("@")[0]
    return [asked, asked.model_copy(update={"organism": f"{kind}@{record.cell.organism_seed}"})]


def _alike(config: Mapping[str, Any], record: Record) -> bool:
    judge = str(config.get("judge")).partition(":")[0]
    known = record.cell.judge.rpartition(" ")[0].partition(":")[0]
    return record.cell.tier == config.get("tier") and judge == known


def _rows(config: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    named = _texts(config.get("methods"))
    if named:
        return [*named, *(PINNED if config.get("controls", True) else ())]
    bundled = [name for name, cls in load_plugins().methods.items() if provenance(cls).rpartition(" ")[0] == OWN]
    return sorted({*bundled, *(record.cell.method for record in records if _alike(config, record))})


def _texts(value: Any) -> list[str]:
    return list(dict.fromkeys(part for part in value if isinstance(part, str))) if isinstance(value, list) else []


def _whole(value: Any) -> list[int]:
    return list(dict.fromkeys(part for part in value if type(part) is int)) if isinstance(value, list) else []
