"""Cells: from planned cells to records. Each method runs once per fit, and every row that ranks the fit is scored.

A finished fit lies in the run folder and is taken from there by whoever needs it later: another ranking, another judge,
or a run that goes on where it was killed.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from diffbench import cache
from diffbench.canonical import digest
from diffbench.cell import MethodOutcome, finish_method, submit_method
from diffbench.duration import Stage
from diffbench.ending import Ending, MethodCost, record_of, score_diff, utc_now
from diffbench.errors import DiffbenchError, RecordError
from diffbench.exchange import DIFF, TENSORS, assemble, keep_diff
from diffbench.fits import LOG_FILE, FitFile, StoredFit, publish_fit, stored_fit, tended
from diffbench.grid import PlannedCell, PlannedScore
from diffbench.input_files import placed
from diffbench.latent_row import LATENTS
from diffbench.plugins import notify_cell_finished
from diffbench.record import Record, Status, read_record
from diffbench.run_folder import CELLS, FITS, RECORD_FILE, cell_folder_name, fit_folder_name
from diffbench.worker import Task
from diffbench.workers import Job, Work, Workers

LOG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Unfit:
    """A method that left no Diff that can be used: how it ended, and what it wrote."""

    status: Status
    reason: str | None
    file: FitFile
    log: bytes


def run_cells(
    cells: Sequence[PlannedCell],
    folder: Path,
    workers: Workers,
    finished: Mapping[str, Record],
    *,
    refit: bool = False,
) -> list[Record]:
    """Run the cells whose key has no finished record, and return the records of all, in order.

    Args:
        cells: what was asked for.
        folder: the run folder.
        workers: run the tasks.
        finished: records by key.
        refit: run methods again although their fits are finished.
    """
    done = dict(finished)
    fits: dict[str, list[PlannedCell]] = {}
    for cell in cells:
        if cell.key not in finished:
            fits.setdefault(cell.fit, []).append(cell)
    works = [
        Work(
            f"{rows[0].cell.organism} {rows[0].cell.method} s{rows[0].cell.seed}",
            _guarded(fit_folder(folder, rows[0]), _fit(workers, rows, folder, done, refit)),
            counts=False,
        )
        for rows in fits.values()
    ]
    with tended(folder):
        workers.run("cells", works, sum(map(len, fits.values())))
    return [done[cell.key] for cell in cells]


def cell_folder(folder: Path, cell: PlannedScore) -> Path:
    """Where a cell's files lie."""
    return folder / CELLS / cell_folder_name(cell.cell, cell.key)


def fit_folder(folder: Path, cell: PlannedScore) -> Path:
    """Where the fit lies that a cell ranks."""
    return folder / FITS / fit_folder_name(cell.cell, cell.fit)


def method_stage(cell: PlannedCell) -> Stage:
    """The running of a method, as durations know it."""
    comparison, asked = cell.comparison, cell.cell
    return "method", comparison.organism.recipe.base, comparison.tier.name, asked.method, digest(asked.options)


def stored_records(folder: Path, cells: Sequence[PlannedCell]) -> dict[str, Record]:
    """By key and in order, the records of the cells that are finished under the same key and without an error."""
    found: dict[str, Record] = {}
    for cell in cells:
        with suppress(RecordError):
            record = read_record(cell_folder(folder, cell) / RECORD_FILE)
            if record.key == cell.key and record.status != "error":
                found[cell.key] = record
    return found


def _guarded(where: Path, job: Job) -> Job:
    """A job whose trouble with files is one line."""
    try:
        yield from job
    except OSError as error:
        what = f"{error.filename or where}: {error.strerror or error}"
        raise RecordError(f"{what}; make room or remove it, and run again") from None


def _fit(workers: Workers, rows: list[PlannedCell], folder: Path, done: dict[str, Record], refit: bool) -> Job:
    """Have a method's Diff, from the run folder or by running the method, and then score the rows."""
    path = fit_folder(folder, rows[0])
    fit: StoredFit | Unfit | None = None if refit else stored_fit(path, rows[0].fit)
    if fit is None:
        fit = yield from _run_method(workers, rows[0], path, refit)
    yield [
        Work(
            f"{row.cell.organism} {row.cell.row} s{row.cell.seed}",
            _guarded(cell_folder(folder, row), _row(workers, row, fit, folder, done)),
        )
        for row in rows
    ]


