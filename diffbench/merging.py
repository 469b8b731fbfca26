"""Merging: a submission that was verified, put beside the records of a leaderboard without touching anything there.

::

    leaderboard/records/<submission>/run.json  cells/<cell>/record.json    as a run folder: tables are built from it
                                     submission.json  verification.json    the manifest, and what was found out
"""

from __future__ import annotations

import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from diffbench.atomic import new_folder, write_text
from diffbench.canonical import file_digest
from diffbench.errors import RecordError, SubmissionError
from diffbench.inspection import Inspected, inspect
from diffbench.run_folder import CELLS, RECORD_FILE, RUN_FILE, refusal
from diffbench.submission import MANIFEST
from diffbench.verification import SUBMISSION, VERIFICATION, Verification, read_verification

RECORDS = "records"


@dataclass(frozen=True, slots=True)
class Merged:
    """A submission that is in a leaderboard.

    Attributes:
        folder: where its records lie.
        new: whether it was not there before.
    """

    folder: Path
    new: bool
    verification: Verification


def beside(archive: Path) -> Path:
    """Where the verification of an archive lies unless somebody says otherwise."""
    return archive.with_name(f"{archive.name}.{VERIFICATION}")


def merge(archive: Path, into: Path, verification: Path | None = None) -> Merged:
    """Add a verified submission to a leaderboard; repeating it changes nothing.

    The verification file is believed: it has to be one's own, never one that came with the archive.

    Args:
        archive: the submission.
        into: the leaderboard's folder.
        verification: what `diffbench leaderboard verify` wrote; None: beside the archive.

    Raises:
        RecordError: if there is no verification.
        SubmissionError: if it is of another archive or refuses this one, or the name is taken.
    """
    found = read_verification(verification or beside(archive))
    if not archive.is_file() or file_digest(archive) != found.archive:
        raise SubmissionError(f"{archive}: is not the archive that was verified; verify it again")
    if not found.accepted:
        why = next(iter(found.problems), None) or next(row.reason for row in found.rows if row.state == "refused")
        raise SubmissionError(f"{archive}: was refused: {why}")
    with tempfile.TemporaryDirectory(prefix="diffbench-merge-") as work:
        inspected = inspect(archive, Path(work))
        _check_rows(inspected, found)
        return _placed(inspected, into, found)


def _check_rows(inspected: Inspected, found: Verification) -> None:
    """Raise `SubmissionError` unless the verification speaks of this submission's cells."""
    keys = {record.key for record in inspected.records.values()}
    digests = {member.sha256 for member in inspected.manifest.members if member.name.endswith(f"/{RECORD_FILE}")}
    told = {row.key for row in found.rows}, {row.digest for row in found.rows}
    if found.submission != inspected.manifest.name or told != (keys, digests):
        raise SubmissionError(f"{found.submission}: its verification is of other cells; verify it again")
    if inspected.problems or inspected.refused:
        why = next(iter(inspected.problems), None) or next(iter(inspected.refused.values()))
        raise SubmissionError(f"{found.submission}: {why}; verify it again")


def _placed(inspected: Inspected, into: Path, found: Verification) -> Merged:
    folder = into / RECORDS / inspected.manifest.name
    for path in (into, into / RECORDS, folder):
        if (problem := refusal(path, stat.S_ISDIR)) is not None:
            raise SubmissionError(f"{path}: {problem}; nothing is merged there")
    wanted = {name: (inspected.folder / source).read_bytes() for name, source in _files(inspected).items()}
    new = not folder.exists()
    found = found.model_copy(update={"since": _since(folder, found)})
    wanted[VERIFICATION] = (found.model_dump_json(indent=1) + "\n").encode()
    if new:
        _check_case(folder)
        with new_folder(folder) as draft:
            for name, content in wanted.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_bytes(content)
    held = {str(path.relative_to(folder)): path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    text = wanted.pop(VERIFICATION)
    if held.keys() - {VERIFICATION} != wanted.keys() or not all(_is(held[name], wanted[name]) for name in wanted):
        raise SubmissionError(f"{folder}: the name is taken by other records; submit under another with --name")
    if VERIFICATION not in held or not _is(held[VERIFICATION], text):  # the same records, looked at once more
        write_text(folder / VERIFICATION, text.decode())
    return Merged(folder, new, found)


def _since(folder: Path, found: Verification) -> str:
    """When a submission was first looked at, however often it is verified again."""
    try:
        return read_verification(folder / VERIFICATION).first
    except RecordError:
        return found.first


def _check_case(folder: Path) -> None:
    """Two names that differ in case alone are one folder on some file systems."""
    taken = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
    if folder.name.casefold() in {name.casefold() for name in taken}:
        raise SubmissionError(f"{folder}: the name is taken by one in other letters; submit under another with --name")


def _files(inspected: Inspected) -> dict[str, str]:
    """What is kept of a submission, and where it lies in the archive."""
    records = {f"{CELLS}/{name}/{RECORD_FILE}": f"{CELLS}/{name}/{RECORD_FILE}" for name in inspected.records}
    return {RUN_FILE: RUN_FILE, SUBMISSION: MANIFEST} | records


def _is(path: Path, content: bytes) -> bool:
    return refusal(path, stat.S_ISREG) is None and path.read_bytes() == content
