"""Runner: from a plan to records. Builds, prepares, runs methods blind, scores, and writes each record last.

Every heavy stage is a task in a fresh, single-threaded process, so that the number of jobs changes no score. Finished
stages lie in the cache and finished cells in the run folder: a run that was killed goes on where it was.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diffbench import cache
from diffbench.build import MODEL, ORGANISM, Organism, gate_task, train_task
from diffbench.canonical import file_digest
from diffbench.cell import PRELOAD, MethodOutcome, finish_method, method_server, submit_method
from diffbench.comparison import COMPARISON, CONTROLS, control_inputs, prepare_task
from diffbench.errors import DiffbenchError, RecordError, WorkerError
from diffbench.exchange import DIFF, HEADER, TENSORS, assemble, keep_diff
from diffbench.gate_report import GateReport
from diffbench.grid import PlannedCell
from diffbench.line import one_line
from diffbench.plugins import ONLY, notify_cell_finished, provenance
from diffbench.record import Budget, Record, Scores, Status, Timings, read_record
from diffbench.run_folder import CELLS, RECORD_FILE, cell_folder_name
from diffbench.worker import Task, TaskResult, WorkServer, wait_any

ENGINE_PRELOAD = (*PRELOAD, "diffbench.finetune", "diffbench.score")
PACKAGES = ("diffbench", "torch", "transformers", "safetensors", "tokenizers", "numpy", "pandas", "pydantic", "pluggy")
POLL_SECONDS = 0.2

Notify = Callable[[str, float], None]
Job = Iterator[Task]
"""A generator of tasks: it is resumed when the task it yielded is done."""


@dataclass(slots=True)
class Workers:
    """The engine's own server and the one for methods, started when they are first needed.

    Attributes:
        jobs: tasks side by side.
        notify: gets a phrase and the fraction of the stage that is done.
        trusted: distributions, besides diffbench itself, that bring the families, bases and judge of the run.
    """

    jobs: int
    notify: Notify
    trusted: tuple[str, ...] = ()
    _stack: ExitStack = field(default_factory=ExitStack)
    _servers: dict[str, WorkServer] = field(default_factory=dict)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def engine(self) -> WorkServer:
        """Server for the engine's own stages. It holds truths and scores, so it loads only the plugins it needs."""
        env = dict(os.environ) | {ONLY: ",".join(self.trusted)}
        return self._server("engine", lambda: WorkServer(preload=ENGINE_PRELOAD, env=env))

    def methods(self) -> WorkServer:
        """Server for method processes."""
        return self._server("methods", method_server)

    def _server(self, name: str, make: Callable[[], WorkServer]) -> WorkServer:
        if name not in self._servers:
            self._servers[name] = self._stack.enter_context(make())
        return self._servers[name]

    def run(self, what: str, jobs: Sequence[tuple[str, Job]]) -> None:
        """Drive jobs to their end, ``self.jobs`` of them at a time."""
        waiting, finished = list(reversed(jobs)), 0
        running: dict[Task, tuple[str, Job]] = {}
        while waiting or running:
            while waiting and len(running) < self.jobs:
                name, job = waiting.pop()
                finished += self._advance(running, name, job)
            for task in wait_any(list(running), POLL_SECONDS):
                name, job = running.pop(task)
                finished += self._advance(running, name, job)
            self._tell(what, running, finished, len(jobs))

    @staticmethod
    def _advance(running: dict[Task, tuple[str, Job]], name: str, job: Job) -> int:
        task = next(job, None)
        if task is None:
            return 1
        running[task] = (name, job)
        return 0

    def _tell(self, what: str, running: dict[Task, tuple[str, Job]], finished: int, total: int) -> None:
        parts, done = [], float(finished)
        for task, (name, _) in running.items():
            phrase, fraction = task.progress() or ("", 0.0)
            parts.append(f"{name}: {phrase}" if phrase else name)
            done += fraction
        self.notify(f"{what} {finished}/{total} " + "; ".join(parts), done / max(1, total))


def distributions(*classes: type[Any]) -> tuple[str, ...]:
    """The distributions that some plugin classes come from."""
    return tuple(sorted({provenance(cls).rpartition(" ")[0] for cls in classes}))


def build(organisms: Sequence[Organism], workers: Workers) -> list[GateReport]:
    """Train what is not there yet and measure every organism's gate.

    Raises:
        DiffbenchError: if a model cannot be made.
    """
    wanted = {
        organism.model_key(role): (organism, role)
        for organism in organisms
        for role in organism.roles()
        if cache.finished(MODEL, organism.model_inputs(role)) is None
    }
    with cache.scratch() as logs:
        workers.run(
            "building",
            [
                (f"{organism.recipe.name} {role}", _train(workers, organism, role, logs))
                for organism, role in wanted.values()
            ],
        )
        reports: dict[str, GateReport] = {}
        workers.run("gate", [(o.recipe.name, _gate(workers, o, logs, reports)) for o in organisms])
    return [reports[organism.recipe.name] for organism in organisms]


def _train(workers: Workers, organism: Organism, role: str, logs: Path) -> Job:
    request = {"recipe": organism.recipe.model_dump(mode="json"), "role": role}
    task = workers.engine().submit(_target(train_task), request, log=logs / f"{organism.recipe.name}-{role}.log")
    yield task
    _need(task.wait(), f"organism {organism.recipe.name}, {role}", logs / f"{organism.recipe.name}-{role}.log")


