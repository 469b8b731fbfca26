"""Leaderboard: a pure function of records, written as Markdown, CSV and JSON. Knows nothing of models or torch.

`rows` is the data, one row per record; `summary` is what tables show; `collect` puts runs together.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from diffbench.atomic import write_text
from diffbench.board import Board, collect
from diffbench.board_page import page
from diffbench.columns import COLUMNS, dictionary, rows
from diffbench.run_folder import read_run
from diffbench.summary import DESCRIPTIONS, plain_rows, summary
from diffbench.table import csv_cell, plain

__all__ = ["LEADERBOARD_SCHEMA", "build", "collect", "document", "rows", "summary", "to_csv", "to_json"]

LEADERBOARD_SCHEMA = 1


def build(run_paths: Iterable[Path], out: Path) -> list[Path]:
    """Write ``leaderboard.md``, ``.csv`` and ``.json`` to ``out``; equal records give equal bytes in any order.

    Raises:
        RecordError: if a path is no run.
    """
    return write(collect([read_run(path) for path in run_paths]), out)


def write(board: Board, out: Path) -> list[Path]:
    """Write the three files, each atomically, and return their paths."""
    texts = {"md": page(board), "csv": to_csv(board.rows), "json": to_json(board)}
    paths = []
    for ending, text in texts.items():
        paths.append(out / f"leaderboard.{ending}")
        write_text(paths[-1], text)
    return paths


def document(board: Board) -> dict[str, Any]:
    """All of a board as JSON values; ``columns`` documents the keys of ``rows`` and ``summary``."""
    nested = [column.name for column in COLUMNS if column.kind == "json"]
    data = plain_rows(board.rows)
    for row in data:
        row.update({name: json.loads(row[name]) for name in nested})
    return {
        "schema_version": LEADERBOARD_SCHEMA,
        "columns": dictionary(),
        "summary_columns": {
            name: {"description": text, "unit": "", "higher_is_better": None} for name, text in DESCRIPTIONS.items()
        },
        "rows": data,
        "summary": plain_rows(board.summary),
        "pairs": [
            {**section.key, "pair": plain(section.pair.model_dump()), "budget": plain(section.budget.model_dump())}
            for section in board.sections
        ],
        "runs": list(board.runs),
        "duplicates": list(board.duplicates),
        "damaged": list(board.damaged),
        "unfinished": list(board.unfinished),
    }


def to_json(board: Board) -> str:
    """`document` as text, with a line for every entry of a list."""
    parts = []
    for name, value in document(board).items():
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
