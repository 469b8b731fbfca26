"""Publishing: the records of one's own run, put among those of a leaderboard as they land.

::

    leaderboard/records/<name>/run.json  cells/<cell>/record.json    a run folder without Diffs: tables follow from it
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

from diffbench.atomic import write_text
from diffbench.errors import RecordError, SubmissionError
from diffbench.merging import RECORDS
from diffbench.packing import published, records_of
from diffbench.run_folder import CELLS, RECORD_FILE, cell_folder_name, folders_in, read_run, refusal, write_run_file
from diffbench.verification import SUBMISSION


def publish(run_folder: Path, into: Path, name: str, *, prune: bool = False) -> tuple[Path, int]:
    """Put a run's records into a leaderboard, as they are published: without paths, addresses and secrets.

    Repeating it adds what has come. Records that the run does not hold stay: it may be a fresh one, whose cells are
    still to come.

    Args:
        run_folder: one's own run.
        into: the leaderboard's folder.
        name: of the folder there.
        prune: take away the records that the run does not hold.

    Returns:
        The folder, and how many records of the run it holds.

    Raises:
        RecordError: if this is no run folder.
        SubmissionError: if it cannot be published, or the name is that of somebody's submission.
    """
    run = read_run(run_folder)
    records = records_of(run)
    folder = into / RECORDS / name
    for path in (into, into / RECORDS, folder, folder / CELLS):
        if (problem := refusal(path, stat.S_ISDIR)) is not None:
            raise SubmissionError(f"{path}: {problem}; nothing is published there")
    if (folder / SUBMISSION).exists():
        raise SubmissionError(f"{folder}: holds a submission; publish under another name")
    held = list(folders_in(folder / CELLS))
    for path, problem in held:
        if problem is not None:
            raise RecordError(f"{path}: {problem}; nothing is published there")
    kept = {cell_folder_name(record.cell, record.key): record for record in records}
    folder.mkdir(parents=True, exist_ok=True)
    write_run_file(folder, published(run, name))
    for cell, record in kept.items():
        path = folder / CELLS / cell / RECORD_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        text = record.model_dump_json() + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    for path, _ in held if prune else ():
        if path.name not in kept:
            shutil.rmtree(path)
    return folder, len(kept)
