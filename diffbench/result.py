"""Result: a finished run in Python, its records as data frames. Imports no torch until a Diff is read.

A number that is missing is null in every frame, and the ``_state`` column beside it says why.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from diffbench.board import Board, collect
from diffbench.board_page import counts, text
from diffbench.change_detection import ChangeDetection, DetectionRow, change_detection
from diffbench.cli.terminal import table_width
from diffbench.columns import rows
from diffbench.errors import OptionError, RecordError, UnknownName
from diffbench.figure import Figure
from diffbench.line import one_line
from diffbench.record import Record
from diffbench.run_folder import CELLS, RECORD_FILE, Run, cell_folder_name, find_run, read_run, refusal
from diffbench.standing import Standing, StandingRow
from diffbench.standings import chosen, organisms_of, standings
from diffbench.table import number
from diffbench.truth import Schema

if TYPE_CHECKING:
    from diffbench.diff import Diff

SHOWN = ("headline", "budget_mean", "claims_recall", "auroc_first", "installed", "removed", "detection_lift")
"""Figures that a notebook shows; `RunResult.summary` has all of them."""
ENDS = ("", "_low", "_high", "_state")


@dataclass(frozen=True, eq=False, repr=False)
class RunResult:
    """A finished run.

    Attributes:
        run: what was read from its folder.
    """

    run: Run

    @classmethod
    def of(cls, run: Run) -> RunResult:
        """The result of a run, whose folder is known wherever the program goes."""
        return cls(replace(run, path=run.path.absolute()))

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.run.path

    @property
    def records(self) -> tuple[Record, ...]:
        """The finished cells."""
        return self.run.records

    @property
    def damaged(self) -> tuple[tuple[Path, str], ...]:
        """Records that cannot be read: path within the run folder, and why."""
        return self.run.damaged

    @property
    def unfinished(self) -> tuple[Path, ...]:
        """Cell folders without a record."""
        return self.run.unfinished

    @property
    def failures(self) -> tuple[Record, ...]:
        """Cells that ended in an error; their reason says which."""
        return tuple(record for record in self.records if record.status == "error")

    @property
    def frame(self) -> pd.DataFrame:
        """One row per record, in their order; `diffbench.columns.dictionary` says what the columns are."""
        return rows(self.records)

    @property
    def summary(self) -> pd.DataFrame:
        """One row per method and setting, averaged over the seeds of the method, in reading order."""
        return self._board.summary.copy()

    @cached_property
    def _board(self) -> Board:
        return collect([self.run])

    def standings(self, *metrics: str, organism: str | None = None) -> pd.DataFrame:
        """Methods over organisms, as ``diffbench leaderboard standings`` has them: a row per method and table.

        Args:
            metrics: figures that have a direction, or ``all`` for the usual ones; none: headline.
            organism: only this one, over its seeds.

        Raises:
            UnknownName: for a figure or an organism that is not there.
            OptionError: for a figure of which neither more nor less is better.
        """
        asked = chosen(metrics)
        known = organisms_of(self._board.rows)
        if organism is not None and organism not in known:
            raise UnknownName("organism in this run", organism, known)
        found = standings(self._board.rows, asked, scope=organism)
        return _frame(Standing, StandingRow, ((table, table.rows) for table in found))

    def detection(self) -> pd.DataFrame:
        """Alarms on nulls against hits on changed organisms: a row per method and class; none without nulls."""
        found = change_detection(self._board.rows)
        return _frame(ChangeDetection, DetectionRow, ((table, table.rows) for table in found))

    def diff(self, organism: str, method: str, seed: int = 0, *, reference: str | None = None) -> Diff:
        """The Diff that a cell keeps.

        Args:
            organism: of the cell.
            method: the method, or ``method@ranking``.
            seed: of the method.
            reference: base or control, where the run has both.

        Raises:
            UnknownName: if the run has no such cell.
            OptionError: if it has several.
            RecordError: if the cell keeps no Diff, or another one than was scored.
            DiffError: if its files are malformed.
        """
        found = list(self.records)
        if not found:
            raise RecordError(f"{self.path}: no finished cell that can be read; `.damaged` says what is wrong")
        for what, asked, read in _PARTS:
            wanted = {"organism": organism, "method": method, "seed": seed, "reference": reference}[asked]
            if wanted is not None:
                here = [record for record in found if read(record) == wanted]
                if not here:
                    raise UnknownName(what, str(wanted), {one_line(read(record)) for record in found})
                found = here
        if len(found) > 1:
            told = "; ".join(
                sorted(
                    f"reference {record.cell.reference}, options {record.cell.options_passed}, key {record.key[:8]}"
                    for record in found
                )
            )
            raise OptionError(f"several cells are of that name ({one_line(told, 300)}); use `diff_of(record)`")
        return self.diff_of(found[0])

    def diff_of(self, record: Record) -> Diff:
        """The Diff that the cell of a record keeps; raises as `diff` does."""
        from diffbench.diff_file import load_diff
        from diffbench.exchange import DIFF
        from diffbench.stored_cell import kept_diff, read_cell

        cell = self.path / CELLS / cell_folder_name(record.cell, record.key)
        for part, kind in ((cell.parent, stat.S_ISDIR), (cell, stat.S_ISDIR), (cell / RECORD_FILE, stat.S_ISREG)):
            if (problem := refusal(part, kind)) is not None:
                raise RecordError(f"{part}: {problem}")
        stored = read_cell(cell / RECORD_FILE)
        kept = kept_diff(self.path, stored)
        if kept is None or (kept.folder != cell and record.cell.ranking is not None):
            what = "keeps no Diff" if kept is None else "has lost the order of its Diff"
            raise RecordError(f"{stored.name}: the cell {what} ({record.status}); run it again")
        return load_diff(kept.folder / DIFF)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"RunResult({str(self.path)!r}: {counts(self._board)})"

    def __str__(self) -> str:
        return text(self._board, table_width())

    def _repr_html_(self) -> str:
        shown = pd.DataFrame([_shown(row) for row in self._board.summary.to_dict("records")])
        return f"<p>{escape(repr(self))}</p>\n{shown.to_html(index=False, na_rep='', escape=True)}"


def load_run(path: str | Path) -> RunResult:
    """A run that was finished before, in the form in which `diffbench.run` returns one.

    Args:
        path: a run folder, its ``run.json``, or the name of a folder in ``runs/``.

    Raises:
        RecordError: if it is no run folder.
    """
    return RunResult.of(read_run(find_run(Path(path))))


_PARTS: tuple[tuple[str, str, Any], ...] = (
    ("organism in this run", "organism", lambda record: record.cell.organism),
    ("method of that organism in this run", "method", lambda record: record.cell.row),
    ("seed of that method in this run", "seed", lambda record: record.cell.seed),
    ("reference of that cell in this run", "reference", lambda record: record.cell.reference),
)


def _frame(table: type[Schema], row: type[Schema], found: Iterable[tuple[Schema, Sequence[Schema]]]) -> pd.DataFrame:
    """Rows of several tables, each with what holds for its table before it; a figure has four columns."""
    about = {name: f"table_{name}" if name in row.model_fields else name for name in table.model_fields}
    about = {name: shown for name, shown in about.items() if name not in ("rows", "pairs")}
    own = {name: name for name in row.model_fields}
    names = [name for schema, wanted in ((table, about), (row, own)) for name in _names(schema, wanted)]
    data = [dict(_values(whole, about)) | dict(_values(one, own)) for whole, several in found for one in several]
    return pd.DataFrame(data, columns=names)


def _names(schema: type[Schema], wanted: Mapping[str, str]) -> Iterator[str]:
    for name, shown in wanted.items():
        ends = ENDS if schema.model_fields[name].annotation is Figure else ("",)
        yield from (shown + end for end in ends)


def _values(part: Schema, wanted: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for name, shown in wanted.items():
        value = getattr(part, name)
        values = (value.value, value.low, value.high, value.state) if isinstance(value, Figure) else (value,)
        yield from ((shown + end, one) for end, one in zip(ENDS, values, strict=False))


def _shown(row: dict[Any, Any]) -> dict[str, str]:
    told = {"organism": row["organism"], "reference": row["reference"], "method": row["label"], "status": row["status"]}
    told |= {name: number(row[name], row[f"{name}_state"]) for name in SHOWN}
    return {name: one_line(value) for name, value in told.items()} | {"notes": one_line(row["notes"])}
