"""Runner: from a plan to all that its cells need: builds organisms, measures gates, prepares comparisons.

Every heavy stage is a task in a fresh, single-threaded process, so that the number of jobs changes no score. Finished
stages lie in the cache and finished cells in the run folder: a run that was killed goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffbench import cache
from diffbench.build import MODEL, ORGANISM, Organism, gate_task, train_task
from diffbench.cells import run_cells, stored_records
from diffbench.comparison import COMPARISON, CONTROLS, control_inputs, prepare_task
from diffbench.duration import Stage
from diffbench.errors import DiffbenchError, WorkerError
from diffbench.gate_report import GateReport
from diffbench.grid import PlannedScore
from diffbench.judge import Judge
from diffbench.plugins import provenance
from diffbench.worker import TaskResult
from diffbench.workers import Job, Work, Workers

__all__ = ["Workers", "build", "control_stage", "default_jobs", "distributions", "gate_stage", "needed", "prepare"]
__all__ += ["preparing_stage", "run_cells", "stored_records", "training_stage", "trusted", "unbuilt"]


def distributions(*classes: type[Any]) -> tuple[str, ...]:
    """The distributions that some plugin classes come from."""
    return tuple(sorted({provenance(cls).rpartition(" ")[0] for cls in classes}))


def trusted(organisms: Sequence[Organism], *judges: type[Judge]) -> tuple[str, ...]:
    """The distributions that bring what the engine's server needs of organisms and judges."""
    parts = [type(part) for organism in organisms for part in (organism.family, organism.base)]
    return distributions(*parts, *judges)


def unbuilt(organisms: Sequence[Organism]) -> list[tuple[Organism, str]]:
    """Organism and role of every model that is not there yet, each once."""
    wanted = {
        organism.model_key(role): (organism, role)
        for organism in organisms
        for role in organism.roles()
        if cache.finished(MODEL, organism.model_inputs(role)) is None
    }
    return list(wanted.values())


def training_stage(organism: Organism, role: str) -> Stage:
    """The training of a model, as durations know it."""
    return "train", organism.recipe.base, _kind(organism), role


def gate_stage(organism: Organism) -> Stage:
    """The measuring of a gate."""
    return "gate", organism.recipe.base, _kind(organism)


def preparing_stage(cell: PlannedScore) -> Stage:
    """The preparing of a comparison."""
    organism, tier = cell.comparison.organism, cell.comparison.tier
    return "prepare", organism.recipe.base, tier.name, _kind(organism)


def control_stage(cell: PlannedScore) -> Stage:
    """The judge's control on a comparison."""
    return "control", cell.comparison.organism.recipe.base, cell.comparison.tier.name, cell.cell.judge


def _kind(organism: Organism) -> str:
    """An organism's name without its seed."""
    return organism.recipe.name.partition("@")[0]


def build(organisms: Sequence[Organism], workers: Workers) -> list[GateReport | DiffbenchError]:
    """Make what is not there yet and measure every organism's gate; one that cannot be made does not stop the others.

    Returns:
        Of each organism its report, or why there is none.
    """
    failed: dict[str, DiffbenchError] = {}
    reports: dict[str, GateReport | DiffbenchError] = {}
    with cache.scratch() as logs:
        workers.run(
            "building",
            [
                Work(f"{organism.recipe.name} {role}", _train(workers, organism, role, logs, failed))
                for organism, role in unbuilt(organisms)
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
        seconds = needed(task.wait(), f"organism {organism.recipe.name}, {role}", log)
        workers.durations.note(training_stage(organism, role), seconds)
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
            seconds = needed(result, f"organism {name}, gate", logs / f"{name}-gate.log")
            workers.durations.note(gate_stage(organism), seconds)
        except DiffbenchError as error:
            reports[name] = error
            return
        stored = Path(result.answer["path"])
    report = GateReport.model_validate(cache.read_json(stored / "gate.json"))
    reports[name] = report.model_copy(update={"organism": name})


def prepare(cells: Sequence[PlannedScore], workers: Workers) -> dict[str, DiffbenchError]:
    """Prepare every comparison of some cells, and the judge's control on it.

    Returns:
        Why comparisons could not be prepared, by their keys; one that cannot be does not stop the others.
    """
    once: dict[str, dict[str, PlannedScore]] = {}
    for cell in cells:
        once.setdefault(cell.comparison.key, {})[cell.judge.name] = cell
    broken: dict[str, DiffbenchError] = {}
    with cache.scratch() as logs:
        jobs = [
            Work(next(iter(judges.values())).cell.organism, _prepare(workers, judges, key, logs / f"{key}.log", broken))
            for key, judges in once.items()
        ]
        workers.run("preparing", jobs)
    return broken


def _prepare(
    workers: Workers, judges: Mapping[str, PlannedScore], key: str, log: Path, broken: dict[str, DiffbenchError]
) -> Job:
    cell = next(iter(judges.values()))
    what = f"organism {cell.cell.organism} against {cell.cell.reference}"
    request = cell.comparison.request()
    try:
        if cache.finished(COMPARISON, cell.comparison.inputs()) is None:
            task = workers.engine().submit(_target(prepare_task), request, log=log)
            yield task
            workers.durations.note(preparing_stage(cell), needed(task.wait(), what, log))
        for judge, asked in judges.items():
            if cache.finished(CONTROLS, control_inputs(asked.comparison, asked.judge)) is None:
                task = workers.engine().submit("diffbench.score:control_task", request | {"judge": judge}, log=log)
                yield task
                workers.durations.note(control_stage(asked), needed(task.wait(), f"{what}, judge {judge}", log))
    except DiffbenchError as error:
        broken[key] = error


def needed(result: TaskResult, what: str, log: Path) -> float:
    """The seconds of an engine stage, or what ended it: a user's error as one line, a bug with the end of its log."""
    if result.ok:
        return result.seconds
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
