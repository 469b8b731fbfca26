"""Report: all that a run's folder tells about it, read for one page. Nothing is run and no model is loaded.

Everything in a run folder may be a stranger's. No symbolic link is followed, and a file that is not the one its record
speaks of is named and not shown.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from diffbench.agreement import ConsistencyFile
from diffbench.board import Board, Section, collect
from diffbench.board_page import by_organism
from diffbench.canonical import file_digest
from diffbench.change_detection import ChangeDetection, change_detection
from diffbench.columns import setting, variant
from diffbench.dashboard import DASHBOARD, Dashboard, read_dashboard
from diffbench.errors import RecordError
from diffbench.finding_evidence import EVIDENCE, FindingEvidence
from diffbench.game_file import SHEET_BYTES, PlayedGame, read_game
from diffbench.line import one_line
from diffbench.panel import MAX_VERDICTS_BYTES, VERDICTS
from diffbench.record import Record, read_document
from diffbench.run_folder import (
    CELLS,
    CONSISTENCY,
    GAMES,
    RECORD_FILE,
    Run,
    cell_folder_name,
    read_run,
    refusal,
)
from diffbench.sheet import SHEET, Sheet
from diffbench.standing import Standing
from diffbench.standings import standings
from diffbench.steering_file import SteeringFile, steering_files
from diffbench.summary import Row
from diffbench.trial import Trial

LOG, LOG_BYTES = "log.txt", 2000
CONSISTENCY_BYTES = 1 << 20
MOST_FILES = 500
MOST_SHOWN = 80
"""Rows of which more than the record is read."""
CONCLUSION = ("summary", "grade", "choice")
"""Trials about a judge's account."""
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Shown:
    """The cell that stands for a row: its lowest seed that has scores, with what lies beside the record.

    Attributes:
        record: of the cell.
        folder: its folder, within the run.
        dashboard: None: there is none, or not the one that the record speaks of.
        evidence: what a judge was shown.
        account: trials about what the judge concluded.
        log: what the method said, its end.
        problems: files that are missing, damaged, or others than the record speaks of.
    """

    record: Record
    folder: str
    dashboard: Dashboard | None
    evidence: tuple[FindingEvidence, ...]
    account: tuple[Trial, ...]
    log: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Method:
    """One row of a table.

    Attributes:
        summary: the row, as `diffbench.summary` makes it.
        records: of all its seeds, the lowest first.
        shown: None: no seed has scores.
    """

    summary: Row
    records: tuple[Record, ...]
    shown: Shown | None


