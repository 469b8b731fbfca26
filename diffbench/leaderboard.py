"""Leaderboard: a pure function of records, written as Markdown, CSV and JSON. Knows nothing of models or torch.

`rows` is the data, one row per record; `summary` is what tables of one organism show, `standings` and
`change_detection` what several say; `collect` puts runs together.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
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
from diffbench.garbage import uncollected
from diffbench.run_folder import read_run
from diffbench.site import pages, write_site
from diffbench.standing import PairTest, Standing, StandingRow
from diffbench.standings import EVERYTHING, standings
from diffbench.summary import DESCRIPTIONS, plain_rows, plain_values, summary
from diffbench.table import csv_cell, plain
from diffbench.truth import Schema

__all__ = ["FILES", "LEADERBOARD_SCHEMA", "build", "collect", "document", "rows", "summary", "to_csv", "to_json"]

LEADERBOARD_SCHEMA = 3
"""3: a judge's four tests with their controls, and what it concludes (`diffbench.scores` version 3)."""
FILES = ("leaderboard.md", "leaderboard.csv", "leaderboard.json", "schema.json")
"""What is written beside the pages."""
NESTED = frozenset(column.name for column in COLUMNS if column.kind == "json")
"""Columns whose text is JSON."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What several organisms together say."""

    standings: tuple[Standing, ...]
    change_detection: tuple[ChangeDetection, ...]

    @classmethod
    def of(cls, board: Board) -> Statistics:
        """Standings where there are several organisms, change detection where there are nulls.

        One organism at one seed makes a table beside others, and none where it is all there is: the rows say as much.
        """
        tables = tuple(table for table in standings(board.data) if table.places > 1 or table.scope != EVERYTHING)
        return cls(tables, change_detection(board.data))

    def parts(self) -> list[str]:
        """As parts of a Markdown document."""
        parts = [standings_page.page(self.standings)] if self.standings else []
        return parts + ([change_page.page(self.change_detection)] if self.change_detection else [])


def build(run_paths: Iterable[Path], out: Path) -> list[Path]:
    """Write ``leaderboard.md``, ``.csv``, ``.json`` and a site to ``out``; equal records give equal bytes in any order.

    Raises:
        RecordError: if a path is no run.
    """
    with uncollected():
        return write(collect([read_run(path) for path in run_paths]), out)


def write(board: Board, out: Path) -> list[Path]:
    """Write the files and the pages, each atomically, and return their paths; ``FILES`` come first."""
    from diffbench.leaderboard_file import LeaderboardFile

    found = Statistics.of(board)
    described = json.dumps(LeaderboardFile.model_json_schema(), indent=1, ensure_ascii=False) + "\n"
    texts = (page(board, found.parts()), to_csv(board.rows), to_json(board, found), described)
    for name, text in zip(FILES, texts, strict=True):
        write_text(out / name, text)
    made = dict(pages(board, found.standings, found.change_detection, out))
    return [*(out / name for name in FILES), *write_site(made, out)]


def document(board: Board, found: Statistics | None = None) -> dict[str, Any]:
    """All of a board as JSON values; ``columns`` documents the keys of ``rows`` and ``summary``, and so on."""
    data = [
        {name: json.loads(value) if name in NESTED and value is not None else value for name, value in row.items()}
        for row in board.data
    ]
    return _about(board, found or Statistics.of(board)) | {"rows": data}


def _about(board: Board, found: Statistics) -> dict[str, Any]:
    """`document` without the rows."""
    return {
        "schema_version": LEADERBOARD_SCHEMA,
        "columns": dictionary(),
        "summary_columns": {name: _entry(text) for name, text in DESCRIPTIONS.items()},
        "standings_columns": described(Standing, rows=StandingRow, pairs=PairTest),
        "change_detection_columns": described(ChangeDetection, rows=DetectionRow),
        "rows": [],
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
    for name, value in _about(board, found or Statistics.of(board)).items():
        if name == "rows":
            text = _listed(_lines(board.rows))
        elif isinstance(value, list):
            text = _listed(map(_line, value))
        elif isinstance(value, dict):
            text = "{" + ",".join(f"\n  {_line(key)}: {_line(item)}" for key, item in value.items()) + "\n }"
        else:
            text = _line(value)
        parts.append(f" {_line(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _listed(lines: Iterable[str]) -> str:
    text = ",".join(f"\n  {line}" for line in lines)
    return f"[{text}\n ]" if text else "[]"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _lines(frame: pd.DataFrame) -> Iterator[str]:
    """Each row as `_line` writes it, made column by column; what is JSON already is not read and written again."""
    columns = []
    for name in map(str, frame.columns):
        values = plain_values(frame[name])
        if name in NESTED:
            texts = ["null" if value is None else value for value in values]
        elif frame[name].dtype == "string":
            known = {value: _line(value) for value in set(values)}
            texts = [known[value] for value in values]
        else:
            texts = _line(values)[1:-1].split(", ") if values else []  # numbers, true, false and null
        start = f"{_line(name)}: "
        columns.append([start + text for text in texts])
    return (f"{{{', '.join(cells)}}}" for cells in zip(*columns, strict=True))


def to_csv(frame: pd.DataFrame) -> str:
    """A frame as CSV: null is empty, and nothing reads as a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(frame.columns)
    columns = []
    for name in map(str, frame.columns):
        values = plain_values(frame[name])
        if frame[name].dtype == "string":
            known = {value: csv_cell(value) for value in set(values)}
            values = [known[value] for value in values]
        columns.append(values)
    writer.writerows(zip(*columns, strict=True))
    return stream.getvalue()
