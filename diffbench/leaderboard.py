"""Leaderboard: a pure function of records, written as Markdown, CSV and JSON. Knows nothing of models or torch.

`rows` is the data, one row per record; `summary` is what tables of one organism show, `standings` and
`change_detection` what several say; `collect` puts runs together.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from diffbench import change_page, standings_page
from diffbench.atomic import write_text
from diffbench.board import Board, collect
from diffbench.board_page import page
from diffbench.change_detection import ChangeDetection, DetectionRow, change_detection
from diffbench.columns import COLUMNS, dictionary, rows
from diffbench.run_folder import read_run
from diffbench.standing import PairTest, Standing, StandingRow
from diffbench.standings import standings
from diffbench.summary import DESCRIPTIONS, plain_rows, summary
from diffbench.table import csv_cell, plain
from diffbench.truth import Schema

__all__ = ["LEADERBOARD_SCHEMA", "build", "collect", "document", "rows", "summary", "to_csv", "to_json"]

LEADERBOARD_SCHEMA = 3
"""3: a judge's four tests with their controls, and what it concludes (`diffbench.scores` version 3)."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What several organisms together say."""

    standings: tuple[Standing, ...]
    change_detection: tuple[ChangeDetection, ...]

    @classmethod
    def of(cls, board: Board) -> Statistics:
        """Standings where there are several organisms, change detection where there are nulls."""
        tables = tuple(table for table in standings(board.rows) if table.places > 1)
        return cls(tables, change_detection(board.rows))

    def parts(self) -> list[str]:
        """As parts of a Markdown document."""
        parts = [standings_page.page(self.standings)] if self.standings else []
        return parts + ([change_page.page(self.change_detection)] if self.change_detection else [])


def build(run_paths: Iterable[Path], out: Path) -> list[Path]:
    """Write ``leaderboard.md``, ``.csv`` and ``.json`` to ``out``; equal records give equal bytes in any order.

    Raises:
        RecordError: if a path is no run.
    """
    return write(collect([read_run(path) for path in run_paths]), out)


def write(board: Board, out: Path) -> list[Path]:
    """Write the three files, each atomically, and return their paths."""
    found = Statistics.of(board)
    texts = {"md": page(board, found.parts()), "csv": to_csv(board.rows), "json": to_json(board, found)}
    paths = []
    for ending, text in texts.items():
        paths.append(out / f"leaderboard.{ending}")
        write_text(paths[-1], text)
    return paths


def document(board: Board, found: Statistics | None = None) -> dict[str, Any]:
    """All of a board as JSON values; ``columns`` documents the keys of ``rows`` and ``summary``, and so on."""
    found = found or Statistics.of(board)
    nested = [column.name for column in COLUMNS if column.kind == "json"]
    data = plain_rows(board.rows)
    for row in data:
        row.update({name: json.loads(row[name]) for name in nested if row[name] is not None})
    return {
        "schema_version": LEADERBOARD_SCHEMA,
        "columns": dictionary(),
        "summary_columns": {name: _entry(text) for name, text in DESCRIPTIONS.items()},
        "standings_columns": described(Standing, rows=StandingRow, pairs=PairTest),
        "change_detection_columns": described(ChangeDetection, rows=DetectionRow),
        "rows": data,
        "summary": plain_rows(board.summary),
        "standings": [table.model_dump(mode="json") for table in found.standings],
        "change_detection": [table.model_dump(mode="json") for table in found.change_detection],
        "pairs": [
            {**section.key, "pair": plain(section.pair.model_dump()), "budget": plain(section.budget.model_dump())}
            for section in board.sections
        ],
        "runs": list(board.runs),
        "duplicates": list(board.duplicates),
        "damaged": list(board.damaged),
        "unfinished": list(board.unfinished),
    }


def described(schema: type[Schema], **parts: type[Schema]) -> dict[str, dict[str, Any]]:
    """The keys of a schema, and as ``rows.label`` those of its parts, in the form of `diffbench.columns.dictionary`."""
    known = {name: _entry(field.description or name) for name, field in schema.model_fields.items()}
    for part, inner in parts.items():
        known |= {f"{part}.{name}": entry for name, entry in described(inner).items()}
    return known


def _entry(text: str) -> dict[str, Any]:
    return {"description": text, "unit": "", "higher_is_better": None}


def to_json(board: Board, found: Statistics | None = None) -> str:
    """`document` as text, with a line for every entry of a list."""
    parts = []
    for name, value in document(board, found).items():
        if isinstance(value, list):
            text = "[" + ",".join(f"\n  {_line(item)}" for item in value) + ("\n ]" if value else "]")
        elif isinstance(value, dict):
            text = "{" + ",".join(f"\n  {_line(key)}: {_line(item)}" for key, item in value.items()) + "\n }"
        else:
            text = _line(value)
        parts.append(f" {_line(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def to_csv(frame: pd.DataFrame) -> str:
    """A frame as CSV: null is empty, and nothing reads as a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(frame.columns)
    for row in plain_rows(frame):
        writer.writerow(["" if value is None else csv_cell(value) for value in row.values()])
    return stream.getvalue()
