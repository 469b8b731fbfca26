"""Rescore: the finished cells of a run scored anew from their Diffs, without running a method again.

No method is looked up: a Diff that somebody published is re-scored without the code that made it. What must be there
is the pair, and it must be the one that the Diff is about.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffbench import cache, runner
from diffbench.atomic import new_folder
from diffbench.catalogue import find_organism
from diffbench.cells import cell_folder
from diffbench.comparison import CONTROLS, control_inputs
from diffbench.ending import Ending, record_of, score_diff, utc_now
from diffbench.errors import DiffbenchError, RecordError
from diffbench.fits import LOG_FILE, tended
from diffbench.grid import PlannedScore, plan_score
from diffbench.judge import Judge
from diffbench.line import error_line
from diffbench.plugins import find_judge, load_plugins, notify_cell_finished
from diffbench.prospect import prospect
from diffbench.quote import Quote
from diffbench.readiness import check_places, check_text
from diffbench.record import Record, read_record
from diffbench.run_folder import RECORD_FILE, read_run_file, refusal
from diffbench.stored_cell import KeptDiff, StoredCell, kept_diff, stored_cells
from diffbench.stored_pair import Pairs, check_layer, check_weights
from diffbench.workers import Job, Work, Workers


@dataclass(frozen=True, slots=True)
class Refused:
    """A cell that could not be re-scored, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class RescoreOutcome:
    """A run that was re-scored.

    Attributes:
        folder: the run folder.
        records: of all cells that could be: the new ones, and those that were up to date.
        reused: how many were up to date.
        refused: cells that keep what they had.
    """

    folder: Path
    records: tuple[Record, ...]
    reused: int
    refused: tuple[Refused, ...]

    @property
    def failed(self) -> tuple[Record, ...]:
        """Cells whose Diff cannot be scored."""
        return tuple(record for record in self.records if record.status == "error" and record.hashes.diff is not None)


@dataclass(frozen=True, slots=True)
class _Item:
    """One new record to be made.

    Attributes:
        old: the cells that it takes the place of; the first is read.
        diff: None: the method left none, and its record is carried over.
    """

    plan: PlannedScore
    old: tuple[StoredCell, ...]
    diff: KeptDiff | None


@dataclass(slots=True)
class _Progress:
    """What is known so far."""

    refused: list[Refused] = field(default_factory=list)
    done: dict[str, Record] = field(default_factory=dict)

    def refuse(self, stored: StoredCell, error: BaseException) -> None:
        self.refused.append(Refused(stored.name, error_line(error)))


def rescore(
    folder: Path,
    notify: Callable[[str, float], None],
    *,
    judge: str | None = None,
    organisms: Sequence[str] = (),
    jobs: int | None = None,
) -> RescoreOutcome:
    """Score every finished cell of a run anew, unless its scores follow from the code, pair and judge of today.

    Args:
        folder: the run folder.
        notify: gets a phrase and the fraction of the current stage that is done.
        judge: scores interpretability; None: the judge that did.
        organisms: names or recipes of the run's organisms, where they are not found by what the run says.
        jobs: processes side by side; None: one for each core.

    Raises:
        DiffbenchError: if this is no run folder, or judge or organisms are not known.
    """
    progress = _Progress()
    items, todo = _items(folder, judge, organisms, progress)
    reused = len(progress.done)
    if todo:
        _run(folder, todo, progress, notify, jobs or runner.default_jobs())
    with tended(folder):
        for item in items:
            if item.plan.key in progress.done:
                _remove_old(folder, item, progress)
    records = tuple(progress.done[item.plan.key] for item in items if item.plan.key in progress.done)
    return RescoreOutcome(folder, records, reused, tuple(progress.refused))