@dataclass(frozen=True, slots=True)
class Part:
    """One organism, against one reference.

    Attributes:
        section: its table.
        methods: its rows, in the order of the table.
        sheet: what is true of the pair; None: nobody knows, or it is not there.
        changed: whether something was changed on purpose; None: nobody knows.
        null_class: of an organism that lacks the intended change.
        others: tables of the same organism at other seeds, of which no details are shown.
    """

    section: Section
    methods: tuple[Method, ...]
    sheet: Sheet | None
    changed: bool | None
    null_class: str | None
    others: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A run, read.

    Attributes:
        games: that can be read.
        steering: what its steering folder holds.
        unread: rows whose files were not read, for there are too many.
        problems: what could not be read, or is another file than its record speaks of.
    """

    run: Run
    board: Board
    parts: tuple[Part, ...]
    standings: tuple[Standing, ...]
    detection: tuple[ChangeDetection, ...]
    games: tuple[PlayedGame, ...]
    consistency: tuple[ConsistencyFile, ...]
    steering: tuple[SteeringFile, ...]
    unread: int
    problems: tuple[str, ...]


def read_report(path: Path) -> Report:
    """Read a run folder.

    Raises:
        RecordError: if this is no run folder, or its ``run.json`` cannot be used.
    """
    run = read_run(path)
    board = collect([run])
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in run.records:
        groups.setdefault((*_section(record), record.cell.row, variant(record)), []).append(record)
    problems: list[str] = []
    parts: list[Part] = []
    for section, others in by_organism(board.sections):
        read = sum(method.shown is not None for part in parts for method in part.methods)
        parts.append(_part(run.path, section, others, groups, MOST_SHOWN - read, problems))
    scored = sum(method.shown is not None for part in parts for method in part.methods)
    games = tuple(_each(run.path / GAMES, lambda folder: read_game(folder)[0], problems, stat.S_ISDIR))
    seeds = tuple(_each(run.path / CONSISTENCY, _consistency, problems, stat.S_ISREG, ".json"))
    steering: list[SteeringFile] = []
    for path_of, file in islice(steering_files(run.path), MOST_FILES):
        if isinstance(file, SteeringFile):
            steering.append(file)
        else:
            problems.append(f"{_told(run.path, path_of)}: {one_line(str(file).removeprefix(f'{path_of}: '), 300)}")
    return Report(
        run=run,
        board=board,
        parts=tuple(parts),
        standings=standings(board.rows, ("headline",)) if run.records else (),
        detection=change_detection(board.rows) if run.records else (),
        games=games,
        consistency=seeds,
        steering=tuple(steering),
        unread=max(0, scored - MOST_SHOWN),
        problems=tuple(problems),
    )


def _section(record: Record) -> tuple[object, ...]:
    """The values of `diffbench.summary.SECTION`, as a table has them."""
    cell = record.cell
    texts = (cell.reference, cell.tier, cell.judge, setting(record))
    return (one_line(cell.organism), cell.organism_version, *map(one_line, texts))


def _part(
    run: Path,
    section: Section,
    others: tuple[Section, ...],
    groups: dict[tuple[object, ...], list[Record]],
    most: int,
    problems: list[str],
) -> Part:
    methods: list[Method] = []
    key = tuple(section.key.values())
    by_line = {(*names[:-2], one_line(names[-2]), names[-1]): found for names, found in groups.items()}
    for row in section.summary:
        records = sorted(by_line.get((*key, row["row"], row["variant"]), ()), key=lambda record: record.cell.seed)
        scored = next((record for record in records if record.scores is not None), None)
        shown = None if scored is None else read_cell_files(run, scored) if most > 0 else unread(run, scored)
        most -= shown is not None
        problems += shown.problems if shown is not None else ()
        methods.append(Method(row, tuple(records), shown))
    cells = [method.records[0].cell for method in methods if method.records]
    return Part(
        section=section,
        methods=tuple(methods),
        sheet=_sheet(run, methods, problems),
        changed=cells[0].changed if cells else None,
        null_class=cells[0].null_class if cells else None,
        others=others,
    )


def unread(run: Path, record: Record) -> Shown:
    """A cell of which nothing but the record is read."""
    folder = run / CELLS / cell_folder_name(record.cell, record.key)
    return Shown(record, _told(run, folder), None, (), (), "", ())


def read_cell_files(run: Path, record: Record) -> Shown:
    """What lies beside a record. Whatever cannot be read is a problem, never an error."""
    folder = run / CELLS / cell_folder_name(record.cell, record.key)
    problems: list[str] = []
    judged = record.hashes.judged or {}
    where = refusal(folder, stat.S_ISDIR)
    if where is not None or not (folder / RECORD_FILE).is_file():
        why = where or "is not where its record belongs; what lies beside the record is not shown"
        return Shown(record, _told(run, folder), None, (), (), "", (f"{_told(run, folder)}: {why}",))
    evidence = _beside(run, folder / EVIDENCE, judged.get(EVIDENCE), _evidence, problems)
    trials = _beside(run, folder / VERDICTS, judged.get(VERDICTS), _conclusion, problems)
    dashboard = _beside(run, folder / DASHBOARD, record.hashes.dashboard, read_dashboard, problems)
    log = _beside(run, folder / LOG, None, _log, problems)
    return Shown(
        record, _told(run, folder), dashboard, tuple(evidence or ()), tuple(trials or ()), log or "", tuple(problems)
    )


def _beside(
    run: Path, file: Path, known: str | None, read: Callable[[Path], Found], problems: list[str]
) -> Found | None:
    """A file beside a record: read if it is a plain file and, where the record knows its SHA-256, that very file."""
    problem = refusal(file, stat.S_ISREG)
    if problem is None and not file.exists():
        problem = "is missing, and its record speaks of it" if known is not None else None
        if problem is None:
            return None
    if problem is None and known is not None and file_digest(file) != known:
        problem = "does not match the SHA-256 in its record, and is not shown"
    if problem is None:
        try:
            return read(file)
        except (RecordError, OSError, ValueError) as error:
            problem = one_line(str(error).removeprefix(f"{file}: "), 300)
    problems.append(f"{_told(run, file)}: {problem}")
    return None


def _sheet(run: Path, methods: Sequence[Method], problems: list[str]) -> Sheet | None:
    """The pair's sheet from the first cell that keeps it as its record says."""
    for method in methods:
        if method.shown is not None:
            record = method.shown.record
            file = run / CELLS / cell_folder_name(record.cell, record.key) / SHEET
            if refusal(file.parent, stat.S_ISDIR) is None:
                sheet = _beside(run, file, (record.hashes.judged or {}).get(SHEET), read_sheet, problems)
                if sheet is not None:
                    return sheet
    return None


