"""Fits: what a method returned, kept once in the run folder for all the rows that rank its latents in their own way.

::

    runs/NAME/fits/<organism>--<method>--s<seed>--<key8>/fit.json           how the method ran, and hashes of the rest
                                                         diff/              the Diff as the method returned it
                                                         latents.parquet    one row per latent of a dictionary
                                                         log.txt            what the method wrote
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from diffbench.atomic import new_folder
from diffbench.canonical import file_digest
from diffbench.errors import RecordError
from diffbench.exchange import DIFF, HEADER, TENSORS
from diffbench.latent_row import LATENTS
from diffbench.record import read_document
from diffbench.run_folder import CELLS, FITS, folders_in, refusal
from diffbench.truth import Schema

FIT_FILE, LOG_FILE = "fit.json", "log.txt"
FIT_BYTES = 1 << 20
DIFF_FILES = (f"{DIFF}/{HEADER}", f"{DIFF}/{TENSORS}")


class FitFile(Schema):
    """How a method ran on a pair, and what it left."""

    schema_version: Literal[1] = 1
    key: str = Field(description="SHA-256 of everything that can change the Diff")
    organism: str
    reference: str
    method: str
    method_version: int
    method_package: str
    seed: int
    options: dict[str, Any] = Field(description="resolved: passed ones and defaults")
    tier: str
    started: str = Field(description="UTC, ISO 8601")
    seconds: float = Field(description="wall time of the method process")
    peak_memory_mb: float
    sandbox: str = Field(description="how the method process was confined, or 'none'")
    usage: dict[str, int] = Field(description="tokens, calls and FLOPs through the ModelPair")
    files: dict[str, str] = Field(description="SHA-256 of each other file but the log, by its path in this folder")


@dataclass(frozen=True, slots=True)
class StoredFit:
    """A finished fit: its folder and its ``fit.json``."""

    path: Path
    file: FitFile


def read_fit(path: Path) -> FitFile:
    """Read the ``fit.json`` of a fit's folder, which may come from a stranger.

    Raises:
        RecordError: if it is missing, a link, of another version or malformed.
    """
    file = path / FIT_FILE
    problem = refusal(path, stat.S_ISDIR) or refusal(file, stat.S_ISREG)
    if problem is not None:
        raise RecordError(f"{file}: {problem}")
    return read_document(file, FitFile, FIT_BYTES, "; delete its folder and run again")


def stored_fit(path: Path, key: str) -> StoredFit | None:
    """The finished fit in a folder, if it has that key and all its files are as they were then."""
    with suppress(RecordError, OSError):
        file = read_fit(path)
        known = set(file.files) - {*DIFF_FILES, LATENTS} == set() and set(DIFF_FILES) <= set(file.files)
        if file.key == key and known and all(_digest(path, name) == held for name, held in file.files.items()):
            return StoredFit(path, file)
    return None


def publish_fit(path: Path, left: Path, file: FitFile) -> StoredFit:
    """Move what lies in ``left`` into a new fit's folder, in place of an old one; all of it or nothing is there.

    Args:
        path: the fit's folder.
        left: holds the Diff, the log, and the table of latents where there is one.
        file: how the method ran; its hashes are made here.
    """
    names = [name for name in (*DIFF_FILES, LATENTS) if (left / name).is_file()]
    file = file.model_copy(update={"files": {name: file_digest(left / name) for name in names}})
    with new_folder(path, replace=True) as draft:
        (draft / DIFF).mkdir()
        for name in (*names, LOG_FILE):
            shutil.move(left / name, draft / name)
        text = json.dumps(file.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
        (draft / FIT_FILE).write_text(text + "\n", encoding="utf-8")
    return StoredFit(path, read_fit(path))


def place_diff(source: Path, cell: Path) -> Path:
    """Put the Diff of a fit's or another cell's folder into a cell's folder and return where it is.

    The tensors are linked, or copied on another file system; the header is a copy, which a ranking writes anew.
    """
    target = cell / DIFF
    if os.path.lexists(target):
        shutil.rmtree(target)
    target.mkdir(parents=True)
    shutil.copyfile(source / DIFF / HEADER, target / HEADER)
    try:
        os.link(source / DIFF / TENSORS, target / TENSORS)
    except OSError:
        shutil.copyfile(source / DIFF / TENSORS, target / TENSORS)
    return target


def fits_of(folder: Path) -> Iterator[tuple[Path, FitFile | None, str]]:
    """Every fit of a run folder in the order of its name: folder, ``fit.json``, and why that cannot be read."""
    for path, problem in folders_in(folder / FITS):
        try:
            if problem is not None:
                raise RecordError(f"{path}: {problem}")
            yield path, read_fit(path), ""
        except RecordError as error:
            yield path, None, str(error)


def checked_file(path: Path, fit: FitFile, name: str) -> Path:
    """The path of a file of a fit.

    Raises:
        RecordError: if it is missing, no plain file, or not what it was when the fit was finished.
    """
    if _digest(path, name) != fit.files[name]:
        raise RecordError(f"{path / name}: changed or missing since the fit was finished; run again")
    return path / name


@contextmanager
def tended(folder: Path) -> Iterator[None]:
    """Hold a run folder while cells are run in it; what a killed run left half-made is removed first.

    Several processes may run in one folder: drafts are removed only by one that is alone in it.

    Raises:
        RecordError: if something else is in the way, or the folder cannot be written.
    """
    try:
        (folder / FITS).mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / FITS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise RecordError(f"{folder / FITS}: {error.strerror}; make room or remove it, and run again") from None
    try:
        with suppress(OSError):  # a file system without locks: then nothing is removed
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for draft in (*folder.glob(f"{FITS}/.*"), *folder.glob(f"{CELLS}/.*"), *folder.glob(f"{CELLS}/*/.*")):
                shutil.rmtree(draft, ignore_errors=True) if draft.is_dir() else draft.unlink(missing_ok=True)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def _digest(path: Path, name: str) -> str | None:
    """SHA-256 of a plain file in a fit's folder."""
    file = path / name
    if refusal(file.parent, stat.S_ISDIR) or refusal(file, stat.S_ISREG) or not file.exists():
        return None
    return file_digest(file)
