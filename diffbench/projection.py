"""Projection: what a run is going to do, and how long that will take on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffbench import cache, runner
from diffbench.build import ORGANISM, Organism
from diffbench.canonical import digest
from diffbench.cells import fit_folder, method_stage
from diffbench.comparison import COMPARISON, CONTROLS, control_inputs
from diffbench.duration import Durations, told, wall
from diffbench.ending import score_stage
from diffbench.fits import fits_of, stored_fit
from diffbench.grid import PlannedCell
from diffbench.prospect import prospect
from diffbench.quote import Quote
from diffbench.record import Cell, Record
from diffbench.run_folder import ProjectedTime

LEAST_TOLD = 20.0
"""Seconds under which nobody needs to be told how long a run will take."""

Step = Literal["finished", "score", "run"]
"""What a cell needs: nothing, its fit scored, or its method run first."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One cell of a plan.

    Attributes:
        seconds: on one core; of cells that share a fit the first has the method's.
    """

    cell: Cell
    step: Step
    seconds: float


@dataclass(frozen=True, slots=True)
class Projection:
    """What a run is going to do.

    Attributes:
        models: to be trained, as ``organism role``.
        comparisons: to be prepared, as ``organism against reference``.
        fits: methods to be run.
        judging: what a judge that is paid would cost at most; None: nothing.
    """

    cells: tuple[PlannedStep, ...]
    models: tuple[str, ...]
    comparisons: tuple[str, ...]
    fits: int
    time: ProjectedTime
    judging: Quote | None = None

    @property
    def worth_telling(self) -> bool:
        """Whether it takes long enough, or costs enough, that people want to know."""
        return self.time.total >= LEAST_TOLD or self.judging is not None

    def count(self, step: Step) -> int:
        """How many cells need that."""
        return sum(planned.step == step for planned in self.cells)

    def told(self) -> str:
        """``12 min for 45 cells (30 methods to run, 45 to score), 2 side by side``."""
        scored = len(self.cells) - self.count("finished")
        parts = [
            _several(self.count("finished"), "cell is", "cells are") + " finished" if self.count("finished") else "",
            _several(len(self.models), "model to train", "models to train") if self.models else "",
            _several(len(self.comparisons), "pair to prepare", "pairs to prepare") if self.comparisons else "",
            _several(self.fits, "method to run", "methods to run") if self.fits else "",
            _several(scored, "Diff to score", "Diffs to score") if scored else "",
        ]
        listed = ", ".join(filter(None, parts))
        cells = _several(len(self.cells), "cell", "cells")
        text = f"{told(self.time.total)} for {cells} ({listed}), {self.time.jobs} side by side"
        return text if self.judging is None else f"{text}; {self.judging}"


def project(
    organisms: Sequence[Organism],
    cells: Sequence[PlannedCell],
    folder: Path,
    finished: Mapping[str, Record],
    jobs: int,
    refit: bool = False,
) -> Projection:
    """What a run of these cells in a folder is going to do; nothing is started or made.

    Args:
        organisms: of the run.
        cells: what was asked for.
        folder: the run folder, there or not.
        finished: records of finished cells by key.
        jobs: pieces of work side by side.
        refit: methods are run again although their fits are finished.
    """
    durations = Durations()
    for stage, seconds in _of_folder(folder, organisms):
        durations.note(stage, seconds)
    todo = [cell for cell in cells if cell.key not in finished]
    models = runner.unbuilt(organisms) if todo else []
    gates = [one for one in organisms if todo and cache.finished(ORGANISM, one.inputs()) is None]
    pairs = {cell.comparison.key: cell for cell in todo}
    missing = {key: c for key, c in pairs.items() if cache.finished(COMPARISON, c.comparison.inputs()) is None}
    uncontrolled = [
        c for c in pairs.values() if cache.finished(CONTROLS, control_inputs(c.comparison, c.judge)) is None
    ]
    fits = {cell.fit: cell for cell in reversed(todo)}
    unfit = {key for key, cell in fits.items() if refit or stored_fit(fit_folder(folder, cell), key) is None}
    of_method = {key: durations.expected(method_stage(fits[key])) for key in unfit}
    steps = [_step(cell, fits, unfit, of_method, durations, finished) for cell in cells]
    scores = [durations.expected(score_stage(cell)) for cell in todo]
    training = [durations.expected(runner.training_stage(*model)) for model in models]
    gating = [durations.expected(runner.gate_stage(organism)) for organism in gates]
    preparing = [durations.expected(runner.preparing_stage(cell)) for cell in missing.values()]
    preparing += [durations.expected(runner.control_stage(cell)) for cell in uncontrolled]
    parts = {
        "starting": durations.expected(("start",)) if todo else 0.0,
        "building": wall(training, jobs) + wall(gating, jobs),
        "preparing": wall(preparing, jobs),
        "methods": wall(list(of_method.values()), jobs),
        "scoring": wall(scores, jobs),
        "comparing": wall([durations.expected(("consistency",))] * _rows_of_seeds(todo), jobs),
    }
    rounded = {name: round(seconds, 1) for name, seconds in parts.items()}
    return Projection(
        cells=tuple(steps),
        models=tuple(f"{organism.recipe.name} {role}" for organism, role in models),
        comparisons=tuple(f"{c.cell.organism} against {c.cell.reference}" for c in missing.values()),
        fits=len(unfit),
        time=ProjectedTime(jobs=jobs, total=round(sum(parts.values()), 1), **rounded),
        judging=_judging(todo, len(uncontrolled)),
    )


def _judging(todo: Sequence[PlannedCell], n_pairs: int) -> Quote | None:
    """What the judge would cost, of a run that has one judge."""
    judge = todo[0].judge if todo else None
    return prospect(judge(), len(todo), n_pairs) if judge is not None and judge.paid else None


def _step(
    cell: PlannedCell,
    first: Mapping[str, PlannedCell],
    unfit: set[str],
    of_method: Mapping[str, float],
    durations: Durations,
    finished: Mapping[str, Record],
) -> PlannedStep:
    if cell.key in finished:
        return PlannedStep(cell.cell, "finished", 0.0)
    seconds = durations.expected(score_stage(cell))
    if cell.fit in unfit and first[cell.fit] is cell:
        return PlannedStep(cell.cell, "run", seconds + of_method[cell.fit])
    return PlannedStep(cell.cell, "score", seconds)


def _rows_of_seeds(todo: Sequence[PlannedCell]) -> int:
    """How many rows will have several seeds to be compared."""
    seeds: dict[str, set[int]] = {}
    for cell in todo:
        row = digest([cell.comparison.key, cell.cell.row, cell.cell.options])
        seeds.setdefault(row, set()).add(cell.cell.seed)
    return sum(len(found) > 1 for found in seeds.values())


def _of_folder(folder: Path, organisms: Sequence[Organism]) -> Iterator[tuple[tuple[str, ...], float]]:
    """What the finished fits of a run folder took, which may have been copied from another machine."""
    bases = {organism.recipe.name: organism.recipe.base for organism in organisms}
    for _, fit, _ in fits_of(folder):
        if fit is not None and fit.organism in bases:
            yield ("method", bases[fit.organism], fit.tier, fit.method, digest(fit.options)), fit.seconds


def _several(n: int, one: str, more: str) -> str:
    return f"{n:,} {one if n == 1 else more}"
