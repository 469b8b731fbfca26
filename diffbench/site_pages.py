"""Site pages: what the leaderboard's pages of all results, of one organism and of one method say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diffbench import board_page, change_page, standings_page
from diffbench.board import Board, Section
from diffbench.change_detection import ChangeDetection
from diffbench.edition import edition_of, kind_of, superseded, trusted
from diffbench.entry import Cell, Entry, entries
from diffbench.figure import Figure
from diffbench.line import one_line
from diffbench.run_folder import CELLS, RECORD_FILE, cell_folder_name
from diffbench.site_tables import (
    MORE,
    SCORES,
    detection_table,
    failures_table,
    ranks_table,
    rows_table,
    seeds_table,
    standing_table,
)
from diffbench.standing import Standing
from diffbench.standings import EVERYTHING
from diffbench.summary import Row
from diffbench.webpage import Cell as TableCell
from diffbench.webpage import Choice, Head, Line, Table, figure_cell, render, text_cell

FILTERS = ("family", "track", "access", "judge", "tier")
"""Filters that are always there; others where there is a choice."""
MORE_FILTERS = ("reference", "change", "kind")
BESIDE = {
    "README.md": "what these records say in a few lines, and the commands that make them",
    "slice.yaml": "which cells they are, written down before any was run",
}
"""Files that people put beside a leaderboard; they are linked where they are."""
MOST_EVIDENCE = 200
"""Cells of a method whose evidence is shown; the records have all of it."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A finding that a judge explained."""

    rank: int
    component: int
    explanation: str
    detection: Figure


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a judge made of one cell."""

    title: str
    verdict: str
    confidence: float | None
    statement: str
    structured: Figure
    findings: tuple[Explained, ...]


@dataclass(frozen=True)
class Site:
    """A board with the addresses of its pages.

    Attributes:
        board: what is shown.
        standings: over organisms.
        detection: of change, against nulls.
        names: by ``organisms`` and ``methods``, the file of each name's page.
        out: the folder of the site, against which records are linked.
    """

    board: Board
    standings: tuple[Standing, ...]
    detection: tuple[ChangeDetection, ...]
    names: Mapping[str, Mapping[str, str]]
    out: Path
    entries: tuple[Entry, ...]

    @classmethod
    def of(
        cls,
        board: Board,
        standings: tuple[Standing, ...],
        detection: tuple[ChangeDetection, ...],
        name: Callable[[str], str],
        out: Path,
    ) -> Site:
        """The site of a board; ``name`` makes a file's name of any text."""
        found = entries(board)
        names = {
            "organisms": {each: name(each) for each in sorted({entry.kind for entry in found})},
            "methods": {each: name(each) for each in sorted({str(entry.row["method"]) for entry in found})},
        }
        return cls(board, standings, detection, names, out, found)

    def places(self, root: str) -> dict[str, Callable[[str], str]]:
        """`place` of methods and of organisms, as tables ask for them."""
        return {"method": self.place("methods", root), "organism": self.place("organisms", root)}

    def place(self, folder: str, root: str) -> Callable[[str], str]:
        """Relative addresses of pages, from a page that lies ``root`` below the top."""
        return lambda name: f"{root}{folder}/{quote(self.names[folder][name])}"

    def rows(self, root: str) -> dict[str, str]:
        """The address of every row's method."""
        place = self.place("methods", root)
        return {str(entry.row["row"]): place(str(entry.row["method"])) for entry in self.entries}

    def record(self, cell: Cell, root: str) -> str | None:
        """The relative address of a record, if it is published with the site."""
        try:
            inside = cell.home.resolve().relative_to(self.out.resolve())
        except ValueError:
            return None
        folder = cell_folder_name(cell.record.cell, cell.record.key)
        return root + quote(os.path.join(inside.as_posix(), CELLS, folder, RECORD_FILE))


def choices(found: Sequence[Entry]) -> tuple[Choice, ...]:
    """The filters of a page."""
    values = {
        "family": {str(entry.first["family"] or "own pair") for entry in found},
        "track": {track for entry in found for track in entry.tracks},
        "access": {part for entry in found for part in str(entry.row["access"]).split(", ")},
        "judge": {str(entry.row["judge"]) for entry in found},
        "tier": {str(entry.row["tier"]) for entry in found},
        "reference": {str(entry.row["reference"]) for entry in found},
        "change": {entry.change for entry in found},
        "kind": {"controls" if entry.row["control"] else "methods" for entry in found},
    }
    asked = [*FILTERS, *(name for name in MORE_FILTERS if len(values[name]) > 1)]
    labels = {"reference": "tuned against", "change": "what was changed", "kind": "rows"}
    return tuple(Choice(name, labels.get(name, name), tuple(sorted(values[name]))) for name in asked)


