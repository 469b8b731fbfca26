"""Study plan: the fits that some registered studies need, where they lie, and what has been measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from diffbench import cache, runner
from diffbench.atomic import write_text
from diffbench.build import Organism
from diffbench.campaign import RunConfig, planned
from diffbench.canonical import digest
from diffbench.comparison import SCORE_CODE
from diffbench.errors import DiffbenchError, RecordError
from diffbench.grid import PlannedCell
from diffbench.line import error_line
from diffbench.projection import project
from diffbench.record import Record, read_document
from diffbench.study import Reading, Registration, Study, Term
from diffbench.truth import Schema

MEASURE_CODE = tuple(
    sorted(
        {
            *SCORE_CODE,
            "diffbench.ablation",
            "diffbench.exclusive",
            "diffbench.interpolation",
            "diffbench.latent_scaling",
            "diffbench.latent_table",
            "diffbench.latents",
            "diffbench.measurement",
            "diffbench.overlap",
            "diffbench.rank_correlation",
            "diffbench.study",
            "diffbench.template_share",
            "diffbench.triples",
            "diffbench.worded",
        }
    )
)
"""Code that a measurement follows from, beside the fit's own."""
MEASUREMENTS, MEASUREMENT_BYTES = "measurements", 1 << 20
MEASURE_SECONDS = 4.0
"""What measuring a fit takes on one core at the registered tier, for the time that is told before."""


class Measurement(Schema):
    """A stored reading."""

    schema_version: Literal[1] = 1
    reading: Reading


@dataclass(frozen=True)
class PlannedRun:
    """The fits of one registered run that some studies need.

    Attributes:
        terms: what is read off the fits, each once.
        problem: why it cannot be run at all, such as a method that is not installed.
    """

    name: str
    config: RunConfig
    folder: Path
    terms: tuple[Term, ...]
    cells: tuple[PlannedCell, ...] = ()
    problem: str | None = None

    @cached_property
    def organisms(self) -> list[Organism]:
        """Of all seeds."""
        return list({cell.cell.organism: cell.comparison.organism for cell in self.cells}.values())

    @property
    def methods(self) -> tuple[str, ...]:
        """Each once."""
        return tuple(dict.fromkeys(term.method for term in self.terms))

    def cell(self, method: str, seed: int) -> PlannedCell:
        """The cell of a method on the organism of a seed; a run without a problem has one for each."""
        return next(c for c in self.cells if c.cell.method == method and c.cell.organism_seed == seed)

    def finished(self) -> dict[str, Record]:
        """The records of finished cells, by key."""
        return runner.stored_records(self.folder, self.cells)

    def measured(self, cell: PlannedCell) -> list[str]:
        """What has to be measured of a cell's fit."""
        return list(dict.fromkeys(t.read for t in self.terms if t.method == cell.cell.method and not t.in_record))

    def stored(self, cell: PlannedCell, read: str) -> Reading | None:
        """A quantity that was measured before."""
        path = self._path(cell, read)
        if not path.exists():
            return None
        try:
            return read_document(path, Measurement, MEASUREMENT_BYTES).reading
        except RecordError:
            return None

    def store(self, cell: PlannedCell, read: str, reading: Reading) -> None:
        """Keep a measured quantity."""
        path = self._path(cell, read)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, Measurement(reading=reading).model_dump_json(indent=1) + "\n")

    def _path(self, cell: PlannedCell, read: str) -> Path:
        inputs = {"stage": "measurement", "fit": cell.fit, "read": read, "code": cache.code_version(*MEASURE_CODE)}
        return self.folder / MEASUREMENTS / f"{digest(inputs)}.json"


@dataclass(frozen=True)
class Plan:
    """What a reproduction will do.

    Attributes:
        tier: the registered one, or another for a trial.
    """

    registered: Registration
    studies: tuple[Study, ...]
    runs: tuple[PlannedRun, ...]
    tier: str
    jobs: int

    @property
    def cells(self) -> list[tuple[PlannedRun, PlannedCell]]:
        """Of all runs."""
        return [(run, cell) for run in self.runs for cell in run.cells]

    def missing(self) -> list[tuple[PlannedRun, PlannedCell]]:
        """Cells that are not finished."""
        finished = {key for run in self.runs for key in run.finished()}
        return [(run, cell) for run, cell in self.cells if cell.key not in finished]

    def projected(self) -> float:
        """Seconds that it will take with so many jobs, by what such work took before.

        Runs share models and comparisons, which are made once; each run has fits of its own.
        """
        runs = [run for run in self.runs if run.cells]
        if not runs:
            return 0.0
        finished = {key: record for run in runs for key, record in run.finished().items()}
        cells = [cell for run in runs for cell in run.cells]
        organisms = {cell.cell.organism: cell.comparison.organism for cell in cells}
        shared = project(list(organisms.values()), cells, runs[0].folder, finished, self.jobs).time
        each = [project(run.organisms, run.cells, run.folder, run.finished(), self.jobs).time for run in runs]
        of_runs = sum(time.starting + time.methods + time.scoring + time.comparing for time in each)
        unmeasured = sum(any(run.stored(cell, r) is None for r in run.measured(cell)) for run, cell in self.cells)
        return shared.building + shared.preparing + of_runs + unmeasured * MEASURE_SECONDS / self.jobs


def plan(
    registered: Registration, names: Sequence[str], runs_dir: Path, *, tier: str | None = None, jobs: int | None = None
) -> Plan:
    """What the studies of some names need; nothing is run yet.

    Args:
        registered: the studies.
        names: of studies; none: all.
        runs_dir: where run folders lie.
        tier: another one than was registered, for a trial.
        jobs: processes side by side; None: one for each core.

    Raises:
        UnknownName: if there is no such study.
    """
    studies = registered.named(names)
    terms: dict[str, dict[Term, None]] = {}
    for term in (term for study in studies for test in study.tests for term in test.terms):
        terms.setdefault(term.run, {})[term] = None
    jobs, chosen = jobs or runner.default_jobs(), tier or registered.tier
    runs = [
        _planned_run(registered, name, tuple(terms[name]), runs_dir / f"reproduce-{name}", chosen, jobs)
        for name in registered.runs
        if name in terms
    ]
    return Plan(registered, studies, tuple(runs), chosen, jobs)


def _planned_run(
    registered: Registration, name: str, terms: tuple[Term, ...], folder: Path, tier: str, jobs: int
) -> PlannedRun:
    run = registered.runs[name]
    methods = tuple(dict.fromkeys(term.method for term in terms))
    config = RunConfig(
        organisms=(run.organism,),
        methods=methods,
        controls=False,
        options={method: run.methods[method] for method in methods if run.methods[method]},
        seeds=(registered.method_seed,),
        organism_seeds=registered.organism_seeds,
        references=(run.reference,),
        tier=tier,
        layer=run.layer,
        jobs=jobs,
    )
    try:
        return PlannedRun(name, config, folder, terms, tuple(planned(config, config.found())))
    except DiffbenchError as error:
        return PlannedRun(name, config, folder, terms, problem=error_line(error))
