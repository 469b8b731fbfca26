"""Steering run: a finished cell's components steered with, in a process that loads its pair, written into its run."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffbench import cache, runner
from diffbench.build import stored_truth
from diffbench.catalogue import find_organism
from diffbench.cell_choice import CellChoice, choose_cell
from diffbench.comparison import COMPARISON, SCORE_CODE, Comparison, prepare_task
from diffbench.errors import DiffbenchError, OptionError, RecordError, UnknownName
from diffbench.exchange import DIFF
from diffbench.readiness import check_places, check_text
from diffbench.record import Cell
from diffbench.run_folder import read_run_file, refusal
from diffbench.steering_file import STEERING, STEERING_FILE, SteeringFile, SteeringPlan, read_steering, write_steering
from diffbench.stored_cell import StoredCell, kept_diff
from diffbench.stored_pair import Pairs, check_layer, check_weights
from diffbench.truth import Claim, Truth
from diffbench.workers import Job, Work, Workers

Notify = Callable[[str, float], None]

STEERING_CODE = (*SCORE_CODE, "diffbench.spoken", "diffbench.steering_trial")
"""Code that the figures follow from."""


def steer(choice: CellChoice, plan: SteeringPlan, run: Path, notify: Notify) -> tuple[Path, SteeringFile]:
    """Steer with a finished cell's components, unless that was done before, and say where it is written.

    Args:
        choice: the cell; its organism is a name, or the path of a recipe.
        plan: what is asked for.
        run: the run folder.
        notify: gets a phrase and the fraction of the current stage that is done.

    Raises:
        DiffbenchError: if run, cell or organism are not there, the pair is not the one of then, its truth says that
            nothing was changed, or the Diff has nothing to steer with.
    """
    is_file = choice.organism.endswith((".yaml", ".yml")) or "/" in choice.organism
    named = (find_organism(choice.organism),) if is_file else ()
    if named:
        choice = choice.model_copy(update={"organism": named[0].recipe.name})
    file_of_run = read_run_file(run)
    stored = choose_cell(choice, run)
    diff = kept_diff(run, stored)
    if diff is None or stored.hashes.diff is None:
        raise RecordError(f"{stored.name}: it has no Diff")
    comparison = Pairs(file_of_run, named).comparison(stored)
    if (problem := refusal(run / STEERING, stat.S_ISDIR)) is not None:
        raise RecordError(f"{run / STEERING}: {problem}")
    check_places(comparison.organism)
    check_text(comparison.organism)
    file = SteeringFile(
        cell=stored.cell,
        key=stored.key,
        diff=stored.hashes.diff,
        layer=stored.layer,
        plan=plan,
        code=cache.code_version(*STEERING_CODE),
    )
    path = run / STEERING / file.folder / STEERING_FILE
    if refusal(path, stat.S_ISREG) is None and path.exists():
        return path, read_steering(path)
    request = {
        **comparison.request(),
        "steering": file.model_dump(mode="json"),
        "diff": str((diff.folder / DIFF).absolute()),
        "run": str(run.absolute()),
    }
    _with_models(stored, comparison, request, notify)
    return path, read_steering(path)


def steering_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: steer and write. Request: `Comparison.request`, steering (a file without claims), diff, run."""
    from diffbench.bench import Bench
    from diffbench.diff import WeightDiff
    from diffbench.diff_file import load_diff
    from diffbench.steering_trial import SteeringTrial
    from diffbench.worker import report

    file = SteeringFile.model_validate(request["steering"])
    diff = load_diff(Path(request["diff"]))
    bench = Bench.open(Comparison.of(request), "offline", apart=isinstance(diff, WeightDiff))
    claims = asked_claims(bench.truth, file.plan.claims, file.cell)
    trial = SteeringTrial(bench, diff, file.layer, file.plan)
    done = []
    for index, claim in enumerate(claims):
        report(f"steering: {claim.id}", index / len(claims))
        assert bench.truth is not None  # there are claims
        words = {*claim.effect.tokens_up, *(word for _, word in claim.effect.pairs)}
        near = [probe for probe in bench.truth.probes.near_miss if probe.other in words]
        done.append(trial.claim(claim, bench.truth.probes.of(claim.id), near))
    write_steering(Path(request["run"]), file.model_copy(update={"claims": tuple(done)}))
    return {}


def asked_claims(truth: Truth | None, asked: tuple[str, ...], cell: Cell) -> tuple[Claim, ...]:
    """The claims that are steered for.

    Raises:
        OptionError: if nobody knows what was changed, or nothing was.
        UnknownName: for a claim that there is not.
    """
    if truth is None or not truth.claims:
        why = "nobody knows what was changed in it" if truth is None else "nothing was changed in it"
        raise OptionError(f"organism: {cell.organism}: {why}, so there is no claim to steer for")
    known = {claim.id: claim for claim in truth.claims}
    for name in asked:
        if name not in known:
            raise UnknownName(f"claim of {cell.organism}", name, known)
    return tuple(known[name] for name in asked) or truth.claims


def _with_models(stored: StoredCell, comparison: Comparison, request: Mapping[str, Any], notify: Notify) -> None:
    """Build and prepare what is not there, and steer."""
    organism = comparison.organism
    with runner.Workers(jobs=1, notify=notify, trusted=runner.trusted([organism])) as workers:
        [report] = runner.build([organism], workers)
        if isinstance(report, DiffbenchError):
            raise report
        report.require(organism.recipe.name)
        check_weights(stored, comparison)
        asked_claims(stored_truth(organism), tuple(request["steering"]["plan"]["claims"]), stored.cell)
        with cache.scratch() as logs:
            if cache.finished(COMPARISON, comparison.inputs()) is None:
                workers.run("preparing", [Work(stored.name, _job(workers, prepare_task, comparison.request(), logs))])
            check_layer(stored, comparison)
            workers.run("steering", [Work(stored.name, _job(workers, steering_task, request, logs))])


def _job(workers: Workers, function: Callable[..., Any], request: Mapping[str, Any], logs: Path) -> Job:
    log = logs / f"{function.__name__}.log"
    task = workers.engine().submit(f"{function.__module__}:{function.__qualname__}", request, log=log)
    yield task
    runner.needed(task.wait(), "steering", log)
