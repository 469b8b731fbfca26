"""Seed group: the cells of a run that differ in their method seed alone, and the file of what these have in common.

::

    runs/NAME/consistency/<organism>--<method@ranking>--<reference>--<key8>.json
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from diffbench import cache
from diffbench.agreement import Agreement, ConsistencyFile
from diffbench.atomic import write_text
from diffbench.canonical import digest
from diffbench.comparison import CODE, COMPARISON, Comparison
from diffbench.duration import Stage
from diffbench.errors import DiffbenchError, RecordError, WorkerError
from diffbench.exchange import DIFF, HEADER, TENSORS
from diffbench.grid import PINNED
from diffbench.record import Cell, Record, read_document
from diffbench.run_folder import CELLS, CONSISTENCY, cell_folder_name, refusal, safe_name
from diffbench.stored_cell import diff_digests
from diffbench.workers import Job, Work, Workers

FILE_BYTES = 4 << 20
CONSISTENCY_CODE = (
    *CODE,
    "diffbench.activity",
    "diffbench.agreement",
    "diffbench.alignment",
    "diffbench.consistency",
    "diffbench.rank_correlation",
    "diffbench.diff_file",
)
"""Code that a consistency file follows from."""
RANDOM = PINNED[-1]

PairOf = Callable[[Record], Comparison | None]


@dataclass(frozen=True, slots=True)
class SeedGroup:
    """Finished cells that differ in their seed alone, in its order.

    Attributes:
        controls: the cells of the random dictionary on the same pair.
        comparison: the pair, if it is prepared on this machine.
    """

    records: tuple[Record, ...]
    controls: tuple[Record, ...]
    comparison: Comparison | None

    @property
    def cell(self) -> Cell:
        """What was asked for, by the first seed."""
        return self.records[0].cell

    @property
    def name(self) -> str:
        """As people are told of it."""
        seeds = ", ".join(str(record.cell.seed) for record in self.records)
        return f"{self.cell.organism} {self.cell.row} seeds {seeds}"

    @property
    def key(self) -> str:
        """SHA-256 of the Diffs that are compared and of the code that does."""
        return self._key(self.comparison is not None)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the files that will do, the best first: one that was made where the pair is prepared has all."""
        return self._key(True), self.key

    def _key(self, prepared: bool) -> str:
        return digest(
            {
                "stage": "consistency",
                "row": _row(self.records[0]),
                "diffs": [[record.cell.seed, record.hashes.diff] for record in self.records],
                "controls": [[record.cell.seed, record.hashes.diff] for record in self.controls],
                "prepared": prepared,
                "code": cache.code_version(*CONSISTENCY_CODE),
                "libraries": cache.libraries(),
            }
        )

    def path(self, folder: Path, key: str) -> Path:
        """Its file of that key in a run folder."""
        parts = (self.cell.organism, self.cell.row, self.cell.reference, key[:8])
        return folder / CONSISTENCY / ("--".join(map(safe_name, parts)) + ".json")


@dataclass(frozen=True, slots=True)
class Compared:
    """A group with what was found, or why there is nothing."""

    group: SeedGroup
    file: ConsistencyFile | None
    problem: str | None = None


def seed_groups(records: Sequence[Record], pair_of: PairOf) -> list[SeedGroup]:
    """The rows of some records that have two method seeds or more, in the order of their names.

    Where records differ in their judge alone, or in the code that ran, the newest of a seed counts.

    Args:
        records: of one run.
        pair_of: the comparison of a record; None: it cannot be had.
    """
    rows: dict[str, dict[int, Record]] = {}
    for record in sorted(records, key=lambda record: (record.timings.started, record.key)):
        if record.status == "ok" and record.hashes.diff is not None:
            rows.setdefault(_row(record), {})[record.cell.seed] = record
    groups = []
    for found in rows.values():
        if len(found) < 2:
            continue
        members = tuple(found[seed] for seed in sorted(found))
        comparison = pair_of(members[0])
        prepared = comparison is not None and cache.finished(COMPARISON, comparison.inputs()) is not None
        groups.append(SeedGroup(members, _controls(members[0], rows), comparison if prepared else None))
    return sorted(groups, key=lambda group: (group.cell.organism, group.cell.reference, group.cell.row, group.key))


def stored(folder: Path, group: SeedGroup) -> ConsistencyFile | None:
    """What was found of a group before, if it was of the same Diffs by the same code."""
    for key in group.keys:
        path = group.path(folder, key)
        if refusal(path.parent, stat.S_ISDIR) or refusal(path, stat.S_ISREG) or not path.exists():
            continue
        with suppress(RecordError):
            file = read_document(path, ConsistencyFile, FILE_BYTES)
            if file.key == key:
                return file
    return None


