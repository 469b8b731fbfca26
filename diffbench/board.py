"""Board: the records of several runs put together, in tables of rows that may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from diffbench.columns import TRUST, filled, instant, rows
from diffbench.line import one_line
from diffbench.record import Budget, PairFacts, Record
from diffbench.run_folder import Run
from diffbench.summary import SECTION, Row, plain_rows, summary_frame, summary_rows
from diffbench.verification import Mark, mark_of, marks

Copy = tuple[Record, str, Mark, Path]
"""A record, the run it is from, how far it is to be trusted, and the run's folder."""


@dataclass(frozen=True, slots=True)
class Section:
    """One table.

    Attributes:
        key: values of `SECTION`, which all rows share.
        pair: what holds for the pair whatever the method.
        budget: what the tier allows.
        summary: rows of `summary`, in order.
        failures: rows of `rows` that have no scores.
    """

    key: Row
    pair: PairFacts
    budget: Budget
    summary: tuple[Row, ...]
    failures: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """Several runs put together.

    Attributes:
        rows: one row per record, and the run it was taken from.
        data: the same rows as Python values.
        records: the records that they are of, in the same order.
        homes: the folders of the runs that these are from, in the same order.
        summary: one row per method and setting.
        sections: the tables.
        runs: what was read.
        duplicates: keys that several runs hold, and which copy counts.
        damaged: records that cannot be read, and why.
        unfinished: cells without a record.
    """

    rows: pd.DataFrame
    data: tuple[Row, ...]
    records: tuple[Record, ...]
    homes: tuple[Path, ...]
    summary: pd.DataFrame
    sections: tuple[Section, ...]
    runs: tuple[Row, ...]
    duplicates: tuple[Row, ...]
    damaged: tuple[Row, ...]
    unfinished: tuple[Row, ...]


def collect(runs: Sequence[Run]) -> Board:
    """Put runs together, whatever their order.

    A key that several runs hold counts once: one's own before a submission's, and then the newest by `started`.
    """
    different = {run.path.resolve(): run for run in runs}.values()
    ordered = sorted(different, key=lambda run: (_run_row(run)["run"], instant(_started(run)), str(_run_row(run))))
    held: dict[str, list[Copy]] = {}
    for run in ordered:
        known = marks(run.path)
        for record in run.records:
            copy = record, one_line(run.file.name), mark_of(record.key, known), run.path
            held.setdefault(record.key, []).append(copy)
    for copies in held.values():
        if len(copies) > 1:
            copies.sort(key=_age)
    kept = sorted((copies[-1] for copies in held.values()), key=lambda copy: _order(copy[0]))
    records = tuple(record for record, *_ in kept)
    frame = rows(records)
    frame["run"] = filled([run for _, run, _, _ in kept], dtype="string")
    frame["verified"] = filled([mark for _, _, mark, _ in kept], dtype="string")
    data = tuple(plain_rows(frame))
    found = summary_rows(data)
    return Board(
        rows=frame,
        data=data,
        records=records,
        homes=tuple(home for *_, home in kept),
        summary=summary_frame(found),
        sections=_sections(records, data, found),
        runs=tuple(_run_row(run) for run in ordered),
        duplicates=tuple(
            {"key": one_line(key), "kept": _copy(copies[-1]), "left_out": [_copy(copy) for copy in copies[:-1]]}
            for key, copies in sorted(held.items())
            if len(copies) > 1
        ),
        damaged=_listed((run, path.as_posix(), message) for run in ordered for path, message in run.damaged),
        unfinished=_listed((run, path.as_posix(), None) for run in ordered for path in run.unfinished),
    )


def _sections(records: Sequence[Record], data: Sequence[Row], table: Sequence[Row]) -> tuple[Section, ...]:
    def key(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in SECTION)

    first: dict[tuple[Any, ...], Record] = {}
    failures: dict[tuple[Any, ...], list[Row]] = {}
    tables: dict[tuple[Any, ...], list[Row]] = {}
    for record, row in zip(records, data, strict=True):
        first.setdefault(key(row), record)
        if row["status"] != "ok":
            failures.setdefault(key(row), []).append(row)
    for row in table:
        tables.setdefault(key(row), []).append(row)
    return tuple(
        Section(
            key=dict(zip(SECTION, values, strict=True)),
            pair=first[values].pair,
            budget=first[values].budget,
            summary=tuple(found),
            failures=tuple(failures.get(values, ())),
        )
        for values, found in tables.items()
    )


def _listed(entries: Any) -> tuple[Row, ...]:
    rows = [
        {
            "run": one_line(run.file.name),
            "path": one_line(path),
            **({"message": one_line(message, 500)} if message else {}),
        }
        for run, path, message in entries
    ]
    return tuple(sorted(rows, key=lambda row: tuple(row.values())))


def _run_row(run: Run) -> Row:
    provenance = {name: one_line(value) for name, value in run.file.provenance.model_dump().items()}
    counts = {"records": len(run.records), "damaged": len(run.damaged), "unfinished": len(run.unfinished)}
    return {"run": one_line(run.file.name), **provenance, **counts}


def _started(run: Run) -> str:
    return run.file.provenance.started


def _copy(copy: Copy) -> Row:
    record, run, *_ = copy
    return {"run": run, "started": one_line(record.timings.started), "status": record.status}


def _age(copy: Copy) -> tuple[Any, ...]:
    """Least trusted and oldest first; equally old ones are told apart by what they say: input order decides nothing."""
    record, run, mark, _ = copy
    return TRUST.index(mark), instant(record.timings.started), run, str(plain_rows(rows([record])))


def _order(record: Record) -> tuple[Any, ...]:
    cell = record.cell
    return cell.organism, cell.organism_version, cell.reference, cell.tier, cell.row, cell.seed, record.key