def foresee(folder: Path, judge: str | None = None, organisms: Sequence[str] = ()) -> tuple[int, Quote | None]:
    """How many cells would be scored, and what a judge that is paid would cost at most; nothing is done.

    Raises:
        DiffbenchError: as `rescore`.
    """
    _, todo = _items(folder, judge, organisms, _Progress())
    plans = [item.plan for item in todo if item.diff is not None]
    paid = {plan.judge: [one for one in plans if one.judge is plan.judge] for plan in plans if plan.judge.paid}
    quotes = []
    for by, cells in paid.items():
        pairs = {plan.comparison.key: control_inputs(plan.comparison, by) for plan in cells}
        new = sum(cache.finished(CONTROLS, inputs) is None for inputs in pairs.values())
        quotes.append(prospect(by(), len(cells), new))
    return len(todo), sum(quotes[1:], quotes[0]) if quotes else None


def _items(
    folder: Path, judge: str | None, organisms: Sequence[str], progress: _Progress
) -> tuple[list[_Item], list[_Item]]:
    """All records that the run would have, and those of them that are to be made."""
    file = read_run_file(folder)
    chosen = None if judge is None else find_judge(judge)
    pairs = Pairs(file, [find_organism(name) for name in organisms])
    groups = _groups(folder, pairs, chosen, progress).values()
    items = [item for group in groups if (item := _item(folder, group, progress)) is not None]
    return items, [item for item in items if not _is_current(folder, item, progress)]


def _groups(
    folder: Path, pairs: Pairs, judge: type[Judge] | None, progress: _Progress
) -> dict[str, list[tuple[PlannedScore, StoredCell]]]:
    """The readable cells by the key of the record that they will have."""
    groups: dict[str, list[tuple[PlannedScore, StoredCell]]] = {}
    for path, stored in stored_cells(folder):
        if isinstance(stored, RecordError):
            progress.refused.append(Refused(str(path.relative_to(folder)), error_line(stored)))
            continue
        try:
            by = judge or find_judge(stored.cell.judge.rpartition(" ")[0])
            plan = plan_score(stored.cell, stored.fit, pairs.comparison(stored), by, stored.origin.pair)
            plan = _with_baseline(plan, stored)
            groups.setdefault(plan.key, []).append((plan, stored))
        except DiffbenchError as error:
            progress.refuse(stored, error)
    return groups


def _with_baseline(plan: PlannedScore, stored: StoredCell) -> PlannedScore:
    """What older records do not say of a method; one that is not installed is none."""
    method = None if stored.current else load_plugins().methods.get(stored.cell.method)
    if method is None or not method.baseline:
        return plan
    return PlannedScore(
        comparison=plan.comparison,
        judge=plan.judge,
        cell=plan.cell.model_copy(update={"baseline": True}),
        fit=plan.fit,
        key=plan.key,
    )


def _item(folder: Path, group: list[tuple[PlannedScore, StoredCell]], progress: _Progress) -> _Item | None:
    """One record from a group: read from a cell that is up to date, else from the first whose Diff is as it was."""
    group.sort(key=lambda member: (member[1].key != member[0].key, member[1].status != "ok", member[1].path.name))
    problems: list[BaseException] = []
    for at, (plan, stored) in enumerate(group):
        try:
            diff = kept_diff(folder, stored)
        except (RecordError, OSError) as error:
            problems.append(error)
            continue
        others = tuple(other for _, other in group[:at] + group[at + 1 :])
        return _Item(plan, (stored, *others), diff)
    progress.refuse(group[0][1], problems[0])
    return None


def _is_current(folder: Path, item: _Item, progress: _Progress) -> bool:
    """Whether the first cell of an item has the record that would be made."""
    first = item.old[0]
    if not first.current or first.key != item.plan.key or first.path != cell_folder(folder, item.plan):
        return False
    if first.status == "error" and item.diff is not None:
        return False
    try:
        progress.done[item.plan.key] = read_record(first.path / RECORD_FILE)
    except RecordError:
        return False
    return True


