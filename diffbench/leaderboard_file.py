"""Leaderboard file: the schema of ``leaderboard.json``, made from the columns that it documents."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, create_model

from diffbench.change_detection import ChangeDetection
from diffbench.columns import COLUMNS, dictionary
from diffbench.record import Budget, PairFacts
from diffbench.standing import Standing
from diffbench.summary import DESCRIPTIONS, SUMMARY_TYPES
from diffbench.truth import Schema

TYPES: dict[str, Any] = {"text": str, "json": Any, "int": int, "number": float, "flag": bool}
STATE = Literal["ok", "none", "n/a", "undefined", "error"]


class ColumnEntry(Schema):
    """What a key means."""

    description: str
    unit: str
    higher_is_better: bool | None


class PairEntry(Schema):
    """What holds for a pair whatever the method."""

    organism: str
    organism_version: int
    reference: str
    tier: str
    judge: str
    setting: str
    pair: PairFacts
    budget: Budget


class RunEntry(Schema):
    """A run that was read."""

    run: str
    diffbench: str
    python: str
    platform: str
    started: str
    records: int
    damaged: int
    unfinished: int


class CopyEntry(Schema):
    """One copy of a record that several runs hold."""

    run: str
    started: str
    status: str


class DuplicateEntry(Schema):
    """A cell that several runs hold."""

    key: str
    kept: CopyEntry
    left_out: tuple[CopyEntry, ...]


class ProblemEntry(Schema):
    """A record that cannot be read, or a cell that has none."""

    run: str
    path: str
    message: str | None = None


def _row_fields() -> dict[str, Any]:
    told = dictionary()
    fields: dict[str, Any] = {}
    for column in COLUMNS:
        if column.kind == "figure":
            for end in ("", "_low", "_high"):
                fields[column.name + end] = float | None, _described(told, column.name + end)
            fields[f"{column.name}_state"] = STATE, _described(told, f"{column.name}_state")
        else:
            fields[column.name] = TYPES[column.kind] | None, _described(told, column.name)
    for name in ("run", "verified", "since"):
        fields[name] = str | None, _described(told, name)
    return fields


def _summary_fields() -> dict[str, Any]:
    told = dictionary()
    texts = {name: entry["description"] for name, entry in told.items()} | DESCRIPTIONS
    known = {"Int64": int, "Float64": float, "boolean": bool, "string": str}
    return {
        name: (STATE if name.endswith("_state") else known[dtype] | None, Field(description=texts.get(name, name)))
        for name, dtype in SUMMARY_TYPES.items()
    }


def _described(told: dict[str, dict[str, Any]], name: str) -> Any:
    return Field(description=told[name]["description"])


DataRow = create_model("DataRow", __base__=Schema, __doc__="One record.", **_row_fields())
SummaryRow = create_model("SummaryRow", __base__=Schema, __doc__="One method and setting.", **_summary_fields())


class LeaderboardFile(Schema):
    """``leaderboard.json``: all that the tables and pages were made from."""

    schema_version: Literal[3]
    columns: dict[str, ColumnEntry] = Field(description="what the keys of rows and summary mean")
    summary_columns: dict[str, ColumnEntry]
    standings_columns: dict[str, ColumnEntry]
    change_detection_columns: dict[str, ColumnEntry]
    rows: tuple[DataRow, ...] = Field(description="one per record")
    summary: tuple[SummaryRow, ...] = Field(description="one per method and setting")
    standings: tuple[Standing, ...]
    change_detection: tuple[ChangeDetection, ...]
    pairs: tuple[PairEntry, ...]
    runs: tuple[RunEntry, ...]
    duplicates: tuple[DuplicateEntry, ...]
    damaged: tuple[ProblemEntry, ...]
    unfinished: tuple[ProblemEntry, ...]
