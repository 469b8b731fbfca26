"""Submission: what one archive for a leaderboard holds, as its manifest lists it, and which cells carry their Diff.

::

    manifest.json                                     first: versions, cells, what is unfinished, every other member
    run.json                                          what was asked, without paths, hosts or secrets
    cells/<cell>/record.json                          of every cell, failed and not applicable ones too
                 evidence.parquet sheet.json verdicts.jsonl dashboard.json      of cells with scores, where small enough
                 diff/diff.json diff/tensors.safetensors                        of the chosen cells
    models/<hash of the tuned model>/*.safetensors    of the chosen cells, where an organism's model is at hand

**The choice.** A twentieth of the cells with scores, one at least, carry their Diff. Which ones follows from a hash
over all records, so that it is known only when every score stands, and anybody finds it again from the archive alone.
Timings do not count in it: nobody can check them, and they could be varied until the choice is convenient. Who wants
another choice has to change something of a record that can be checked. Who makes numbers up can still try many; a
challenge rules that out: a word that the maintainers name after they were told the commitment, the hash of the records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from diffbench.canonical import digest
from diffbench.dashboard import DASHBOARD
from diffbench.ending import JUDGED
from diffbench.exchange import DIFF, HEADER, HEADER_BYTES, TENSOR_BYTES, TENSORS
from diffbench.record import RECORD_BYTES, Record, Status
from diffbench.run_folder import CELLS, RECORD_FILE, RUN_BYTES, RUN_FILE
from diffbench.truth import Schema
from diffbench.verification import NAME, SHA256, AskedCell

MANIFEST, MODELS = "manifest.json", "models"
MANIFEST_BYTES = 16 << 20
BESIDE_BYTES = 8 << 20
"""Bytes up to which a file beside a record is carried: what a judge was shown and said, and dashboards."""
WEIGHTS_BYTES = 16 << 30
MOST_BYTES = 32 << 30
"""Of all members together."""
SHARE = 0.05
CHALLENGE_LENGTH = 200
BESIDE = (*JUDGED, DASHBOARD)

_LIMITS = tuple(
    (re.compile(pattern), most)
    for pattern, most in (
        (re.escape(MANIFEST), MANIFEST_BYTES),
        (re.escape(RUN_FILE), RUN_BYTES),
        (rf"{CELLS}/[^/]+/{re.escape(RECORD_FILE)}", RECORD_BYTES),
        (rf"{CELLS}/[^/]+/({'|'.join(map(re.escape, BESIDE))})", BESIDE_BYTES),
        (rf"{CELLS}/[^/]+/{DIFF}/{re.escape(HEADER)}", HEADER_BYTES),
        (rf"{CELLS}/[^/]+/{DIFF}/{re.escape(TENSORS)}", TENSOR_BYTES),
        (rf"{MODELS}/{SHA256}/[\w.-]+\.safetensors", WEIGHTS_BYTES),
    )
)


class Member(Schema):
    """One file of the archive."""

    name: str = Field(max_length=240)
    size: int = Field(ge=0, description="bytes")
    sha256: str = Field(pattern=f"^{SHA256}$")


class SubmittedCell(AskedCell):
    """A finished cell."""

    folder: str = Field(description="its folder in cells/")
    key: str
    status: Status
    digest: str = Field(pattern=f"^{SHA256}$", description="SHA-256 of the record without its timings")
    carries_diff: bool


class Submission(Schema):
    """The manifest of an archive."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=f"^{NAME}$", description="of the submission, and of its folder in a leaderboard")
    diffbench: str = Field(description="version that packed it")
    record_schema: int = Field(description="version of the records' schema")
    score_schema: int = Field(description="version of the scores' schema")
    commitment: str = Field(pattern=f"^{SHA256}$", description="SHA-256 of all records without timings")
    challenge: str | None = Field(
        None,
        max_length=CHALLENGE_LENGTH,
        description="a word that was named after the commitment was told, and decides the choice",
    )
    cells: tuple[SubmittedCell, ...]
    unfinished: tuple[AskedCell, ...] = Field(description="cells that run.json asks for and that are not there")
    members: tuple[Member, ...] = Field(description="every file but this one, in the order of the archive")


def record_digest(record: Record) -> str:
    """SHA-256 of a record without its timings."""
    return digest(record.model_dump(mode="json", exclude={"timings"}))


def committed(digests: Sequence[tuple[str, str]]) -> str:
    """The commitment: SHA-256 of the keys and digests of all records, whatever their order."""
    return digest(sorted(digests))


def chosen(records: Sequence[Record], challenge: str | None = None) -> frozenset[str]:
    """Keys of the cells that carry their Diff: the first twentieth of those with scores in an order by hashes.

    Controls do not: everybody has them, and nobody gains by changing what they scored. Where nothing else has scores
    they have to.

    Args:
        records: of all cells of a run.
        challenge: a word that decides, too.
    """
    scored = [record for record in records if record.status == "ok"]
    asked = [record.key for record in scored if not record.cell.control] or [record.key for record in scored]
    return drawn({record.key: record_digest(record) for record in records}, asked, challenge)


def drawn(digests: Mapping[str, str], scored: Sequence[str], challenge: str | None = None) -> frozenset[str]:
    """The choice among the keys of cells with scores, from the digests of all records by their keys."""
    seed = digest([committed(list(digests.items())), challenge])
    order = sorted(scored, key=lambda key: digest([seed, key, digests[key]]))
    return frozenset(order[: math.ceil(SHARE * len(order))])


def most_bytes(name: str) -> int | None:
    """Bytes that a member of that name may have; None: a submission has no such member."""
    return next((most for pattern, most in _LIMITS if pattern.fullmatch(name)), None)
