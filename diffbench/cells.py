"""Cells: from planned cells to records. Each method runs once per fit, and every row that ranks the fit is scored.

A finished fit lies in the run folder and is taken from there by whoever needs it later: another ranking, another judge,
or a run that goes on where it was killed.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from diffbench import cache
from diffbench.canonical import file_digest
from diffbench.cell import MethodOutcome, finish_method, submit_method
from diffbench.errors import DiffbenchError, RecordError
from diffbench.exchange import DIFF, HEADER, TENSORS, assemble, keep_diff
from diffbench.fits import LOG_FILE, FitFile, StoredFit, place_diff, publish_fit, stored_fit, tended
from diffbench.grid import PlannedCell
from diffbench.input_files import placed
from diffbench.latent_row import LATENTS
from diffbench.line import one_line
from diffbench.plugins import notify_cell_finished
from diffbench.record import Budget, Record, Scores, Status, Timings, read_record
from diffbench.run_folder import CELLS, FITS, RECORD_FILE, cell_folder_name, fit_folder_name
from diffbench.worker import Task, TaskResult
from diffbench.workers import Job, Work, Workers

PACKAGES = ("diffbench", "torch", "transformers", "safetensors", "tokenizers", "numpy", "pandas", "pydantic", "pluggy")
LOG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Unfit:
    """A method that left no Diff that can be used: how it ended, and what it wrote."""

    status: Status
    reason: str | None
    file: FitFile
    log: bytes


@dataclass(frozen=True, slots=True)
class Ending:
    """How a cell ended."""

    status: Status
    reason: str | None
    scores: Scores | None = None
    seconds: float = 0.0
    hashes: dict[str, str] | None = None


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


def cell_folder(folder: Path, cell: PlannedCell) -> Path:
    """Where a cell's files lie."""
    return folder / CELLS / cell_folder_name(cell.cell, cell.key)


def fit_folder(folder: Path, cell: PlannedCell) -> Path:
    """Where the fit lies that a cell ranks."""
    return folder / FITS / fit_folder_name(cell.cell, cell.fit)


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
    started = datetime.now(UTC).isoformat(timespec="seconds")
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
            status, reason = yield from _check(workers, cell, outcome, left)
        file = _fit_file(cell, outcome, started)
        if status == "ok":
            # Of two runs in one folder the first to finish a fit keeps it: its rows may be linked to it already.
            faster = None if refit else stored_fit(path, cell.fit)
            return faster or publish_fit(path, left, file)
        return Unfit(status, reason, file, (left / LOG_FILE).read_bytes())


def _check(
    workers: Workers, cell: PlannedCell, outcome: MethodOutcome, left: Path
) -> Generator[Task, None, tuple[Status, str | None]]:
    """Take the Diff over into ``left``, see that it fits the pair, and write the table of its latents beside it."""
    try:
        diff = keep_diff(outcome.diff_folder, left)
    except (DiffbenchError, OSError) as error:
        return "error", f"{type(error).__name__}: {error}"
    request = cell.comparison.request() | {"diff": str(diff.absolute()), "out": str((left / LATENTS).absolute())}
    task = workers.engine().submit("diffbench.intake:intake_task", request, log=left / LOG_FILE)
    yield task
    result = task.wait()
    return ("ok", None) if result.ok else ("error", f"checking the Diff: {result.error}")


def _row(workers: Workers, cell: PlannedCell, fit: StoredFit | Unfit, folder: Path, done: dict[str, Record]) -> Job:
    """Score a fit in a row's order and write the row's record, last of all."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    kept = cell_folder(folder, cell)
    kept.mkdir(parents=True, exist_ok=True)
    (kept / RECORD_FILE).unlink(missing_ok=True)
    if isinstance(fit, Unfit):
        shutil.rmtree(kept / DIFF, ignore_errors=True)
        (kept / LOG_FILE).write_bytes(fit.log)
        ending = Ending(fit.status, fit.reason)
    else:
        shutil.copyfile(fit.path / LOG_FILE, kept / LOG_FILE)
        ending = yield from _score(workers, cell, fit, kept)
    record = _record(cell, fit.file, ending, started)
    path = kept / RECORD_FILE
    record.write(path)
    done[cell.key] = record
    notify_cell_finished(record, path)


def _score(workers: Workers, cell: PlannedCell, fit: StoredFit, kept: Path) -> Generator[Task, None, Ending]:
    diff = place_diff(fit, kept)
    request = cell.comparison.request() | {
        "judge": cell.judge.name,
        "seed": cell.cell.seed,
        "diff": str(diff.absolute()),
        "ranking": cell.cell.ranking,
    }
    task = workers.engine().submit("diffbench.score:score_task", request, log=kept / LOG_FILE)
    yield task
    status, reason, scores = _scores(result := task.wait())
    if status == "not_applicable":
        shutil.rmtree(diff)
        return Ending(status, reason, None, result.seconds)
    hashes = {HEADER: file_digest(diff / HEADER), TENSORS: fit.file.files[f"{DIFF}/{TENSORS}"]}
    return Ending(status, reason, scores, result.seconds, hashes)


def _scores(result: TaskResult) -> tuple[Status, str | None, Scores | None]:
    if not result.ok or not isinstance(result.answer, dict):
        return "error", f"scoring: {result.error}", None
    if "not_applicable" in result.answer:
        return "not_applicable", str(result.answer["not_applicable"]), None
    return "ok", None, Scores.model_validate(result.answer["scores"])


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


def _record(cell: PlannedCell, fit: FitFile, ending: Ending, started: str) -> Record:
    tier = cell.comparison.tier
    return Record(
        key=cell.key,
        fit=cell.fit,
        cell=cell.cell,
        status=ending.status,
        reason=None if ending.reason is None else one_line(ending.reason),
        budget=Budget(tokens=tier.tokens, components=tier.components, seconds=tier.seconds),
        hashes=cell.hashes(ending.hashes),
        pair=cell.comparison.facts(),
        scores=ending.scores,
        timings=Timings(
            started=started,
            method_seconds=fit.seconds,
            score_seconds=round(ending.seconds, 3),
            peak_memory_mb=fit.peak_memory_mb,
            harvest_seconds=round(cell.comparison.seconds(), 3),
            sandbox=fit.sandbox,
            usage=fit.usage,
            versions={name: version(name) for name in PACKAGES},
            platform=f"{platform.system()} {platform.machine()} python {platform.python_version()}",
        ),
    )
