"""Source: what is exported: runs, or the table of a leaderboard. All of it may be a stranger's."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from diffbench.board import collect
from diffbench.columns import COLUMNS, filled
from diffbench.errors import RecordError, UnknownName
from diffbench.leaderboard import LEADERBOARD_SCHEMA
from diffbench.line import one_line
from diffbench.run_folder import RUN_FILE, Run, find_run, folders_in, read_run, refusal
from diffbench.table import plain

TABLE_FILE = "leaderboard.json"
TABLE_BYTES = 1 << 28
_NESTED = {column.name for column in COLUMNS if column.kind == "json"}


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported.

    Attributes:
        rows: one row per record, as `diffbench.board.Board.rows` has them.
        runs: those of the records that lie in run folders, with their files; none of a leaderboard's table.
    """

    rows: pd.DataFrame
    runs: tuple[Run, ...]

    def only(self, organism: str | None, method: str | None) -> Source:
        """The part of it that is about an organism, a method (or ``method@ranking``), or both.

        Raises:
            UnknownName: if nothing is.
        """
        kept = self
        for column, wanted in (("organism", organism), ("row", method)):
            if wanted is not None:
                known = {one_line(name) for name in kept.rows[column].dropna()}
                if wanted not in known:
                    raise UnknownName("organism in there" if column == "organism" else "method in there", wanted, known)
                kept = replace(kept, rows=kept.rows[kept.rows[column] == wanted].reset_index(drop=True))
        keys = set(kept.rows["key"])
        runs = (replace(run, records=tuple(r for r in run.records if r.key in keys)) for run in kept.runs)
        return replace(kept, runs=tuple(run for run in runs if run.records))


def read_source(paths: Sequence[Path]) -> Source:
    """Read run folders, folders of run folders, and leaderboards.

    A folder that holds no run is taken for a leaderboard: the runs up to two levels below it, or else the rows of its
    ``leaderboard.json``. A record that several of them hold counts once, the newest of those in runs.

    Raises:
        RecordError: if there is nothing of the kind, it cannot be read, or it holds no finished cell.
    """
    runs: list[Run] = []
    tables: list[pd.DataFrame] = []
    for named in paths:
        path = find_run(named)
        below = list(_runs_below(path, 2))
        runs += [read_run(folder) for folder in below]
        if not below:
            tables.append(_table(path if path.name == TABLE_FILE else path / TABLE_FILE))
    frame = collect(runs).rows
    for table in tables:
        new = table[~table["key"].isin(frame["key"])]
        frame = pd.concat([frame, new], ignore_index=True) if len(frame) else table
    if not len(frame):
        raise RecordError(f"{', '.join(map(str, paths))}: no finished cell that can be read; see `diffbench show`")
    return Source(frame, tuple(runs))


def _runs_below(path: Path, depth: int) -> Iterator[Path]:
    if (path / RUN_FILE).exists():
        yield path
    elif depth and path.is_dir():
        for folder, problem in folders_in(path):
            if problem is None:
                yield from _runs_below(folder, depth - 1)


def _table(path: Path) -> pd.DataFrame:
    """The rows of a ``leaderboard.json``, in the form of `diffbench.board.Board.rows`."""
    problem = refusal(path, stat.S_ISREG)
    if problem is not None:
        raise RecordError(f"{path}: {problem}")
    if not path.exists():
        raise RecordError(f"{path.parent}: neither a run (no {RUN_FILE}) nor a leaderboard (no {TABLE_FILE})")
    try:
        if path.stat().st_size > TABLE_BYTES:
            raise RecordError(f"{path}: larger than {TABLE_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: no readable JSON ({one_line(error, 200)})") from None
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != LEADERBOARD_SCHEMA:
        raise RecordError(f"{path}: schema_version is {version!r}, this diffbench reads {LEADERBOARD_SCHEMA}")
    return _frame(path, document.get("rows"))


def _frame(path: Path, data: Any) -> pd.DataFrame:
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise RecordError(f"{path}: rows: no list of objects")
    types = {str(name): dtype for name, dtype in collect([]).rows.dtypes.items()}
    for row in data:
        wrong = sorted(map(one_line, set(row) ^ set(types)))
        if wrong:
            raise RecordError(f"{path}: rows: column {wrong[0]!r} is missing or unknown")
    columns = {}
    for name, dtype in types.items():
        values = [_value(name, row[name]) for row in data]
        try:
            columns[name] = filled(values, dtype=dtype)
        except (TypeError, ValueError) as error:
            raise RecordError(f"{path}: rows: {name}: {one_line(error, 200)}") from None
    return pd.DataFrame(columns)


def _value(name: str, value: Any) -> Any:
    if value is not None and name in _NESTED:
        return json.dumps(plain(value), sort_keys=True, ensure_ascii=False, allow_nan=False)
    return one_line(value) if isinstance(value, str) else value
