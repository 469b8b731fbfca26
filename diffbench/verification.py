"""Verification: what was found out about a submission, row by row, as it lies beside the records of a leaderboard."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from diffbench.errors import RecordError
from diffbench.record import read_document
from diffbench.run_folder import refusal
from diffbench.truth import Schema

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
SHA256 = r"[0-9a-f]{64}"
VERIFICATION = "verification.json"
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
    reason: str | None = Field(None, max_length=2000, description="why it is not verified")
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
    platform: str
    versions: dict[str, str] = Field(description="packages")
    tolerance: Tolerance
    exceptions: tuple[str, ...] = EXCEPTIONS
    accepted: bool = Field(description="whether nothing is refused")
    problems: tuple[str, ...] = Field(description="what is wrong with the whole")
    rows: tuple[VerifiedRow, ...]

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


def marks(run: Path) -> Mapping[str, State] | None:
    """By key the state of the cells of a folder that came from a submission; None: it came from none.

    A file that cannot be read verifies nothing.
    """
    path = run / VERIFICATION
    if refusal(path, stat.S_ISREG) is None and not path.exists():
        return None
    try:
        return {row.key: row.state for row in read_verification(path).rows}
    except RecordError:
        return {}


def mark_of(key: str, known: Mapping[str, State] | None) -> Mark:
    """What a table calls a row: of one's own, verified or not."""
    if known is None:
        return "own"
    return "verified" if known.get(key) == "verified" else "unverified"