def _gate(workers: Workers, organism: Organism, logs: Path, reports: dict[str, GateReport]) -> Job:
    name = organism.recipe.name
    stored = cache.finished(ORGANISM, organism.inputs())
    if stored is None:
        request = {"recipe": organism.recipe.model_dump(mode="json")}
        task = workers.engine().submit(_target(gate_task), request, log=logs / f"{name}-gate.log")
        yield task
        _need(task.wait(), f"organism {name}, gate", logs / f"{name}-gate.log")
        stored = cache.entry(ORGANISM, organism.inputs())
    report = GateReport.model_validate(cache.read_json(stored / "gate.json"))
    reports[name] = report.model_copy(update={"organism": name})


def prepare(cells: Sequence[PlannedCell], workers: Workers) -> None:
    """Prepare every comparison of some cells, and the judge's control on it.

    Raises:
        DiffbenchError: if one cannot be prepared.
    """
    once = {cell.comparison.key: cell for cell in cells}
    with cache.scratch() as logs:
        jobs = [(cell.cell.organism, _prepare(workers, cell, logs / f"{key}.log")) for key, cell in once.items()]
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


def run_cells(
    cells: Sequence[PlannedCell], folder: Path, workers: Workers, finished: Mapping[str, Record]
) -> list[Record]:
    """Run the cells whose key has no finished record, and return the records of all, in order."""
    done = dict(finished)
    jobs = [
        (f"{cell.cell.organism} {cell.cell.method} s{cell.cell.seed}", _run(workers, cell, folder, done))
        for cell in cells
        if cell.key not in finished
    ]
    workers.run("cells", jobs)
    return [done[cell.key] for cell in cells]


def cell_folder(folder: Path, cell: PlannedCell) -> Path:
    """Where a cell's files lie."""
    return folder / CELLS / cell_folder_name(cell.cell, cell.key)


def stored_records(folder: Path, cells: Sequence[PlannedCell]) -> dict[str, Record]:
    """By key and in order, the records of the cells that are finished under the same key and without an error."""
    found: dict[str, Record] = {}
    for cell in cells:
        with suppress(RecordError):
            record = read_record(cell_folder(folder, cell) / RECORD_FILE)
            if record.key == cell.key and record.status != "error":
                found[cell.key] = record
    return found


def _run(workers: Workers, cell: PlannedCell, folder: Path, done: dict[str, Record]) -> Job:
    try:
        yield from _run_cell(workers, cell, folder, done)
    except OSError as error:
        where = error.filename or cell_folder(folder, cell)
        raise RecordError(f"{where}: {error.strerror or error}; make room or remove it, and run again") from None


def _run_cell(workers: Workers, cell: PlannedCell, folder: Path, done: dict[str, Record]) -> Job:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    kept = cell_folder(folder, cell)
    kept.mkdir(parents=True, exist_ok=True)
    (kept / RECORD_FILE).unlink(missing_ok=True)
    organism, comparison = cell.comparison.organism, cell.comparison
    with cache.scratch() as work:
        inputs = assemble(
            work / "in",
            organism.model_path(comparison.reference),
            organism.model_path("tuned"),
            comparison.path / "in",
        )
        seed, tier = cell.cell.seed, comparison.tier
        task = submit_method(workers.methods(), inputs, work / "out", cell.method, cell.options, seed, tier)
        yield task
        outcome = finish_method(task, work / "out")
        _copy_log(work / "out.log", kept / "log.txt")
        status, reason, scores = outcome.status, outcome.error, None
        scored = 0.0
        if outcome.ok:
            try:
                diff = keep_diff(outcome.diff_folder, kept)
            except (DiffbenchError, OSError) as error:
                status, reason = "error", f"{type(error).__name__}: {error}"
            else:
                request = comparison.request() | {"judge": cell.judge.name, "seed": seed, "diff": str(diff.absolute())}
                task = workers.engine().submit("diffbench.score:score_task", request, log=kept / "log.txt")
                yield task
                result = task.wait()
                status, reason, scores = _scores(result)
                scored = result.seconds
    record = _record(cell, kept, (status, reason, scores), outcome, scored, started)
    path = kept / RECORD_FILE
    record.write(path)
    done[cell.key] = record
    notify_cell_finished(record, path)


def _scores(result: TaskResult) -> tuple[Status, str | None, Scores | None]:
    if not result.ok:
        return "error", f"scoring: {result.error}", None
    return "ok", None, Scores.model_validate(result.answer)


def _record(
    cell: PlannedCell,
    kept: Path,
    ending: tuple[Status, str | None, Scores | None],
    outcome: MethodOutcome,
    scored: float,
    started: str,
) -> Record:
    status, reason, scores = ending
    tier = cell.comparison.tier
    files = [kept / DIFF / name for name in (HEADER, TENSORS)]
    whole = all(file.is_file() for file in files)
    return Record(
        key=cell.key,
        cell=cell.cell,
        status=status,
        reason=None if reason is None else one_line(reason),
        budget=Budget(tokens=tier.tokens, components=tier.components, seconds=tier.seconds),
        hashes=cell.hashes({file.name: file_digest(file) for file in files} if whole else None),
        pair=cell.comparison.facts(),
        scores=scores,
        timings=Timings(
            started=started,
            method_seconds=round(outcome.seconds, 3),
            score_seconds=round(scored, 3),
            peak_memory_mb=round(outcome.peak_memory_mb, 1),
            harvest_seconds=round(cell.comparison.seconds(), 3),
            confinement=outcome.confinement,
            usage=outcome.usage,
            versions={name: version(name) for name in PACKAGES},
            platform=f"{platform.system()} {platform.machine()} python {platform.python_version()}",
        ),
    )


def _copy_log(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes()[-(1 << 20) :] if source.is_file() else b"")


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
