"""Entry: one row of the tables with everything that it is made of. Knows nothing of models or torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffbench.board import Board
from diffbench.columns import BY_HAND, COLUMNS
from diffbench.edition import edition_of, kind_of, superseded
from diffbench.record import Record
from diffbench.summary import OWN_TRACK, Row, group_of

READERS = {column.name: column.get for column in COLUMNS if column.kind == "figure"}
UNKNOWN = "unknown"
ACCESS_TRACKS = ("open to all", "own track: reads training data")


@dataclass(frozen=True, slots=True)
class Cell:
    """One record of an entry.

    Attributes:
        row: of the leaderboard's data.
        record: what it was made from.
        home: the folder of its run.
    """

    row: Row
    record: Record
    home: Path


@dataclass(frozen=True, slots=True)
class Entry:
    """One method with its options on one organism.

    Attributes:
        row: of `diffbench.summary.summary`.
        cells: its records, by seed.
        newer: the version of the organism that has superseded this one; None: this is the newest.
    """

    row: Row
    cells: tuple[Cell, ...]
    newer: int | None

    @property
    def first(self) -> Row:
        """The data of its first cell, which shares with the others what is not drawn."""
        return self.cells[0].row

    @property
    def kind(self) -> str:
        """Its organism without the seed."""
        return kind_of(str(self.row["organism"]))

    @property
    def change(self) -> str:
        """Whether anything was changed on purpose, and of what class a null is."""
        if self.first["null_class"] is not None:
            return f"null: {self.first['null_class']}"
        known = {True: "changed", False: "nothing changed", None: UNKNOWN}
        return known[self.first["changed"]]

    @property
    def tracks(self) -> tuple[str, ...]:
        """What it may be compared with: how the layer was chosen, and whether it reads what others may not."""
        rule = self.first["layer_rule"]
        layer = f"layer {self.first['layer']}, {BY_HAND}" if rule == BY_HAND else "layer by rule"
        if self.row["control"]:
            return layer, *ACCESS_TRACKS  # what all are compared with
        return layer, ACCESS_TRACKS[OWN_TRACK in self.row["access"]]

    def why(self, name: str) -> str:
        """Why its figure of that name is no number; empty where it is one."""
        if not self.row["scored"]:
            return str(self.row["reason"] or "")
        for cell in self.cells:
            figure = READERS[name](cell.record) if cell.record.scores or name in PAIRED else None
            if figure is not None and figure.state != "ok":
                return figure.reason or ""
        return ""


PAIRED = frozenset(name for name in READERS if name.startswith(("kl", "coverage", "ceiling", "r_mean_", "layer_")))
"""Figures of the pair, which a record has whatever became of its method."""


def entries(board: Board) -> tuple[Entry, ...]:
    """All entries of a board, in reading order."""
    held: dict[tuple[Any, ...], list[Cell]] = {}
    for row, record, home in zip(board.data, board.records, board.homes, strict=True):
        held.setdefault(group_of(row), []).append(Cell(row, record, home))
    gone = superseded(board.data)
    return tuple(
        Entry(row, tuple(held[group_of(row)]), gone.get(edition_of(row)))
        for section in board.sections
        for row in section.summary
    )