def index(site: Site) -> str:
    """The page of all results."""
    board, rows, place = site.board, site.rows(""), site.places("")
    standings = [
        {
            "table": standing_table(f"standing-{at}", table, rows),
            "about": standings_page.about(table),
            "lists": standings_page.lists(table),
            "open": at == 0 or (table.scope == EVERYTHING and table.metric == site.standings[0].metric),
        }
        for at, table in enumerate(site.standings)
    ]
    detection = [
        {"table": detection_table(f"detection-{at}", table, rows), "about": change_page.about(table)}
        for at, table in enumerate(site.detection)
    ]
    return render(
        "index.html",
        root="",
        counts=board_page.counts(board),
        standings=standings,
        excluded=standings_page.EXCLUDED,
        detection=detection,
        choices=choices(site.entries),
        rows=rows_table("rows", "All rows: a method with its options on an organism", site.entries, SCORES, **place,
                        filtered=True),
        organisms=_organisms(site),
        methods=_methods(site),
        failures=failures_table("failures", [(each, cell) for each in site.entries for cell in each.cells], **place),
        damaged=[board_page.problem(row) for row in board.damaged],
        unfinished=[board_page.problem(row) for row in board.unfinished],
        duplicates=len(board.duplicates),
        runs=_runs(board),
        beside={name: text for name, text in BESIDE.items() if (site.out / name).is_file()},
        legend=[(column.head, column.legend) for column in standings_page.LAYOUT],
    )  # fmt: skip


def organism_page(site: Site, kind: str) -> str:
    """The page of one organism, at all its seeds."""
    found = [entry for entry in site.entries if entry.kind == kind]
    first, root = _known(found[::-1]), "../"
    gone = superseded(site.board.data)
    sections = [section for section in site.board.sections if kind_of(str(section.key["organism"])) == kind]
    difficulty = f"{first['difficulty_axis']}: {first['difficulty_level']}" if first["difficulty_axis"] else "n/a"
    cells = [(entry, cell) for entry in found for cell in entry.cells]
    return render(
        "organism.html",
        root=root,
        name=kind,
        facts=[
            ("family", first["family"] or "a pair of one's own"),
            ("what was changed", ", ".join(sorted({entry.change for entry in found}))),
            ("how it was tuned", first["training"] or "unknown"),
            ("difficulty", difficulty),
            ("versions", _versions(found)),
            ("seeds of the organism", f"{len({entry.row['organism'] for entry in found}):,} in all"),
            ("cells", _ended(cells)),
        ],
        choices=choices(found),
        rows=rows_table(
            "rows", f"Methods on {kind}", found, SCORES, method=site.place("methods", root), filtered=True
        ),
        more=rows_table("more", "More scores of the same rows", [each for each in found if each.row["scored"]], MORE,
                        method=site.place("methods", root)),
        pairs=[_pair(section, at, gone) for at, section in enumerate(sections)],
        failures=failures_table("failures", cells, **site.places(root)),
    )  # fmt: skip


def method_page(site: Site, name: str) -> str:
    """The page of one method, with its evidence."""
    found = [entry for entry in site.entries if entry.row["method"] == name]
    first, root = _known(found), "../"
    cells = [(entry, cell) for entry in found for cell in entry.cells]
    judged = [each for each in cells if each[1].record.scores is not None]
    place = site.place("organisms", root)
    ranks = [
        (table, row)
        for table in site.standings
        for row in table.rows
        if row.row in {entry.row["row"] for entry in found}
    ]
    return render(
        "method.html",
        root=root,
        name=name,
        facts=[
            ("brought by", first["method_package"]),
            ("version", ", ".join(sorted({str(entry.row["method_version"]) for entry in found}))),
            ("access", first["access"]),
            ("kind", _kind(first)),
            ("organisms", f"{len({entry.kind for entry in found}):,}"),
            ("cells", _ended(cells)),
        ],
        ranks=ranks_table("ranks", ranks),
        choices=choices(found),
        rows=rows_table("rows", f"{name} on each organism", found, SCORES, organism=place, filtered=True),
        more=rows_table("more", "More scores of the same rows", [each for each in found if each.row["scored"]], MORE,
                        organism=place),
        seeds=seeds_table("seeds", "Every cell: how far seeds are apart", cells, lambda cell: site.record(cell, root)),
        failures=failures_table("failures", cells, **site.places(root)),
        evidence=[_evidence(entry, cell) for entry, cell in judged[:MOST_EVIDENCE]],
        left_out=max(0, len(judged) - MOST_EVIDENCE),
    )  # fmt: skip


