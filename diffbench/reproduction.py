"""Reproduction: the registered studies carried out: their fits run, what they speak of measured, their verdicts drawn.

::

    RUNS_DIR/reproduce-<run>/                          a run folder like any other
    RUNS_DIR/reproduce-<run>/measurements/<key>.json   a measured quantity of one of its fits

Finished cells and finished measurements are reused, so that a reproduction that was killed goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import Field

from diffbench import cache, runner
from diffbench.campaign import execute
from diffbench.cells import cell_folder, fit_folder
from diffbench.errors import DiffbenchError, GateError, RecordError
from diffbench.figure import Figure
from diffbench.fits import stored_fit
from diffbench.grid import PlannedCell
from diffbench.line import error_line, one_line
from diffbench.record import Record, read_record
from diffbench.run_folder import RECORD_FILE
from diffbench.study import FitRun, Inequality, Reading, Registration, StudyResult, Term, Unit, concluded, reading_of
from diffbench.study_plan import Plan, PlannedRun
from diffbench.truth import Schema
from diffbench.workers import Job, Work, Workers

Notify = Callable[[str, float], None]
Key = tuple[str, str, int]
"""Run, method and organism seed: what tells a fit from the others."""


class PairSeen(Schema):
    """The pair that a run's fits are of, for one organism seed."""

    run: str
    organism: str
    reference: str
    layer: int
    layer_rule: str
    kl: Figure
    ceiling: Figure = Field(description="R_model of the layer's true delta")


class Reproduction(Schema):
    """All that `diffbench reproduce` found."""

    schema_version: Literal[1] = 1
    registered: str
    known: str
    registered_tier: str
    tier: str = Field(description="of these fits; another one than was registered makes it a trial")
    organism_seeds: tuple[int, ...]
    method_seed: int
    runs: dict[str, FitRun]
    pairs: tuple[PairSeen, ...]
    studies: tuple[StudyResult, ...]
    cells: int
    reused: int = Field(description="cells that were finished before")
    projected: float = Field(description="seconds, told before")
    seconds: float = Field(description="wall time of this command")
    jobs: int
    diffbench: str
    finished: str = Field(description="UTC, ISO 8601")

    @property
    def errors(self) -> tuple[str, ...]:
        """What could not be measured, by study."""
        return tuple(f"{each.study.name}: {error}" for each in self.studies for error in each.errors)