def _run_method(
    workers: Workers, cell: PlannedCell, path: Path, refit: bool
) -> Generator[Task, None, StoredFit | Unfit]:
    organism, comparison = cell.comparison.organism, cell.comparison
    started = utc_now()
    with cache.scratch() as work:
        inputs = assemble(
            work / "in",
            organism.model_path(comparison.reference),
            organism.model_path("tuned"),
            comparison.path / "in",
            base=organism.model_path("base"),
        )
        options = placed(cell.options, cell.files, inputs)
        seed, tier = cell.cell.seed, comparison.tier
        task = submit_method(workers.methods(), inputs, work / "out", cell.method, options, seed, tier)
        yield task
        outcome = finish_method(task, work / "out")
        left, log = work / "fit", work / "out.log"
        left.mkdir()
        (left / LOG_FILE).write_bytes(log.read_bytes()[-LOG_BYTES:] if log.is_file() else b"")
        status, reason = outcome.status, outcome.error
        if outcome.ok:
            status, reason, checking = yield from _check(workers, cell, outcome, left)
            workers.durations.note(method_stage(cell), outcome.seconds + checking)
        file = _fit_file(cell, outcome, started)
        if status == "ok":
            # Of two runs in one folder the first to finish a fit keeps it: its rows may be linked to it already.
            faster = None if refit else stored_fit(path, cell.fit)
            return faster or publish_fit(path, left, file)
        return Unfit(status, reason, file, (left / LOG_FILE).read_bytes())


def _check(
    workers: Workers, cell: PlannedCell, outcome: MethodOutcome, left: Path
) -> Generator[Task, None, tuple[Status, str | None, float]]:
    """Take the Diff over into ``left``, see that it fits the pair, and write the table of its latents beside it.

    Returns:
        Status, reason, and the seconds that it took.
    """
    try:
        diff = keep_diff(outcome.diff_folder, left)
    except (DiffbenchError, OSError) as error:
        return "error", f"{type(error).__name__}: {error}", 0.0
    request = cell.comparison.request() | {"diff": str(diff.absolute()), "out": str((left / LATENTS).absolute())}
    task = workers.engine().submit("diffbench.intake:intake_task", request, log=left / LOG_FILE)
    yield task
    result = task.wait()
    if result.ok:
        return "ok", None, result.seconds
    return "error", f"checking the Diff: {result.error}", result.seconds


def _row(workers: Workers, cell: PlannedCell, fit: StoredFit | Unfit, folder: Path, done: dict[str, Record]) -> Job:
    """Score a fit in a row's order and write the row's record, last of all."""
    started = utc_now()
    kept = cell_folder(folder, cell)
    kept.mkdir(parents=True, exist_ok=True)
    (kept / RECORD_FILE).unlink(missing_ok=True)
    if isinstance(fit, Unfit):
        shutil.rmtree(kept / DIFF, ignore_errors=True)
        (kept / LOG_FILE).write_bytes(fit.log)
        ending = Ending(fit.status, fit.reason)
    else:
        shutil.copyfile(fit.path / LOG_FILE, kept / LOG_FILE)
        ending = yield from score_diff(workers, cell, fit.path, fit.file.files[f"{DIFF}/{TENSORS}"], kept)
    ran = fit.file
    record = record_of(cell, MethodCost(ran.seconds, ran.peak_memory_mb, ran.sandbox, ran.usage), ending, started)
    path = kept / RECORD_FILE
    record.write(path)
    done[cell.key] = record
    notify_cell_finished(record, path)


def _fit_file(cell: PlannedCell, outcome: MethodOutcome, started: str) -> FitFile:
    asked = cell.cell
    return FitFile(
        key=cell.fit,
        organism=asked.organism,
        reference=asked.reference,
        method=asked.method,
        method_version=asked.method_version,
        method_package=asked.method_package,
        seed=asked.seed,
        options=asked.options,
        tier=asked.tier,
        started=started,
        seconds=round(outcome.seconds, 3),
        peak_memory_mb=round(outcome.peak_memory_mb, 1),
        sandbox=outcome.confinement,
        usage=outcome.usage,
        files={},
    )