def compare(groups: Sequence[SeedGroup], folder: Path, workers: Workers) -> list[Compared]:
    """Compare the seeds of every group, write the files, and return what was found, in order."""
    found: dict[str, Compared] = {}
    with cache.scratch() as logs:
        works = [
            Work(group.name, _guarded(group, _compare(group, folder, workers, logs / f"{group.key}.log", found), found))
            for group in groups
        ]
        workers.run("comparing seeds", works)
    return [found[group.key] for group in groups]


def stage(group: SeedGroup) -> Stage:
    """The comparing of a group's seeds, as durations know it."""
    return "consistency", group.cell.tier, group.cell.method


def _guarded(group: SeedGroup, job: Job, found: dict[str, Compared]) -> Job:
    """A job whose trouble costs its own row alone."""
    try:
        yield from job
    except (DiffbenchError, OSError) as error:
        found[group.key] = Compared(group, None, str(error))


def _compare(group: SeedGroup, folder: Path, workers: Workers, log: Path, found: dict[str, Compared]) -> Job:
    problem = refusal(folder / CONSISTENCY, stat.S_ISDIR)
    if problem is not None:
        raise RecordError(f"{folder / CONSISTENCY}: {problem}")
    request = {
        "diffs": [str(_diff(folder, record)) for record in group.records],
        "controls": [str(_diff(folder, record)) for record in group.controls],
        "strangers": list(_strangers(group)),
        "comparison": None if group.comparison is None else group.comparison.request(),
    }
    task = workers.engine().submit("diffbench.consistency:consistency_task", request, log=log)
    yield task
    result = task.wait()
    if not result.ok or not isinstance(result.answer, dict):
        raise WorkerError(result.error or "no answer")
    workers.durations.note(stage(group), result.seconds)
    cell = group.cell
    file = ConsistencyFile(
        key=group.key,
        organism=cell.organism,
        organism_version=cell.organism_version,
        reference=cell.reference,
        tier=cell.tier,
        pair=group.records[0].hashes.pair,
        method=cell.method,
        method_version=cell.method_version,
        ranking=cell.ranking,
        options=cell.options,
        control=cell.control,
        seeds=tuple(record.cell.seed for record in group.records),
        fits=tuple(record.fit for record in group.records),
        agreement=Agreement.model_validate(result.answer["agreement"]),
    )
    document = json.dumps(file.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(group.path(folder, group.key), document + "\n")
    found[group.key] = Compared(group, file)


def _row(record: Record) -> str:
    """What the records of one row have in common, on one pair."""
    cell = record.cell
    names = {"organism", "organism_version", "reference", "method", "method_version", "ranking", "options", "tier"}
    return digest([cell.model_dump(mode="json", include=names), record.hashes.pair])


def _controls(record: Record, rows: dict[str, dict[int, Record]]) -> tuple[Record, ...]:
    """The random dictionary's cells on the same pair, in its own order."""
    for found in rows.values():
        [first, *_] = found.values()
        same = first.hashes.pair == record.hashes.pair and first.cell.reference == record.cell.reference
        if same and first.cell.method == RANDOM and first.cell.ranking is None:
            return tuple(found[seed] for seed in sorted(found))
    return ()


def _strangers(group: SeedGroup) -> Iterator[tuple[int, int]]:
    """Which seed and which control are not of the same fit or seed of the random dictionary."""
    for a, record in enumerate(group.records):
        for b, control in enumerate(group.controls):
            if record.cell.method != RANDOM or record.cell.seed != control.cell.seed:
                yield a, b


def _diff(folder: Path, record: Record) -> Path:
    """The folder of a cell's Diff, unchanged since it was scored.

    Raises:
        RecordError: if it is missing or another one.
    """
    cell = folder / CELLS / cell_folder_name(record.cell, record.key)
    problem = refusal(folder / CELLS, stat.S_ISDIR) or refusal(cell, stat.S_ISDIR)
    if problem is None and diff_digests(cell) != record.hashes.diff:
        problem = "missing or changed since it was scored"
    if problem is not None or set(record.hashes.diff or ()) != {HEADER, TENSORS}:
        raise RecordError(f"seed {record.cell.seed}: its Diff ({cell / DIFF}): {problem}")
    return (cell / DIFF).absolute()