def _run(folder: Path, todo: list[_Item], progress: _Progress, notify: Callable[[str, float], None], jobs: int) -> None:
    """Have the pairs, and score."""
    todo = [item for item in todo if _is_at_hand(item, progress)]
    organisms = {item.plan.comparison.organism.recipe.name: item.plan.comparison.organism for item in todo}
    trusted = runner.trusted(list(organisms.values()), *(item.plan.judge for item in todo))
    with runner.Workers(jobs=jobs, notify=notify, trusted=trusted) as workers:
        reports = dict(zip(organisms, runner.build(list(organisms.values()), workers), strict=True))
        ready = []
        for item in todo:
            name = item.plan.comparison.organism.recipe.name
            try:
                report = reports[name]
                if isinstance(report, DiffbenchError):
                    raise report
                report.require(name)
                check_weights(item.old[0], item.plan.comparison)
                ready.append(item)
            except DiffbenchError as error:
                progress.refuse(item.old[0], error)
        broken = runner.prepare([item.plan for item in ready], workers)
        works = [
            Work(item.old[0].name, _guarded(_score(workers, item, folder, progress), item, progress))
            for item in ready
            if _is_prepared(item, broken, progress)
        ]
        with tended(folder):
            workers.run("scoring", works)


def _is_prepared(item: _Item, broken: Mapping[str, DiffbenchError], progress: _Progress) -> bool:
    try:
        if item.plan.comparison.key in broken:
            raise broken[item.plan.comparison.key]
        check_layer(item.old[0], item.plan.comparison)
    except DiffbenchError as error:
        progress.refuse(item.old[0], error)
        return False
    return True


def _is_at_hand(item: _Item, progress: _Progress) -> bool:
    try:
        check_places(item.plan.comparison.organism)
        check_text(item.plan.comparison.organism)
    except DiffbenchError as error:
        progress.refuse(item.old[0], error)
        return False
    return True


def _guarded(job: Job, item: _Item, progress: _Progress) -> Job:
    """A job whose trouble costs its own cell alone."""
    try:
        yield from job
    except (DiffbenchError, OSError) as error:
        progress.refuse(item.old[0], error)


def _score(workers: Workers, item: _Item, folder: Path, progress: _Progress) -> Job:
    """Score a Diff in a draft of the cell's folder, which takes its place with everything in it."""
    started, stored, plan = utc_now(), item.old[0], item.plan
    target = cell_folder(folder, plan)
    with new_folder(target, replace=True) as draft:
        _copy_log(stored.path if item.diff is None else item.diff.folder, draft)
        if item.diff is None:
            ending = Ending(stored.status, stored.reason)
        else:
            ending = yield from score_diff(workers, plan, item.diff.folder, item.diff.tensors, draft)
        if not ending.lasting:
            raise RecordError(f"{ending.reason}; its old record stays")
        record = record_of(plan, stored.cost, ending, started, stored.origin)
        record.write(draft / RECORD_FILE)
    progress.done[plan.key] = record
    notify_cell_finished(record, target / RECORD_FILE)


def _copy_log(source: Path, draft: Path) -> None:
    log = source / LOG_FILE
    if refusal(log, stat.S_ISREG) is None and log.exists():
        shutil.copyfile(log, draft / LOG_FILE)


def _remove_old(folder: Path, item: _Item, progress: _Progress) -> None:
    """Remove the cells that a record took the place of; those of another judge or with another Diff stay beside it."""
    target, judge = cell_folder(folder, item.plan), item.plan.judge.name
    kept = (item.old[0].hashes.diff, progress.done[item.plan.key].hashes.diff)
    for stored in item.old:
        if stored.path != target and stored.cell.judge.rpartition(" ")[0] == judge:
            if stored.hashes.diff not in (None, *kept):  # without one there is nothing that could be scored again
                progress.refuse(stored, RecordError(f"has another Diff than {target.name}, which has its place"))
                continue
            hidden = stored.path.with_name(f".{secrets.token_hex(8)}")  # never half a cell under its own name
            os.replace(stored.path, hidden)
            shutil.rmtree(hidden, ignore_errors=True)
