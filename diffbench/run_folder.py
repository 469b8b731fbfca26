"""Run folder: where the cells of one run lie on disk, and how they are read back.

::

    runs/NAME/run.json                                                       what was asked, by which program
    runs/NAME/fits/<organism>--<method>--s<seed>--<key8>/fit.json            present = the method is finished
    runs/NAME/cells/<organism>--<method@ranking>--s<seed>--<key8>/record.json    present = the cell is finished
    runs/NAME/consistency/<organism>--<method@ranking>--<reference>--<key8>.json      what method seeds have in common
    runs/NAME/games/<organism>--<row>--<access>--<framing>--g<seed>--<key8>/game.json      a diffing game

A run folder may come from a stranger: nothing below the path that was named is read through a symbolic link.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from diffbench.atomic import write_text
from diffbench.errors import RecordError
from diffbench.garbage import uncollected
from diffbench.record import Cell, Record, read_document, read_record
from diffbench.truth import Schema

RUN_BYTES = 1 << 20
RUN_FILE = "run.json"
FITS = "fits"
CELLS = "cells"
CONSISTENCY = "consistency"
GAMES = "games"
RECORD_FILE = "record.json"


class Provenance(Schema):
    """By which program a run was made, and when."""

    diffbench: str = Field(description="version")
    python: str
    platform: str
    started: str = Field(description="UTC, ISO 8601")


class ProjectedTime(Schema):
    """Wall time of a run in seconds: what was projected before it started, and what it took."""

    jobs: int = Field(description="pieces of work side by side")
    starting: float = Field(description="loading of libraries")
    building: float = Field(description="organisms that were not there, and their gates")
    preparing: float = Field(description="pairs that were not there")
    methods: float
    scoring: float
    comparing: float = Field(description="of method seeds with each other")
    total: float
    measured: float | None = Field(None, description="null: it did not end")


class RunFile(Schema):
    """What ``run.json`` holds: enough to repeat the run."""

    schema_version: Literal[1] = 1
    name: str
    argv: tuple[str, ...] = Field(description="the command as it was typed")
    config: dict[str, Any] = Field(description="resolved: passed values and defaults")
    passed: dict[str, Any] = Field(description="what the caller passed")
    provenance: Provenance
    time: ProjectedTime | None = Field(None, description="projected and measured, of the last command that ran cells")


@dataclass(frozen=True, slots=True)
class Run:
    """One run as read from disk.

    Attributes:
        path: the run folder.
        file: its ``run.json``.
        records: the finished cells that can be read, in a fixed order.
        damaged: records that cannot be read: path within the run folder, and why.
        unfinished: cell folders without a record.
    """

    path: Path
    file: RunFile
    records: tuple[Record, ...]
    damaged: tuple[tuple[Path, str], ...]
    unfinished: tuple[Path, ...]


def cell_folder_name(cell: Cell, key: str) -> str:
    """The name of a cell's folder: safe on every file system whatever the names in ``cell`` are."""
    return "--".join((safe_name(cell.organism), safe_name(cell.row), f"s{cell.seed}", safe_name(key[:8])))


def fit_folder_name(cell: Cell, key: str) -> str:
    """The name of the folder of the fit that a cell's ranking is taken from; as safe."""
    return "--".join((safe_name(cell.organism), safe_name(cell.method), f"s{cell.seed}", safe_name(key[:8])))


def write_run_file(folder: Path, file: RunFile) -> Path:
    """Write ``run.json`` atomically and return its path."""
    path = folder / RUN_FILE
    document = file.model_dump(mode="json")
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def find_run(named: Path) -> Path:
    """The run folder that somebody names: a folder, the ``run.json`` in it, or the name of a folder in ``runs/``."""
    inside = Path("runs") / named
    path = inside if not named.exists() and inside.is_dir() else named
    return path.parent if path.name == RUN_FILE and not path.is_dir() else path


def read_run(path: Path) -> Run:
    """Read a run folder, or the ``run.json`` in it.

    A record that cannot be read is listed as damaged and hides no other.

    Raises:
        RecordError: if this is no run folder, or its ``run.json`` cannot be used.
    """
    folder = path.parent if path.name == RUN_FILE and not path.is_dir() else path
    file = read_run_file(folder)
    with uncollected():
        records, damaged, unfinished = _read_cells(folder)
    return Run(folder, file, records, damaged, unfinished)


def _read_cells(folder: Path) -> tuple[tuple[Record, ...], tuple[tuple[Path, str], ...], tuple[Path, ...]]:
    records: list[Record] = []
    damaged: list[tuple[Path, str]] = []
    unfinished: list[Path] = []
    for cell, problem in folders_in(folder / CELLS):
        record = cell / RECORD_FILE
        problem = problem or refusal(record, stat.S_ISREG)
        if problem is not None:
            damaged.append((cell.relative_to(folder), problem))
        elif not record.exists():
            unfinished.append(cell.relative_to(folder))
        else:
            try:
                records.append(read_record(record))
            except RecordError as error:
                damaged.append((record.relative_to(folder), str(error).removeprefix(f"{record}: ")))
    records.sort(key=_order)
    return tuple(records), tuple(damaged), tuple(unfinished)


def read_run_file(folder: Path) -> RunFile:
    """Read the ``run.json`` of a run folder.

    Raises:
        RecordError: if it is missing, a link, foreign or malformed.
    """
    path = folder / RUN_FILE
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder; name a run folder (`runs/NAME`) or its {RUN_FILE}")
    problem = refusal(path, stat.S_ISREG)
    if problem is not None:
        raise RecordError(f"{path}: {problem}; copy the run with its files instead")
    if not path.exists():
        raise RecordError(f"{folder}: no run folder, it has no {RUN_FILE}; `diffbench run` writes one")
    return read_document(path, RunFile, RUN_BYTES, "; delete it and run again, finished cells stay")


def folders_in(path: Path) -> Iterator[tuple[Path, str | None]]:
    """Every folder in ``path`` in the order of its name, with what is wrong about it; drafts begin with a dot."""
    problem = refusal(path, stat.S_ISDIR)
    if problem is not None:
        yield path, problem
    elif path.is_dir():
        for entry in sorted(path.iterdir()):
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() or entry.is_dir():
                yield entry, refusal(entry, stat.S_ISDIR)


def refusal(path: Path, kind: Any) -> str | None:
    """Why ``path`` is not to be read; None if it is of that kind or absent."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if stat.S_ISLNK(mode):
        return "a symbolic link, which is not followed"
    return None if kind(mode) else "neither a plain file nor a folder where one belongs"


def _order(record: Record) -> tuple[str, int, str, str, int, str]:
    cell = record.cell
    return cell.organism, cell.organism_version, cell.reference, cell.row, cell.seed, record.key


def safe_name(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._@-]+", "-", name).strip(".-")[:60] or "unnamed"
