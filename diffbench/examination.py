"""Examination: all that is found out about a submission: read, inspected, replayed, recounted, and written down."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from diffbench.asking import asked_of, missing_cells
from diffbench.ending import JUDGED, PACKAGES, utc_now
from diffbench.inspection import Inspected, inspect
from diffbench.line import one_line
from diffbench.record import Record
from diffbench.recount import Notify, Recounted, recount
from diffbench.replay import replay_cell
from diffbench.run_folder import CELLS, RECORD_FILE
from diffbench.verification import State, Tolerance, Verification, VerifiedRow

CACHE = "DIFFBENCH_CACHE"
SHOWN = 3
NOT_CHOSEN = "its hash did not choose it: it carries no Diff"
UNJUDGED = "its judge is not asked again here, and its figures do not follow from verdicts that are carried"
REPLAYED = "scores verified; its judge was replayed, not asked"
GIVEN = "a pair of somebody's own, which cannot be made here"


def examine(
    archive: Path,
    work: Path,
    notify: Notify,
    *,
    tolerance: Tolerance | None = None,
    challenge: str | None = None,
    organisms: Sequence[str] = (),
    jobs: int | None = None,
) -> Verification:
    """Find out whether a submission is what it says.

    Args:
        archive: what `diffbench.packing` wrote, or somebody else.
        work: an empty folder, for what is made on the way.
        notify: gets a phrase and the fraction of the current stage that is done.
        tolerance: by which figures may differ that are made again.
        challenge: the word that the choice of the Diffs must hang on; None: any, or none.
        organisms: names or recipes of organisms that are not installed here.
        jobs: processes side by side; None: one for each core.

    Raises:
        SubmissionError: if the archive cannot be read as its manifest says; then nothing is known of any row.
        DiffbenchError: if an organism that was named is not known.
    """
    allowed = tolerance or Tolerance()
    (work / "archive").mkdir()
    inspected = inspect(archive, work / "archive", challenge)
    counted: dict[str, Recounted] = {}
    if not inspected.problems:  # what is refused as a whole is not worth the time
        counted = recount(inspected, work / "recount", allowed, notify, organisms=organisms, jobs=jobs)
    rows = tuple(_row(inspected, folder, record, counted) for folder, record in inspected.records.items())
    shutil.rmtree(work / "archive")
    now = utc_now()
    return Verification(
        submission=inspected.manifest.name,
        archive=inspected.archive,
        diffbench=version("diffbench"),
        checked=now,
        since=now,
        platform=f"{platform.system()} {platform.machine()} python {platform.python_version()}",
        versions={name: version(name) for name in PACKAGES},
        tolerance=allowed,
        accepted=not inspected.problems and not any(row.state == "refused" for row in rows),
        problems=inspected.problems,
        unfinished=tuple(missing_cells(inspected.file.config, list(inspected.records.values()))),
        rows=rows,
    )


@contextmanager
def untouched_cache(folder: Path | None) -> Iterator[None]:
    """Have everything made anew in ``folder`` while the block runs; None: the machine's own cache serves."""
    before = os.environ.get(CACHE)
    if folder is not None:
        os.environ[CACHE] = str(folder)
    try:
        yield
    finally:
        if folder is not None:
            os.environ.pop(CACHE, None)
            if before is not None:
                os.environ[CACHE] = before


def _row(inspected: Inspected, folder: str, record: Record, counted: Mapping[str, Recounted]) -> VerifiedRow:
    digests = {member.name: member.sha256 for member in inspected.manifest.members}
    judging, why_not = _judging(inspected, folder, record)
    found = counted.get(record.key)
    state, reason = _state(inspected, record, found)
    if why_not is not None and state != "refused":
        state, reason = "refused", why_not
    elif state == "verified" and found is not None and not found.judged:
        state, reason = ("verified", REPLAYED) if judging == "follows" else ("unverified", UNJUDGED)
    return VerifiedRow.model_validate(
        asked_of(record).model_dump()
        | {
            "key": record.key,
            "state": state,
            "digest": digests[f"{CELLS}/{folder}/{RECORD_FILE}"],
            "reason": None if reason is None else one_line(reason),
            "judging": judging,
        }
        | ({} if found is None else {"figures": found.figures, "largest": found.largest, "weights": found.weights})
    )


def _state(inspected: Inspected, record: Record, found: Recounted | None) -> tuple[State, str | None]:
    if record.key in inspected.refused:
        return "refused", inspected.refused[record.key]
    if record.status != "ok":
        return "unverified", f"it has no scores ({record.status.replace('_', ' ')})"
    if record.key not in inspected.picked:
        return "unverified", NOT_CHOSEN
    if found is None:
        return "unverified", GIVEN if record.cell.training == "given" else "nothing was scored again"
    return ("verified", None) if found.reason is None else ("refused", found.reason)


def _judging(inspected: Inspected, folder: str, record: Record) -> tuple[str | None, str | None]:
    """Whether a judge's figures follow from its verdicts, and if not, why that is no other code's doing."""
    if record.scores is None:
        return None, None
    named = set(record.hashes.judged or {}) & set(JUDGED)
    if not named or not all((inspected.folder / CELLS / folder / name).is_file() for name in named):
        return "not carried", None
    if record.key in inspected.refused:
        return None, None
    played = replay_cell(inspected.folder, record)
    if not played.differences:
        return "follows", None
    why = f"its judge's figures do not follow from its verdicts: {'; '.join(played.differences[:SHOWN])}"
    return "does not follow", why if played.same_code else None