def reproduce(plan: Plan, notify: Notify, argv: tuple[str, ...] = ()) -> Reproduction:
    """Carry out a plan. What fails costs the units it belongs to, and their studies say so.

    Args:
        plan: what to do.
        notify: gets a phrase and the fraction of the current stage that is done.
        argv: the command line, for the run files.
    """
    started, projected, reused = time.monotonic(), plan.projected(), len(plan.cells) - len(plan.missing())
    gone = _pairs_gone(plan, notify)
    fits: dict[Key, Record | Reading] = {}
    for run in plan.runs:
        fits |= _run(plan, run, gone, notify, argv)
    readings = _measure(plan, fits, notify)
    registered = plan.registered
    return Reproduction(
        registered=registered.registered,
        known=registered.known,
        registered_tier=registered.tier,
        tier=plan.tier,
        organism_seeds=registered.organism_seeds,
        method_seed=registered.method_seed,
        runs={run.name: registered.runs[run.name] for run in plan.runs},
        pairs=tuple(_pairs(fits)),
        studies=tuple(
            concluded(study, [_units(test, registered, fits, readings) for test in study.tests])
            for study in plan.studies
        ),
        cells=len(plan.cells),
        reused=reused,
        projected=projected,
        seconds=time.monotonic() - started,
        jobs=plan.jobs,
        diffbench=version("diffbench"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _pairs_gone(plan: Plan, notify: Notify) -> dict[str, Reading]:
    """Build and prepare what is needed; of each pair that cannot be used, by the comparison's key, why."""
    needed = {cell.comparison.key: cell for _, cell in plan.missing()}
    organisms = {cell.cell.organism: cell.comparison.organism for cell in needed.values()}
    if not needed:
        return {}
    gone: dict[str, Reading] = {}
    trusted = runner.trusted(list(organisms.values()), *{cell.judge for cell in needed.values()})
    with runner.Workers(jobs=plan.jobs, notify=notify, trusted=trusted) as workers:
        reports = dict(zip(organisms, runner.build(list(organisms.values()), workers), strict=True))
        for key, cell in needed.items():
            report = reports[cell.cell.organism]
            try:
                if isinstance(report, DiffbenchError):
                    raise report
                report.require(cell.cell.organism)
            except GateError as error:
                gone[key] = Reading(figure=Figure.undefined(one_line(error, 400)))
            except DiffbenchError as error:
                gone[key] = Reading(error=error_line(error))
        broken = runner.prepare([cell for key, cell in needed.items() if key not in gone], workers)
    return gone | {key: Reading(error=error_line(error)) for key, error in broken.items()}


def _run(
    plan: Plan, run: PlannedRun, gone: Mapping[str, Reading], notify: Notify, argv: tuple[str, ...]
) -> dict[Key, Record | Reading]:
    """The record of each fit of a run, or why there is none; a finished one stands whatever becomes of the others."""
    everywhere = [(method, seed) for method in run.methods for seed in plan.registered.organism_seeds]
    if run.problem is not None:
        return {(run.name, *each): Reading(error=f"run {run.name}: {run.problem}") for each in everywhere}
    absent = {_key(run, cell): gone[cell.comparison.key] for cell in run.cells if cell.comparison.key in gone}
    seeds = tuple(seed for seed in plan.registered.organism_seeds if seed not in {seed for _, _, seed in absent})
    failed = None
    if seeds:
        config = run.config.model_copy(update={"organism_seeds": seeds})
        passed = config.model_dump(mode="json", exclude_defaults=True)

        def told(phrase: str, fraction: float) -> None:
            notify(f"{run.name}: {phrase}", fraction)

        try:
            execute(config, run.folder, passed=passed, argv=argv, notify=told)
        except DiffbenchError as error:
            failed = Reading(error=f"run {run.name}: {error_line(error)}")
    finished = run.finished()
    return {
        key: finished.get(cell.key) or absent.get(key) or failed or _record(run, cell)
        for key, cell in ((_key(run, run.cell(*each)), run.cell(*each)) for each in everywhere)
    }


def _record(run: PlannedRun, cell: PlannedCell) -> Record | Reading:
    try:
        return read_record(cell_folder(run.folder, cell) / RECORD_FILE)
    except RecordError as error:
        return Reading(error=error_line(error))


def _measure(plan: Plan, fits: Mapping[Key, Record | Reading], notify: Notify) -> dict[tuple[Key, str], Reading]:
    """Everything that no record has, by fit and name."""
    readings: dict[tuple[Key, str], Reading] = {}
    wanted: list[tuple[PlannedRun, PlannedCell, Key, list[str]]] = []
    for run, cell in plan.cells:
        key = _key(run, cell)
        record = fits[key]
        if isinstance(record, Reading) or record.status != "ok":
            continue
        stored = {read: run.stored(cell, read) for read in run.measured(cell)}
        readings |= {(key, read): reading for read, reading in stored.items() if reading is not None}
        missing = [read for read, reading in stored.items() if reading is None]
        if missing:
            wanted.append((run, cell, key, missing))
    if wanted:
        organisms = [organism for run in plan.runs for organism in run.organisms]
        workers_of = runner.Workers(jobs=plan.jobs, notify=notify, trusted=runner.trusted(organisms))
        with cache.scratch() as logs, workers_of as workers:
            names = [" ".join(map(str, key)) for _, _, key, _ in wanted]
            works = [
                Work(name, _task(workers, run, cell, reads, readings, logs / f"{at}.log"))
                for at, (name, (run, cell, _, reads)) in enumerate(zip(names, wanted, strict=True))
            ]
            workers.run("measuring", works)
    return readings


def _task(
    workers: Workers,
    run: PlannedRun,
    cell: PlannedCell,
    reads: Sequence[str],
    readings: dict[tuple[Key, str], Reading],
    log: Path,
) -> Job:
    """Measure some quantities of a fit, and keep those that there are."""
    key, folder = _key(run, cell), fit_folder(run.folder, cell)
    if stored_fit(folder, cell.fit) is None:
        why = Reading(error=f"{folder}: changed or missing since the fit was finished; run again")
        readings.update({(key, read): why for read in reads})
        return
    request = cell.comparison.request() | {"fit": str(folder.absolute()), "read": list(reads)}
    task = workers.engine().submit("diffbench.measurement:measure_task", request, log=log)
    yield task
    result = task.wait()
    if not result.ok or not isinstance(result.answer, dict):
        why = Reading(error=f"measuring {' '.join(map(str, key))}: {one_line(result.error)}")
        readings.update({(key, read): why for read in reads})
        return
    for read, found in zip(reads, result.answer["readings"], strict=True):
        readings[key, read] = Reading.model_validate(found)
        if readings[key, read].error is None:
            run.store(cell, read, readings[key, read])


def _key(run: PlannedRun, cell: PlannedCell) -> Key:
    seed = cell.cell.organism_seed
    assert seed is not None  # organisms of a registration are generated from seeds
    return run.name, cell.cell.method, seed


def _units(
    test: Inequality,
    registered: Registration,
    fits: Mapping[Key, Record | Reading],
    readings: Mapping[tuple[Key, str], Reading],
) -> list[Unit]:
    """The units of a test."""

    def read(term: Term, seed: int) -> Reading:
        key: Key = (term.run, term.method, seed)
        fit = fits[key]
        return fit if isinstance(fit, Reading) else reading_of(fit, term) or readings[key, term.read]

    return [
        Unit(
            organism_seed=seed,
            first=read(test.first, seed),
            second=None if test.second is None else read(test.second, seed),
        )
        for seed in registered.organism_seeds
    ]


def _pairs(fits: Mapping[Key, Record | Reading]) -> Iterator[PairSeen]:
    seen: set[tuple[str, int]] = set()
    for (run, _, seed), record in fits.items():
        if isinstance(record, Record) and (run, seed) not in seen:
            seen.add((run, seed))
            facts = record.pair
            at = next((layer for layer in facts.layers if layer.layer == facts.layer), None)
            yield PairSeen(
                run=run,
                organism=record.cell.organism,
                reference=record.cell.reference,
                layer=facts.layer,
                layer_rule=facts.layer_rule,
                kl=facts.kl,
                ceiling=at.ceiling if at is not None else Figure.not_applicable("not measured at this layer"),
            )