def read_sheet(file: Path) -> Sheet:
    """Read a sheet.

    Raises:
        RecordError: if it cannot be used.
    """
    return read_document(file, Sheet, SHEET_BYTES)


def _evidence(file: Path) -> tuple[FindingEvidence, ...]:
    from diffbench.evidence_file import read_evidence

    return read_evidence(file)


def _conclusion(file: Path) -> list[Trial]:
    """The trials about an account; the questions about single findings, which are many, are left unread."""
    if file.stat().st_size > MAX_VERDICTS_BYTES:
        raise RecordError(f"{file}: larger than {MAX_VERDICTS_BYTES} bytes")
    marks = tuple(f'"test":"{test}"' for test in CONCLUSION)
    lines = file.read_text(encoding="utf-8").split("\n")
    return [Trial.model_validate_json(line) for line in lines if any(mark in line for mark in marks)]


def _consistency(file: Path) -> ConsistencyFile:
    return read_document(file, ConsistencyFile, CONSISTENCY_BYTES)


def _log(file: Path) -> str:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - LOG_BYTES))
        return stream.read(LOG_BYTES).decode("utf-8", "replace")


def _files(folder: Path, problems: list[str], kind: Callable[[int], bool], suffix: str = "") -> list[Path]:
    """Entries of a folder of a run, which may be absent; links are named, not followed."""
    problem = refusal(folder, stat.S_ISDIR)
    if problem is not None:
        problems.append(f"{one_line(folder.name)}: {problem}")
    if problem is not None or not folder.is_dir():
        return []
    found = []
    for entry in sorted(folder.iterdir())[:MOST_FILES]:
        if entry.name.startswith(".") or not entry.name.endswith(suffix):
            continue
        problem = refusal(entry, kind)
        if problem is None:
            found.append(entry)
        else:
            problems.append(f"{one_line(folder.name)}/{one_line(entry.name, 200)}: {problem}")
    return found


def _each(
    folder: Path, read: Callable[[Path], Found], problems: list[str], kind: Callable[[int], bool], suffix: str = ""
) -> list[Found]:
    found = []
    for entry in _files(folder, problems, kind, suffix):
        try:
            found.append(read(entry))
        except (RecordError, OSError, ValueError) as error:
            told = str(error).replace(f"{entry}: ", "")
            problems.append(f"{one_line(folder.name)}/{one_line(entry.name, 200)}: {one_line(told, 300)}")
    return found


def _told(run: Path, path: Path) -> str:
    return one_line(path.relative_to(run).as_posix(), 300)
