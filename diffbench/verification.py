"""Verification: what was found out about a submission, row by row, as it lies beside the records of a leaderboard."""

from __future__ import annotations

import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from diffbench.canonical import file_digest
from diffbench.errors import RecordError
from diffbench.record import Record, read_document
from diffbench.run_folder import CELLS, RECORD_FILE, Run, cell_folder_name, refusal
from diffbench.truth import Schema

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
SHA256 = r"[0-9a-f]{64}"
VERIFICATION, SUBMISSION = "verification.json", "submission.json"
"""Beside the records of a submission: what was found out about it, and its manifest."""
VERIFICATION_BYTES = 16 << 20
EXCEPTIONS = (
    "timings and usage of the machine",
    "what a judge's answers cost",
    "reasons in words of figures that are no numbers",
    "figures of a paid judge: they are replayed from its verdicts, and not asked for again",
)
"""What need not come out the same."""

State = Literal["verified", "unverified", "refused"]
Mark = Literal["verified", "unverified", "own"]


class Tolerance(Schema):
    """How far a figure may be from what it comes to here: ``absolute + relative * the larger of both``."""

    absolute: float = Field(1e-3, ge=0)
    relative: float = Field(1e-3, ge=0)

    def allows(self, one: float, other: float) -> bool:
        """Whether two numbers are near enough."""
        return abs(one - other) <= self.absolute + self.relative * max(abs(one), abs(other))


class AskedCell(Schema):
    """A cell that the run was asked for, by what tells it from the others of its tier and judge."""

    organism: str
    reference: str
    row: str = Field(description="the method, or method@ranking")
    seed: int

    @property
    def name(self) -> str:
        """As people are told of it."""
        return f"{self.organism} {self.row} s{self.seed} against {self.reference}"


class VerifiedRow(AskedCell):
    """One cell of a submission."""

    key: str
    state: State = Field(
        description="verified: its scores were made again from its Diff; unverified: it carries none, or cannot be "
        "scored here; refused: it is not what it says"
    )
    digest: str | None = Field(
        None, pattern=f"^{SHA256}$", description="SHA-256 of its record.json: another file is not the one looked at"
    )
    reason: str | None = Field(
        None, max_length=2000, description="why it is not verified, or what of a verified one was not made again"
    )
    figures: int = Field(0, description="figures that were compared")
    largest: float | None = Field(None, description="largest difference between two of them")
    judging: Literal["follows", "does not follow", "not carried"] | None = Field(
        None,
        description="whether the judge's figures follow from the verdicts that are carried; null: it has no scores",
    )
    weights: Literal["same", "other", "not carried"] | None = Field(
        None, description="the tuned model that is made here, beside the one that is carried, byte for byte"
    )


class Verification(Schema):
    """All that was found out about one archive."""

    schema_version: Literal[1] = 1
    submission: str = Field(pattern=f"^{NAME}$")
    archive: str = Field(pattern=f"^{SHA256}$", description="SHA-256 of the archive")
    diffbench: str = Field(description="version that looked")
    checked: str = Field(description="UTC, ISO 8601")
    since: str | None = Field(
        None,
        description="when it was first looked at, by the clock of whoever looked; of several unverified copies of a "
        "row the oldest counts",
    )
    platform: str
    versions: dict[str, str] = Field(description="packages")
    tolerance: Tolerance
    exceptions: tuple[str, ...] = EXCEPTIONS
    accepted: bool = Field(description="whether nothing is refused")
    problems: tuple[str, ...] = Field(description="what is wrong with the whole")
    unfinished: tuple[AskedCell, ...] = Field((), description="cells that its run.json asks for and that are not there")
    rows: tuple[VerifiedRow, ...]

    @property
    def first(self) -> str:
        """When it was first looked at."""
        return self.since or self.checked

    def count(self, state: State) -> int:
        """How many rows are in a state."""
        return sum(row.state == state for row in self.rows)


def read_verification(path: Path) -> Verification:
    """Read a verification file.

    Raises:
        RecordError: if it is missing, a link, too large or malformed.
    """
    problem = refusal(path, stat.S_ISREG) or (None if path.exists() else "no such file")
    if problem is not None:
        raise RecordError(f"{path}: {problem}; `diffbench leaderboard verify` writes one")
    return read_document(path, Verification, VERIFICATION_BYTES, "; `diffbench leaderboard verify` writes one")


@dataclass(frozen=True, slots=True)
class Trust:
    """How far the records of one folder are to be trusted.

    Attributes:
        submitted: whether they came from a submission.
        verified: keys of those that were scored again and have not been changed since.
        since: when the submission was first looked at; None: one's own, or nobody knows.
        unfinished: names of cells that it was asked for and does not hold.
    """

    submitted: bool
    verified: frozenset[str] = frozenset()
    since: str | None = None
    unfinished: tuple[str, ...] = ()

    def mark(self, record: Record) -> Mark:
        """What a table calls a row: of one's own, verified or not."""
        if not self.submitted:
            return "own"
        return "verified" if record.key in self.verified else "unverified"


def trust_in(run: Run) -> Trust:
    """How far a folder's records are to be trusted.

    It came from a submission if its manifest or its verification lies there, in whatever state. A file that cannot be
    read verifies nothing, nor does one that was written of other bytes than lie there now.
    """
    if not any((run.path / name).is_symlink() or (run.path / name).exists() for name in (VERIFICATION, SUBMISSION)):
        return Trust(submitted=False)
    try:
        found = read_verification(run.path / VERIFICATION)
    except RecordError:
        return Trust(submitted=True)
    digests = {row.key: row.digest for row in found.rows if row.state == "verified" and row.digest is not None}
    often = Counter(record.key for record in run.records)
    same = (
        record.key
        for record in run.records
        if often[record.key] == 1 and record.key in digests and _digest(run.path, record) == digests[record.key]
    )
    return Trust(True, frozenset(same), found.first, tuple(cell.name for cell in found.unfinished))


def _digest(folder: Path, record: Record) -> str | None:
    """SHA-256 of the file that a record lies in, if that is where it belongs."""
    path = folder / CELLS / cell_folder_name(record.cell, record.key) / RECORD_FILE
    return file_digest(path) if refusal(path, stat.S_ISREG) is None and path.exists() else None
