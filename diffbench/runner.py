"""Runner: from a plan to all that its cells need: builds organisms, measures gates, prepares comparisons.

Every heavy stage is a task in a fresh, single-threaded process, so that the number of jobs changes no score. Finished
stages lie in the cache and finished cells in the run folder: a run that was killed goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffbench import cache
from diffbench.build import MODEL, ORGANISM, Organism, gate_task, train_task
from diffbench.cells import run_cells, stored_records
from diffbench.comparison import COMPARISON, CONTROLS, control_inputs, prepare_task
from diffbench.errors import DiffbenchError, WorkerError
from diffbench.gate_report import GateReport
from diffbench.grid import PlannedCell
from diffbench.plugins import provenance
from diffbench.worker import TaskResult
from diffbench.workers import Job, Work, Workers

__all__ = ["Workers", "build", "default_jobs", "distributions", "prepare", "run_cells", "stored_records"]


def distributions(*classes: type[Any]) -> tuple[str, ...]:
    """The distributions that some plugin classes come from."""
    return tuple(sorted({provenance(cls).rpartition(" ")[0] for cls in classes}))


def build(organisms: Sequence[Organism], workers: Workers) -> list[GateReport | DiffbenchError]:
    """Make what is not there yet and measure every organism's gate; one that cannot be made does not stop the others.

    Returns:
        Of each organism its report, or why there is none.
    """
    wanted = {
        organism.model_key(role): (organism, role)
        for organism in organisms
        for role in organism.roles()
        if cache.finished(MODEL, organism.model_inputs(role)) is None
    }
    failed: dict[str, DiffbenchError] = {}
    reports: dict[str, GateReport | DiffbenchError] = {}
    with cache.scratch() as logs:
        workers.run(
            "building",
            [
                Work(f"{organism.recipe.name} {role}", _train(workers, organism, role, logs, failed))
                for organism, role in wanted.values()
            ],
        )
        workers.run("gate", [Work(o.recipe.name, _gate(workers, o, logs, failed, reports)) for o in organisms])
    return [reports[organism.recipe.name] for organism in organisms]


def _train(workers: Workers, organism: Organism, role: str, logs: Path, failed: dict[str, DiffbenchError]) -> Job:
    log = logs / f"{organism.recipe.name}-{role}.log"
    request = {"recipe": organism.recipe.model_dump(mode="json"), "role": role}
    task = workers.engine().submit(_target(train_task), request, log=log)
    yield task
    try:
        _need(task.wait(), f"organism {organism.recipe.name}, {role}", log)
    except DiffbenchError as error:
        failed[organism.model_key(role)] = error


def _gate(
    workers: Workers,
    organism: Organism,
    logs: Path,
    failed: dict[str, DiffbenchError],
    reports: dict[str, GateReport | DiffbenchError],
) -> Job:
    name = organism.recipe.name
    broken = next((failed[key] for key in map(organism.model_key, organism.roles()) if key in failed), None)
    if broken is not None:
        reports[name] = broken
        return
    stored = cache.finished(ORGANISM, organism.inputs())
    if stored is None:
        request = {"recipe": organism.recipe.model_dump(mode="json")}
        task = workers.engine().submit(_target(gate_task), request, log=logs / f"{name}-gate.log")
        yield task
        result = task.wait()
        try:
            _need(result, f"organism {name}, gate", logs / f"{name}-gate.log")
        except DiffbenchError as error:
            reports[name] = error
            return
        stored = Path(result.answer["path"])
    report = GateReport.model_validate(cache.read_json(stored / "gate.json"))
    reports[name] = report.model_copy(update={"organism": name})


def prepare(cells: Sequence[PlannedCell], workers: Workers) -> None:
    """Prepare every comparison of some cells, and the judge's control on it.

    Raises:
        DiffbenchError: if one cannot be prepared.
    """
    once = {cell.comparison.key: cell for cell in cells}
    with cache.scratch() as logs:
        jobs = [Work(cell.cell.organism, _prepare(workers, cell, logs / f"{key}.log")) for key, cell in once.items()]
        workers.run("preparing", jobs)


def _prepare(workers: Workers, cell: PlannedCell, log: Path) -> Job:
    what = f"organism {cell.cell.organism} against {cell.cell.reference}"
    request = cell.comparison.request()
    if cache.finished(COMPARISON, cell.comparison.inputs()) is None:
        task = workers.engine().submit(_target(prepare_task), request, log=log)
        yield task
        _need(task.wait(), what, log)
    if cache.finished(CONTROLS, control_inputs(cell.comparison, cell.judge)) is None:
        task = workers.engine().submit("diffbench.score:control_task", request | {"judge": cell.judge.name}, log=log)
        yield task
        _need(task.wait(), f"{what}, judge {cell.judge.name}", log)


def _need(result: TaskResult, what: str, log: Path) -> None:
    """Raise what ended an engine stage: a user's error as one line, a bug with the end of its log."""
    if result.ok:
        return
    if result.user_error:
        raise DiffbenchError((result.error or what).partition(": ")[2] or what)  # without the name of the class
    tail = log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.is_file() else ""
    if result.kind == "raised":
        raise RuntimeError(f"{what}: {result.error}\n{tail}")
    raise WorkerError(f"{what}: {result.error}")


def _target(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def default_jobs() -> int:
    """As many jobs as this process may use cores."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
