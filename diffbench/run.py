"""Run: from what a user asks for to a run folder with finished records."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from diffbench import runner
from diffbench.build import Organism, check_text
from diffbench.catalogue import find_organism
from diffbench.comparison import Comparison, HarvestDtype
from diffbench.errors import OptionError, RecordError
from diffbench.gate_report import GateReport
from diffbench.grid import PINNED, PlannedCell, plan
from diffbench.judge import Judge
from diffbench.plugins import find_judge
from diffbench.record import Record
from diffbench.run_folder import CELLS, FITS, RUN_FILE, Provenance, RunFile, read_run_file, write_run_file
from diffbench.tier import find_tier
from diffbench.truth import Schema

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


class RunConfig(Schema):
    """What a run is asked for; everything else follows from it."""

    organisms: tuple[str, ...] = Field(min_length=1, description="names or paths of recipes")
    methods: tuple[str, ...] = Field(
        (),
        description="names, or name@column for a method's latents in the order of a column; none means all installed",
    )
    controls: bool = Field(True, description="run the controls that every table pins beside the named methods")
    options: dict[str, dict[str, Any]] = Field(default_factory=dict, description="passed options by method")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="method seeds")
    references: tuple[Literal["base", "control"], ...] = Field(("base",), min_length=1)
    tier: str = "laptop"
    judge: str = "offline"
    layer: int | None = Field(None, description="None: by the rule")
    harvest_dtype: HarvestDtype = Field("float32", description="what the models compute activations in")
    streaming: bool = Field(False, description="train on rows made on the fly; store a sample of them only")
    jobs: int | None = Field(None, ge=1, description="None: one for each core")


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A finished run."""

    folder: Path
    records: tuple[Record, ...]
    reused: int

    @property
    def failed(self) -> tuple[Record, ...]:
        """Cells that ended in an error."""
        return tuple(record for record in self.records if record.status == "error")


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
    organisms = _organisms(config)
    cells = planned(config, organisms)
    for organism in organisms:
        check_text(organism)
    _check_folder(folder)
    finished = {} if overwrite else runner.stored_records(folder, cells)
    jobs = config.jobs or runner.default_jobs()
    if len(finished) == len(cells):
        return RunOutcome(folder=folder, records=tuple(finished.values()), reused=len(finished))
    trusted = _trusted(organisms, find_judge(config.judge))
    try:
        with runner.Workers(jobs=jobs, notify=notify, trusted=trusted) as workers:
            for asked, report in zip(dict.fromkeys(config.organisms), runner.build(organisms, workers), strict=True):
                report.require(asked)
            runner.prepare(cells, workers)
            _write_run_file(folder, config, passed, argv)
            records = runner.run_cells(cells, folder, workers, finished, refit=overwrite)
    except BaseException:
        with suppress(OSError):
            folder.rmdir()  # which only an empty folder lets happen: a run that was refused leaves nothing
        raise
    return RunOutcome(folder=folder, records=tuple(records), reused=len(finished))


def verify(name: str, notify: Callable[[str, float], None]) -> GateReport:
    """Build an organism if need be, and give its gate report.

    Raises:
        DiffbenchError: if the recipe is wrong or the organism cannot be built.
    """
    organism = find_organism(name)
    check_text(organism)
    with runner.Workers(jobs=runner.default_jobs(), notify=notify, trusted=_trusted([organism])) as workers:
        [report] = runner.build([organism], workers)
    return report


def _trusted(organisms: list[Organism], *judges: type[Judge]) -> tuple[str, ...]:
    brought = [type(part) for organism in organisms for part in (organism.family, organism.base)]
    return runner.distributions(*brought, *judges)


def planned(config: RunConfig, organisms: list[Organism]) -> list[PlannedCell]:
    """All cells of a run, checked before anything is built."""
    tier, judge = find_tier(config.tier), find_judge(config.judge)
    comparisons = []
    for organism in organisms:
        for reference in dict.fromkeys(config.references):
            layers = organism.base.card().layers
            if config.layer is not None and config.layer >= layers:
                raise OptionError(f"layer: {config.layer} does not exist, the models have blocks 0..{layers - 1}")
            if reference == "control" and organism.control_parameters is None:
                raise OptionError(f"reference: organism {organism.recipe.name} has no control; use --reference base")
            comparisons.append(
                Comparison(organism, reference, tier, config.layer, config.harvest_dtype, config.streaming)
            )
    pinned = PINNED if config.methods and config.controls else ()
    return plan(comparisons, (*config.methods, *pinned), config.options, config.seeds, judge)


def _organisms(config: RunConfig) -> list[Organism]:
    organisms = [find_organism(name) for name in dict.fromkeys(config.organisms)]
    names = [organism.recipe.name for organism in organisms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError(f"organism: two different recipes are named {twice!r}; rename one")
    return organisms


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is not ours before anything is built, and make it if it is missing."""
    if not re.fullmatch(NAME, folder.name):
        raise OptionError(f"name: {folder.name!r} is no name for a run; letters, digits, '.', '_' and '-' will do")
    if (folder / RUN_FILE).exists():
        read_run_file(folder)
    elif folder.exists() and (not folder.is_dir() or any(map(_foreign, folder.iterdir()))):
        raise RecordError(f"{folder}: exists and is no run folder; choose another --name or --runs-dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"{folder}: cannot be made ({error.strerror}); choose another --runs-dir") from None


def _foreign(path: Path) -> bool:
    """Whether an entry of a run folder without a run file is not what a run left that was killed."""
    return path.name not in (CELLS, FITS) and not path.name.startswith(f".{RUN_FILE}.")


def _write_run_file(folder: Path, config: RunConfig, passed: dict[str, Any], argv: tuple[str, ...]) -> None:
    file = RunFile(
        name=folder.name,
        argv=tuple(word.encode("utf-8", "replace").decode() for word in argv),
        config=config.model_dump(mode="json"),
        passed=passed,
        provenance=Provenance(
            diffbench=version("diffbench"),
            python=platform.python_version(),
            platform=platform.platform(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )
    try:
        write_run_file(folder, file)
    except OSError as error:
        raise RecordError(f"{folder}: cannot be written ({error.strerror}); choose another --runs-dir") from None
