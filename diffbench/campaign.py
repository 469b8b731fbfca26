"""Campaign: from what a user asks for to a run folder with finished records.

Not named ``run``: that is a function of the package, and a module of the name would take its place once imported.
"""

from __future__ import annotations

import logging
import platform
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from diffbench import runner
from diffbench.build import Organism, resolve
from diffbench.catalogue import find_organism
from diffbench.comparison import Comparison, HarvestDtype
from diffbench.ending import utc_now
from diffbench.errors import DiffbenchError, OptionError, RecordError
from diffbench.gate_report import GateReport
from diffbench.grid import PINNED, PlannedCell, plan
from diffbench.own_pair import OwnPair
from diffbench.plugins import find_judge
from diffbench.projection import Projection, project
from diffbench.readiness import check_places, check_text
from diffbench.record import Record
from diffbench.run_folder import (
    CELLS,
    CONSISTENCY,
    FITS,
    GAMES,
    RUN_FILE,
    ProjectedTime,
    Provenance,
    Run,
    RunFile,
    read_run_file,
    write_run_file,
)
from diffbench.seed_group import compare, seed_groups, stored
from diffbench.tier import find_tier
from diffbench.truth import Schema

logger = logging.getLogger(__name__)

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
LARGEST_SEED = 2**63 - 1
MethodSeed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class RunConfig(Schema):
    """What a run is asked for; everything else follows from it."""

    organisms: tuple[str, ...] = Field((), description="names or paths of recipes")
    pair: OwnPair | None = Field(None, description="two models of one's own, instead of organisms")
    methods: tuple[str, ...] = Field(
        (),
        description="names, or name@column for a method's latents in the order of a column; none means all installed",
    )
    controls: bool = Field(True, description="run the controls that every table pins beside the named methods")
    options: dict[str, dict[str, Any]] = Field(default_factory=dict, description="passed options by method")
    seeds: tuple[MethodSeed, ...] = Field((0,), min_length=1, description="method seeds")
    organism_seeds: tuple[int, ...] = Field(
        (), description="seeds that fresh organisms are generated from; none: the recipes' own"
    )
    references: tuple[Literal["base", "control"], ...] = Field(("base",), min_length=1)
    tier: str = "laptop"
    judge: str = "offline"
    layer: int | None = Field(None, ge=0, description="None: by the rule")
    harvest_dtype: HarvestDtype = Field("float32", description="what the models compute activations in")
    streaming: bool = Field(False, description="train on rows made on the fly; store a sample of them only")
    jobs: int | None = Field(None, ge=1, description="None: one for each core")

    def found(self) -> list[Organism]:
        """The organisms, or the pair as one.

        Raises:
            OptionError: if neither is named, or both are.
            DiffbenchError: as `find_organisms`.
        """
        if bool(self.organisms) == (self.pair is not None):
            raise OptionError("name either organisms (--organism NAME) or two models (--base A --tuned B), not both")
        if self.pair is None:
            return find_organisms(self.organisms, self.organism_seeds)
        if self.organism_seeds:
            raise OptionError("--organism-seeds: two models that are there already cannot be generated anew")
        return [resolve(self.pair.recipe())]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A finished run.

    Attributes:
        reused: cells that were finished before.
        time: projected and measured; None: nothing had to be done.
    """

    folder: Path
    records: tuple[Record, ...]
    reused: int
    time: ProjectedTime | None = None

    @property
    def failed(self) -> tuple[Record, ...]:
        """Cells that ended in an error."""
        return tuple(record for record in self.records if record.status == "error")

    def run(self) -> Run:
        """The cells that were asked for, as a run; those that an earlier command left in the folder are left out."""
        return Run(self.folder, read_run_file(self.folder), self.records, (), ())


@dataclass(frozen=True, slots=True)
class _Task:
    """A run that may start: everything that can be checked before is."""

    organisms: list[Organism]
    cells: list[PlannedCell]
    finished: dict[str, Record]
    jobs: int


def execute(
    config: RunConfig,
    folder: Path,
    *,
    passed: dict[str, Any],
    argv: tuple[str, ...],
    notify: Callable[[str, float], None],
    overwrite: bool = False,
) -> RunOutcome:
    """Build, prepare, run and score all cells of a run; cells that are finished under the same key are reused.

    Args:
        config: what to run.
        folder: the run folder; made if missing.
        passed: the part of the configuration that the user gave.
        argv: the command line, for the run file.
        notify: gets a phrase and the fraction of the current stage that is done.
        overwrite: run finished cells again, their methods too.

    Raises:
        DiffbenchError: for anything that keeps the run from starting: unknown names, wrong options, a failed gate.
    """
    task = _checked(config, folder, overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"{folder}: cannot be made ({error.strerror}); choose another --runs-dir") from None
    trusted = runner.trusted(task.organisms, find_judge(config.judge))
    if len(task.finished) == len(task.cells):
        _compare_seeds(task, list(task.finished.values()), folder, lambda: _workers(task, notify, trusted))
        return RunOutcome(folder=folder, records=tuple(task.finished.values()), reused=len(task.finished))
    projection = project(task.organisms, task.cells, folder, task.finished, task.jobs, overwrite)
    if projection.worth_telling:
        logger.info("projected: %s", projection.told())
    started, file = time.monotonic(), _run_file(folder, config, passed, argv, projection.time)
    try:
        with _workers(task, notify, trusted) as workers:
            for organism, report in zip(task.organisms, runner.build(task.organisms, workers), strict=True):
                if isinstance(report, DiffbenchError):
                    raise report
                report.require(organism.recipe.name)
            for broken in runner.prepare(task.cells, workers).values():
                raise broken
            _write(folder, file)
            records = runner.run_cells(task.cells, folder, workers, task.finished, refit=overwrite)
            _compare_seeds(task, records, folder, lambda: nullcontext(workers))
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # which only an empty folder lets happen: a run that was refused leaves nothing
        raise
    measured = projection.time.model_copy(update={"measured": round(time.monotonic() - started, 1)})
    _write(folder, file.model_copy(update={"time": measured}))
    return RunOutcome(folder=folder, records=tuple(records), reused=len(task.finished), time=measured)


def foresee(config: RunConfig, folder: Path, overwrite: bool = False) -> Projection:
    """What `execute` would do, without doing any of it.

    Raises:
        DiffbenchError: for what would keep it from starting, as far as that shows before anything is built.
    """
    task = _checked(config, folder, overwrite)
    return project(task.organisms, task.cells, folder, task.finished, task.jobs, overwrite)


def _checked(config: RunConfig, folder: Path, overwrite: bool) -> _Task:
    """All that can be said before anything is made."""
    organisms = config.found()
    cells = planned(config, organisms)
    for organism in organisms:
        check_places(organism)
        check_text(organism)
    _check_folder(folder)
    finished = {} if overwrite else runner.stored_records(folder, cells)
    return _Task(organisms, cells, finished, config.jobs or runner.default_jobs())


def _workers(task: _Task, notify: Callable[[str, float], None], trusted: tuple[str, ...]) -> runner.Workers:
    return runner.Workers(jobs=task.jobs, notify=notify, trusted=trusted)


def _compare_seeds(
    task: _Task, records: Sequence[Record], folder: Path, workers: Callable[[], AbstractContextManager[runner.Workers]]
) -> None:
    """Compare the method seeds of every row that has several, unless that is done; trouble is a warning."""
    pairs = {cell.key: cell.comparison for cell in task.cells}
    groups = seed_groups(records, lambda record: pairs[record.key])
    missing = [group for group in groups if stored(folder, group) is None]
    if not missing:
        return
    try:
        with workers() as servers:
            for compared in compare(missing, folder, servers):
                if compared.problem is not None:
                    logger.warning("seeds of %s cannot be compared: %s", compared.group.name, compared.problem)
    except DiffbenchError as error:  # the cells are finished all the same
        logger.warning("seeds cannot be compared: %s", error)


def verify(
    names: Sequence[str], seeds: Sequence[int], notify: Callable[[str, float], None]
) -> list[tuple[Organism, GateReport | DiffbenchError]]:
    """Build organisms as far as need be, and give each its gate report, or why there is none.

    Args:
        names: names, or paths of recipes.
        seeds: seeds of fresh organisms of these kinds; none: the recipes' own.
        notify: gets a phrase and the fraction of the current stage that is done.

    Raises:
        DiffbenchError: if a recipe is wrong.
    """
    organisms = find_organisms(names, seeds)
    for organism in organisms:
        check_places(organism)
        check_text(organism)
    with runner.Workers(jobs=runner.default_jobs(), notify=notify, trusted=runner.trusted(organisms)) as workers:
        return list(zip(organisms, runner.build(organisms, workers), strict=True))


def planned(config: RunConfig, organisms: list[Organism]) -> list[PlannedCell]:
    """All cells of a run, checked before anything is built."""
    tier, judge = find_tier(config.tier), find_judge(config.judge)
    comparisons = []
    for organism in organisms:
        for reference in dict.fromkeys(config.references):
            layers = organism.base.layers()
            if config.layer is not None and config.layer >= layers:
                raise OptionError(f"layer: {config.layer} does not exist, the models have blocks 0..{layers - 1}")
            if reference == "control" and not organism.has_control:
                raise OptionError(f"reference: organism {organism.recipe.name} has no control; use --reference base")
            comparisons.append(
                Comparison(organism, reference, tier, config.layer, config.harvest_dtype, config.streaming)
            )
    pinned = PINNED if config.methods and config.controls else ()
    return plan(comparisons, (*config.methods, *pinned), config.options, config.seeds, judge)


def find_organisms(names: Sequence[str], seeds: Sequence[int] = ()) -> list[Organism]:
    """Organisms by name or path, each of its own seed or of all of ``seeds``.

    Raises:
        DiffbenchError: if there is none of a name, a recipe is wrong, or two different ones have one name.
    """
    found = [find_organism(name) for name in dict.fromkeys(names)]
    if seeds:
        found = [resolve(organism.recipe.seeded(seed)) for organism in found for seed in dict.fromkeys(seeds)]
    taken = [organism.recipe.name for organism in found]
    twice = next((name for name in taken if taken.count(name) > 1), None)
    if twice is not None:
        raise OptionError(f"organism: two different recipes are named {twice!r}; rename one")
    return found


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is not ours before anything is built."""
    if not re.fullmatch(NAME, folder.name):
        raise OptionError(f"name: {folder.name!r} is no name for a run; letters, digits, '.', '_' and '-' will do")
    if (folder / RUN_FILE).exists():
        read_run_file(folder)
    elif folder.exists() and (not folder.is_dir() or any(map(_foreign, folder.iterdir()))):
        raise RecordError(f"{folder}: exists and is no run folder; choose another --name or --runs-dir")


def _foreign(path: Path) -> bool:
    """Whether an entry of a run folder without a run file is not what a run left that was killed."""
    return path.name not in (CELLS, FITS, CONSISTENCY, GAMES) and not path.name.startswith(f".{RUN_FILE}.")


def _run_file(
    folder: Path, config: RunConfig, passed: dict[str, Any], argv: tuple[str, ...], projected: ProjectedTime
) -> RunFile:
    return RunFile(
        name=folder.name,
        argv=tuple(word.encode("utf-8", "replace").decode() for word in argv),
        config=config.model_dump(mode="json"),
        passed=passed,
        provenance=Provenance(
            diffbench=version("diffbench"),
            python=platform.python_version(),
            platform=platform.platform(),
            started=utc_now(),
        ),
        time=projected,
    )


def _write(folder: Path, file: RunFile) -> None:
    try:
        write_run_file(folder, file)
    except OSError as error:
        raise RecordError(f"{folder}: cannot be written ({error.strerror}); choose another --runs-dir") from None
