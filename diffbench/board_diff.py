"""Board diff: two states of a leaderboard, row by row: what came, what went, which figures and ranks moved."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from diffbench.columns import precedence
from diffbench.errors import RecordError
from diffbench.leaderboard import LEADERBOARD_SCHEMA, collect, document
from diffbench.line import one_line
from diffbench.merging import RECORDS
from diffbench.run_folder import RUN_FILE, folders_in, read_run, refusal
from diffbench.score_columns import FIGURES
from diffbench.truth import Schema
from diffbench.verification import Tolerance

BOARD_FILE = "leaderboard.json"
BOARD_BYTES = 1 << 30
FACTS = ("status", "verdict", "verified")
"""What is no figure, and is compared all the same."""
_ROW = ("organism", "organism_version", "reference", "tier", "judge", "layer_rule", "row", "variant", "seed")
_TABLE = ("metric", "scope", "reference", "tier", "judge")
_SHOWN = ("organism", "organism_version", "reference", "tier", "judge", "row", "variant", "seed")
_COUNTED = ("organism_version", "seed")


class Move(Schema):
    """One value of a row that is another one in the second state."""

    name: str
    before: float | str | None = Field(description="a figure that is no number: its state")
    after: float | str | None


class RowChange(Schema):
    """A row of a leaderboard's data."""

    organism: str | None
    organism_version: int | None = Field(description="version of its recipe")
    reference: str | None
    tier: str | None
    judge: str | None
    row: str | None
    variant: str | None = Field(description="digest of row, version and resolved options")
    seed: int | None
    moves: tuple[Move, ...] = Field((), description="what differs; of rows that came or went nothing")


class RankChange(Schema):
    """A row's place in a table over organisms."""

    table: str
    label: str
    before: str | None = Field(description="rank or range of ranks; null: not in the table, or not ranked")
    after: str | None


class BoardDiff(Schema):
    """How a leaderboard's second state differs from its first."""

    schema_version: Literal[1] = 1
    tolerance: Tolerance
    rows_before: int
    rows_after: int
    added: tuple[RowChange, ...]
    removed: tuple[RowChange, ...]
    changed: tuple[RowChange, ...]
    ranks: tuple[RankChange, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.changed or self.ranks)


def compare_boards(before: Path, after: Path, tolerance: Tolerance) -> BoardDiff:
    """Compare two states of a leaderboard.

    Args:
        before: a leaderboard.json, a run folder, or a folder with run folders in it or in its records/.
        after: the same.
        tolerance: by which numbers may differ that count as the same.

    Raises:
        RecordError: for a path that is none of these.
    """
    one, two = read_board(before), read_board(after)
    first, second = _newest(one["rows"]), _newest(two["rows"])
    changed = []
    for key in first.keys() & second.keys():
        moves = tuple(_moves(first[key], second[key], tolerance))
        if moves:
            changed.append(_change(second[key], moves))
    return BoardDiff(
        tolerance=tolerance,
        rows_before=len(first),
        rows_after=len(second),
        added=_sorted(_change(second[key]) for key in second.keys() - first.keys()),
        removed=_sorted(_change(first[key]) for key in first.keys() - second.keys()),
        changed=_sorted(changed),
        ranks=tuple(_ranks(one["standings"], two["standings"])),
    )


def read_board(path: Path) -> Mapping[str, Any]:
    """A state of a leaderboard as its JSON: read as it was written, or made from the records in a folder.

    Raises:
        RecordError: if it is none.
    """
    if path.is_dir():
        runs = list(_runs(path))
        if runs:
            return document(collect([read_run(run) for run in runs]))
        path = path / BOARD_FILE
        if not path.exists():
            raise RecordError(f"{path.parent}: holds no run folder, no {RECORDS}/ with some, and no {BOARD_FILE}")
    if (problem := refusal(path, stat.S_ISREG)) is not None or not path.exists():
        raise RecordError(f"{path}: {problem or 'no such file or folder'}; name a {BOARD_FILE} or a folder of records")
    return _read(path)


def _runs(folder: Path) -> Iterator[Path]:
    """The run folders that a folder is or holds."""
    if (folder / RUN_FILE).exists():
        yield folder
        return
    for place in (folder, folder / RECORDS):
        for path, problem in folders_in(place):
            if problem is None and (path / RUN_FILE).exists():
                yield path


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > BOARD_BYTES:
            raise RecordError(f"{path}: larger than {BOARD_BYTES} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: no readable JSON ({one_line(error, 200)})") from None
    if not isinstance(found, dict) or found.get("schema_version") != LEADERBOARD_SCHEMA:
        told = found.get("schema_version") if isinstance(found, dict) else None
        raise RecordError(
            f"{path}: schema_version is {one_line(told, 40)}, this diffbench reads {LEADERBOARD_SCHEMA}; "
            "build it again from its records"
        )
    for name in ("rows", "standings"):
        part = found.get(name)
        if not isinstance(part, list) or not all(isinstance(entry, dict) for entry in part):
            raise RecordError(f"{path}: {name}: missing or malformed; build it again from its records")
    return found


def _newest(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Rows by what tells a cell from others, whatever code scored it; of several of one cell the one that counts."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in sorted(rows, key=_counts):
        found[json.dumps([row.get(name) for name in _ROW], default=str)] = row
    return found


def _counts(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return precedence({**row, "started": str(row.get("started")), "key": str(row.get("key"))})


def _moves(first: Mapping[str, Any], second: Mapping[str, Any], tolerance: Tolerance) -> Iterator[Move]:
    for name in FACTS:
        one, other = first.get(name), second.get(name)
        if one != other:
            yield Move(name=name, before=_text(one), after=_text(other))
    for column in FIGURES:
        one, other = _value(first, column.name), _value(second, column.name)
        if isinstance(one, float) and isinstance(other, float):
            if not tolerance.allows(one, other):
                yield Move(name=column.name, before=one, after=other)
        elif one != other:
            yield Move(name=column.name, before=one, after=other)


def _value(row: Mapping[str, Any], name: str) -> float | str | None:
    """A figure's number, or else its state."""
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return _text(row.get(f"{name}_state"))


def _text(value: Any) -> str | None:
    return None if value is None else one_line(value, 200)


def _change(row: Mapping[str, Any], moves: tuple[Move, ...] = ()) -> RowChange:
    shown = {name: _text(row.get(name)) for name in _SHOWN if name not in _COUNTED}
    counted = {name: value if type(value := row.get(name)) is int else None for name in _COUNTED}
    return RowChange.model_validate({**shown, **counted, "moves": moves})


def _sorted(rows: Iterator[RowChange] | Sequence[RowChange]) -> tuple[RowChange, ...]:
    return tuple(sorted(rows, key=lambda row: tuple(str(getattr(row, name)) for name in _SHOWN)))


def _ranks(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Iterator[RankChange]:
    one, two = dict(_places(before)), dict(_places(after))
    for key in sorted(one.keys() | two.keys()):
        if one.get(key) != two.get(key):
            yield RankChange(table=key[0], label=key[1], before=one.get(key), after=two.get(key))


def _places(tables: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str], str | None]]:
    """Ranks by table and label."""
    for table in tables:
        name = ", ".join(one_line(table.get(part), 80) for part in _TABLE)
        rows = table.get("rows")
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict) and row.get("rank_low") is not None:
                low, high = row["rank_low"], row.get("rank_high")
                yield (name, one_line(row.get("label"), 80)), f"{low}" if low == high else f"{low}-{high}"
