"""Board: the records of several runs put together, in tables of rows that may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from diffbench.columns import TRUST, earlier, filled, instant, rows
from diffbench.edition import trusted
from diffbench.line import one_line
from diffbench.record import Budget, PairFacts, Record
from diffbench.run_folder import Run
from diffbench.summary import SECTION, Row, plain_rows, summary_frame, summary_rows
from diffbench.verification import Mark, Trust, trust_in


@dataclass(frozen=True, slots=True)
class Copy:
    """A record, the name and the folder of the run it is from, and how far it is to be trusted."""

    record: Record
    run: str
    home: Path
    mark: Mark
    since: str | None


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

    A key that several runs hold of one cell counts once: one's own before a submission's, and then the newest by
    `started`; of submissions a verified row, and then the one that was looked at first.
    """
    different = {run.path.resolve(): run for run in runs}.values()
    ordered = sorted(different, key=lambda run: (_run_row(run)["run"], instant(_started(run)), str(_run_row(run))))
    trust = {run.path: trust_in(run) for run in ordered}
    held: dict[tuple[Any, ...], list[Copy]] = {}
    for run in ordered:
        known = trust[run.path]
        for record in run.records:
            copy = Copy(record, one_line(run.file.name), run.path, known.mark(record), known.since)
            held.setdefault(_same(record), []).append(copy)
    for copies in held.values():
        if len(copies) > 1:
            copies.sort(key=_age)
    kept = sorted((copies[-1] for copies in held.values()), key=lambda copy: _order(copy.record))
    records = tuple(copy.record for copy in kept)
    frame = rows(records)
    for name in ("run", "verified", "since"):
        values = [getattr(copy, "mark" if name == "verified" else name) for copy in kept]
        frame[name] = filled([None if value is None else one_line(value) for value in values], dtype="string")
    data = tuple(plain_rows(frame))
    found = summary_rows(data)
    return Board(
        rows=frame,
        data=data,
        records=records,
        homes=tuple(copy.home for copy in kept),
        summary=summary_frame(found),
        sections=_sections(records, data, found),
        runs=tuple(_run_row(run, trust[run.path]) for run in ordered),
        duplicates=tuple(
            {"key": one_line(key[0]), "kept": _copy(copies[-1]), "left_out": [_copy(copy) for copy in copies[:-1]]}
            for key, copies in sorted(held.items())
            if len(copies) > 1
        ),
        damaged=_listed((run, path.as_posix(), message) for run in ordered for path, message in run.damaged),
        unfinished=_listed(
            (run, path, None)
            for run in ordered
            for path in (*map(Path.as_posix, run.unfinished), *trust[run.path].unfinished)
        ),
    )


def _sections(records: Sequence[Record], data: Sequence[Row], table: Sequence[Row]) -> tuple[Section, ...]:
    def key(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in SECTION)

    first: dict[tuple[Any, ...], Record] = {}
    failures: dict[tuple[Any, ...], list[Row]] = {}
    tables: dict[tuple[Any, ...], list[Row]] = {}
    for record, row in sorted(zip(records, data, strict=True), key=lambda pair: not trusted(pair[1])):
        first.setdefault(key(row), record)  # what a stranger says of the pair is shown where nobody else does
    for row in data:
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


def _run_row(run: Run, trust: Trust | None = None) -> Row:
    provenance = {name: one_line(value) for name, value in run.file.provenance.model_dump().items()}
    unfinished = len(run.unfinished) + (len(trust.unfinished) if trust else 0)
    counts = {"records": len(run.records), "damaged": len(run.damaged), "unfinished": unfinished}
    return {"run": one_line(run.file.name), **provenance, **counts}


def _started(run: Run) -> str:
    return run.file.provenance.started


def _copy(copy: Copy) -> Row:
    return {"run": copy.run, "started": one_line(copy.record.timings.started), "status": copy.record.status}


def _age(copy: Copy) -> tuple[Any, ...]:
    """Least trusted first, one's own newest and others' oldest last.

    Equally old ones are told apart by what they say: input order decides nothing.
    """
    if copy.mark == TRUST[-1]:
        age = instant(copy.record.timings.started), copy.run
    else:
        age = earlier(copy.since, copy.run)
    return TRUST.index(copy.mark), *age, str(plain_rows(rows([copy.record])))


def _same(record: Record) -> tuple[Any, ...]:
    """What copies of one record share: a stranger may give any cell any key."""
    cell = record.cell
    return record.key, *_order(record), cell.judge, cell.method_version, cell.method_package


def _order(record: Record) -> tuple[Any, ...]:
    cell = record.cell
    return cell.organism, cell.organism_version, cell.reference, cell.tier, cell.row, cell.seed, record.key