def _pair(section: Section, at: int, gone: Mapping[Any, int]) -> dict[str, Any]:
    newer = gone.get(edition_of(section.key))
    heads = (
        Head("layer", "block, from 0", text=True),
        Head("coverage", "KL(tuned || unedited hybrid) / KL(tuned || reference); may exceed 1"),
        Head("ceiling", "R_model of the layer's true difference"),
        Head("ceiling, affected", "the same at affected positions"),
        Head("necessity", "N of the layer's true difference"),
        Head("necessity, affected", "the same at affected positions"),
    )
    lines = tuple(
        Line(
            (
                text_cell(f"{facts.layer}{', scored' if facts.layer == section.pair.layer else ''}"),
                *map(figure_cell, (facts.coverage, facts.ceiling, facts.ceiling_affected)),
                *map(figure_cell, (facts.necessity, facts.necessity_affected)),
            )
        )
        for facts in section.pair.layers
    )
    return {
        "heading": board_page.heading(section),
        "facts": board_page.facts(section),
        "newer": None if newer is None else board_page.superseded_by(newer),
        "layers": Table(f"layers-{at}", f"What the layers can carry: {board_page.heading(section)}", heads, lines),
    }


def _evidence(entry: Entry, cell: Cell) -> Evidence:
    scores = cell.record.scores
    assert scores is not None
    told = scores.interpretability
    return Evidence(
        title=f"{entry.row['label']} on {cell.row['organism']}, seed {cell.row['seed']}, judge {one_line(told.judge)}",
        verdict=told.match.verdict or "no account",
        confidence=told.match.confidence,
        statement=one_line(told.match.statement),
        structured=told.match.structured,
        findings=tuple(
            Explained(each.rank, each.component, one_line(each.explanation, 500), each.detection)
            for each in told.findings
        ),
    )


def _versions(found: Sequence[Entry]) -> str:
    known = sorted({(entry.row["organism_version"], str(entry.row["reference"]), entry.newer) for entry in found},
                   key=str)  # fmt: skip
    return "; ".join(
        f"v{version} against {reference}" + (f" (superseded by v{newer})" if newer is not None else "")
        for version, reference, newer in known
    )


def _ended(cells: Sequence[tuple[Entry, Cell]]) -> str:
    ended = Counter(str(cell.row["status"]) for _, cell in cells)
    return f"{ended['ok']:,} ok, {ended['not_applicable']:,} not applicable, {ended['error']:,} failed"


def _kind(row: Row) -> str:
    return "control, pinned and never ranked" if row["control"] else (
        "a cheap baseline, over which others show their lift" if row["baseline"] else "competes"
    )  # fmt: skip


def _known(found: Sequence[Entry]) -> Row:
    """The data of the first entry that is trusted; of others only where there is none."""
    return next((entry.first for entry in found if trusted(entry.row)), found[0].first)


def _listing(
    site: Site, folder: str, names: Mapping[str, Sequence[Entry]], heads: tuple[Head, ...], tell: Any
) -> Table:
    place = site.place(folder, "")
    lines = []
    for name, found in names.items():
        cells = [cell.row for entry in found for cell in entry.cells]
        failed = sum(row["status"] == "error" for row in cells)
        lines.append(
            Line(
                (
                    text_cell(name, place(name)),
                    *tell(found),
                    TableCell(str(len(cells)), float(len(cells))),
                    TableCell(str(failed), float(failed), state="error" if failed else "ok"),
                )
            )
        )
    ends = (Head("cells"), Head("failed", lower=True))
    title = f"{folder.capitalize()}: {len(lines):,}"
    return Table(folder, title, (*heads, *ends), tuple(lines))


def _organisms(site: Site) -> Table:
    names: dict[str, list[Entry]] = {}
    for entry in site.entries:
        names.setdefault(entry.kind, []).append(entry)
    heads = tuple(Head(name, text=True) for name in ("organism", "family", "what was changed", "versions"))

    def tell(found: Sequence[Entry]) -> tuple[TableCell, ...]:
        changes = ", ".join(sorted({entry.change for entry in found}))
        return text_cell(_known(found)["family"] or "own pair"), text_cell(changes), text_cell(_versions(found))

    return _listing(site, "organisms", names, heads, tell)


def _methods(site: Site) -> Table:
    names: dict[str, list[Entry]] = {}
    for entry in site.entries:
        names.setdefault(str(entry.row["method"]), []).append(entry)
    heads = tuple(Head(name, text=True) for name in ("method", "kind", "access", "brought by"))

    def tell(found: Sequence[Entry]) -> tuple[TableCell, ...]:
        first = _known(found)
        return text_cell(_kind(first)), text_cell(first["access"]), text_cell(first["method_package"])

    return _listing(site, "methods", names, heads, tell)


def _runs(board: Board) -> Table:
    names = ("run", "diffbench", "python", "platform", "started")
    counted = ("records", "damaged", "unfinished")
    lines = tuple(
        Line((*(text_cell(row[name]) for name in names), *(TableCell(str(row[n]), float(row[n])) for n in counted)))
        for row in board.runs
    )
    heads = (*(Head(name, text=True) for name in names), *map(Head, counted))
    return Table("runs", "Runs that were read", heads, lines)
