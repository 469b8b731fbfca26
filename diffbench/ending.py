"""Ending: how a cell ended, from a Diff that is kept to the record that says so. The method is not needed here."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from diffbench.canonical import file_digest
from diffbench.dashboard import DASHBOARD
from diffbench.duration import Stage
from diffbench.exchange import HEADER, TENSORS
from diffbench.finding_evidence import EVIDENCE
from diffbench.fits import LOG_FILE, place_diff
from diffbench.grid import PlannedScore
from diffbench.line import one_line
from diffbench.panel import VERDICTS
from diffbench.record import Budget, Record, Rescored, Status, Timings
from diffbench.scores import Scores
from diffbench.sheet import SHEET
from diffbench.worker import Task, TaskResult
from diffbench.workers import Workers

PACKAGES = ("diffbench", "torch", "transformers", "safetensors", "tokenizers", "numpy", "pandas", "pydantic", "pluggy")
JUDGED = (EVIDENCE, SHEET, VERDICTS)
"""Files beside a record that its judge's scores follow from."""
OF_THE_DIFF = ("BudgetExceeded", "DiffError")
"""Errors of scoring that say what is wrong with a Diff: another try ends alike."""


@dataclass(frozen=True, slots=True)
class MethodCost:
    """What running a method cost, and how it was confined.

    Attributes:
        harvest_seconds: what the shared harvest cost; None: what it cost on the comparison that is scored on.
    """

    method_seconds: float
    peak_memory_mb: float
    sandbox: str
    usage: dict[str, int]
    harvest_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a cell ended.

    Attributes:
        seconds: that scoring took.
        hashes: SHA-256 of the Diff's files, where one is kept.
        judged: SHA-256 of the files that a judge's scores follow from, where there are scores.
        dashboard: SHA-256 of what is drawn of the cell, where there are scores.
        lasting: whether scoring it again would end alike.
    """

    status: Status
    reason: str | None
    scores: Scores | None = None
    seconds: float = 0.0
    hashes: dict[str, str] | None = None
    judged: dict[str, str] | None = None
    dashboard: str | None = None
    lasting: bool = True


def score_diff(
    workers: Workers, plan: PlannedScore, source: Path, tensors: str, kept: Path
) -> Generator[Task, None, Ending]:
    """Put a Diff into a cell's folder and score it there in the order that is asked for.

    Args:
        workers: run the task.
        plan: how to score.
        source: the folder that holds the Diff.
        tensors: SHA-256 of its tensors.
        kept: the cell's folder.
    """
    diff = place_diff(source, kept)
    request = plan.comparison.request() | {
        "judge": plan.judge.name,
        "seed": plan.cell.seed,
        "diff": str(diff.absolute()),
        "ranking": plan.cell.ranking,
    }
    task = workers.engine().submit("diffbench.score:score_task", request, log=kept / LOG_FILE)
    yield task
    result = task.wait()
    if result.ok and isinstance(result.answer, dict) and "not_applicable" in result.answer:
        shutil.rmtree(diff)
        return Ending("not_applicable", str(result.answer["not_applicable"]), None, result.seconds)
    hashes = {HEADER: file_digest(diff / HEADER), TENSORS: tensors}
    if result.ok and isinstance(result.answer, dict):
        workers.durations.note(score_stage(plan), result.seconds)
        judged = {name: file_digest(kept / name) for name in JUDGED if (kept / name).is_file()}
        scores = Scores.model_validate(result.answer["scores"])
        return Ending("ok", None, scores, result.seconds, hashes, judged, file_digest(kept / DASHBOARD))
    lasting = _is_of_the_diff(result)
    return Ending("error", f"scoring: {result.error}", None, result.seconds, hashes, lasting=lasting)


def score_stage(plan: PlannedScore) -> Stage:
    """The scoring of a Diff, as durations know it."""
    comparison = plan.comparison
    return "score", comparison.organism.recipe.base, comparison.tier.name, plan.judge.name, plan.cell.method


def _is_of_the_diff(result: TaskResult) -> bool:
    return result.user_error and (result.error or "").partition(":")[0] in OF_THE_DIFF


def record_of(
    plan: PlannedScore, cost: MethodCost, ending: Ending, started: str, rescored: Rescored | None = None
) -> Record:
    """The record of a cell on a prepared comparison."""
    comparison, tier = plan.comparison, plan.comparison.tier
    truth = comparison.truth()
    harvest = comparison.seconds() if cost.harvest_seconds is None else cost.harvest_seconds
    return Record(
        key=plan.key,
        fit=plan.fit,
        cell=plan.cell.model_copy(update={"changed": None if truth is None else truth.changed}),
        status=ending.status,
        reason=None if ending.reason is None else one_line(ending.reason),
        budget=Budget(tokens=tier.tokens, components=tier.components, seconds=tier.seconds),
        hashes=plan.hashes(ending.hashes, ending.judged, ending.dashboard),
        pair=comparison.facts(),
        scores=ending.scores,
        rescored=rescored,
        timings=Timings(
            started=started,
            method_seconds=cost.method_seconds,
            score_seconds=round(ending.seconds, 3),
            peak_memory_mb=cost.peak_memory_mb,
            harvest_seconds=round(harvest, 3),
            sandbox=cost.sandbox,
            usage=cost.usage,
            versions={name: version(name) for name in PACKAGES},
            platform=f"{platform.system()} {platform.machine()} python {platform.python_version()}",
        ),
    )


def utc_now() -> str:
    """Now, as records write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
