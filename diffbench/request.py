"""Request: a run as somebody asks for it, at the command line or from Python, with the name and place it gets.

Both ways are one: what is checked, reused and written does not depend on who asks.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from diffbench import projection
from diffbench.campaign import RunConfig, RunOutcome, execute, foresee
from diffbench.cli.terminal import log_on_stderr, progress
from diffbench.duration import told
from diffbench.errors import OptionError
from diffbench.line import one_line
from diffbench.own_pair import OwnPair
from diffbench.plugins import load_plugins
from diffbench.projection import Projection
from diffbench.recipe import first_problem
from diffbench.result import RunResult

logger = logging.getLogger(__name__)

LONGEST_NAME = 100
PAIR = ("base", "tuned", "adapter", "text", "text_field", "remap")
"""What two models of one's own are named by."""
PLURALS = {"organism": "organisms", "method": "methods"}


@dataclass(frozen=True, slots=True)
class Request:
    """A run that is asked for.

    Attributes:
        config: what to run.
        folder: the run folder.
        passed: the part of the configuration that somebody gave, as JSON values.
        argv: the command line, or the line of Python.
        overwrite: run finished cells again, their methods too.
    """

    config: RunConfig
    folder: Path
    passed: dict[str, Any]
    argv: tuple[str, ...]
    overwrite: bool

    @classmethod
    def of(
        cls,
        asked: Mapping[str, Any],
        given: Iterable[str],
        *,
        argv: Sequence[str],
        name: str | None = None,
        runs_dir: Path = Path("runs"),
        overwrite: bool = False,
    ) -> Request:
        """Check what is asked for, and say where it will lie.

        Args:
            asked: fields of `RunConfig`.
            given: those of them that somebody gave; a pair always counts as given.
            argv: how it was asked.
            name: of the run folder; None: the organisms' names.
            runs_dir: where run folders lie.
            overwrite: run finished cells again.

        Raises:
            OptionError: for a value that cannot be used.
            DiffbenchError: for a text of one's own that cannot be read.
        """
        try:
            config = RunConfig.model_validate(dict(asked))
        except ValidationError as error:
            raise OptionError(f"run: {one_line(first_problem(error), 300)}") from None
        if name is not None:
            _check_name(name)
        known = {*given, *(() if config.pair is None else ("pair",))}
        passed = {key: value for key, value in config.model_dump(mode="json").items() if key in known}
        return cls(config, runs_dir / (name or _usual_name(config)), passed, _typed(argv), overwrite)

    def foresee(self) -> Projection:
        """What `execute` would do, without doing any of it; raises what keeps it from starting."""
        return foresee(self.config, self.folder, self.overwrite)

    def execute(self, notify: Callable[[str, float], None]) -> RunOutcome:
        """Run all cells that are not finished; see `diffbench.campaign.execute`."""
        return execute(
            self.config, self.folder, passed=self.passed, argv=self.argv, notify=notify, overwrite=self.overwrite
        )

    def closing(self, outcome: RunOutcome, seconds: float) -> list[str]:
        """What people are told when it is over, a line each."""
        lines = []
        if outcome.time is not None and outcome.time.total >= projection.LEAST_TOLD:
            lines.append(f"projected: {told(outcome.time.total)}; measured: {told(outcome.time.measured or 0.0)}")
        lines.append(
            f"{len(outcome.records)} cells ({outcome.reused} reused, {len(outcome.failed)} failed) in {seconds:.0f} s; "
            f"records, Diffs and logs: {outcome.folder}"
        )
        if not self.config.methods and (broken := load_plugins().failures):
            lines.append(
                f"{len(broken)} plugins failed to load, and their methods are missing; see `diffbench plugins`"
            )
        return lines + [
            f"failed: {record.cell.organism} {record.cell.row}: {one_line(record.reason)}" for record in outcome.failed
        ]


def pair_asked(values: Mapping[str, Any]) -> OwnPair | None:
    """Two models of one's own, by the names of `PAIR`; None: organisms are named.

    Raises:
        OptionError: if a part is there without the base that it belongs to, or is not of its type.
    """
    given = {name: values[name] for name in PAIR if values.get(name) is not None}
    if "base" not in given:
        lone = next((name for name in ("tuned", "adapter", "text", "remap") if given.get(name)), None)
        if lone is not None:
            raise OptionError(f"--{lone}: belongs to two models of your own; name the first of them with --base")
        return None
    try:
        return OwnPair.model_validate(given)
    except ValidationError as error:
        raise OptionError(f"own pair: {one_line(first_problem(error), 300)}") from None


def run(
    organism: str | Path | Sequence[str | Path] | None = None,
    method: str | Sequence[str] | None = None,
    *,
    base: str | Path | None = None,
    tuned: str | Path | None = None,
    adapter: str | Path | None = None,
    text: str | Path | None = None,
    text_field: str | None = None,
    remap: Mapping[str, str] | None = None,
    controls: bool | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int | Iterable[int] | None = None,
    organism_seeds: int | Iterable[int] | None = None,
    references: Literal["base", "control"] | Sequence[Literal["base", "control"]] | None = None,
    tier: str | None = None,
    judge: str | None = None,
    layer: int | None = None,
    harvest_dtype: Literal["float32", "bfloat16", "auto"] | None = None,
    streaming: bool | None = None,
    jobs: int | None = None,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    overwrite: bool = False,
    quiet: bool = False,
) -> RunResult:
    """Run methods on organisms, or on two models of one's own, blind, and score them: ``diffbench run`` from Python.

    What is finished is reused, and the run folder is the one that the command writes. Cells that failed are rows of
    the result; nothing is raised for them. What is None is as the command has it. Methods run in processes that are
    started afresh and import no caller's module, so a script needs no ``if __name__ == "__main__"``.

    Args:
        organism: name or recipe file, or several.
        method: name, or ``name@column``, or several; None: all that are installed.
        base: instead of organisms, a model of one's own: folder or hub id.
        tuned: the model that came out of it.
        adapter: instead of ``tuned``, an adapter on the base.
        text: what to compare them on: a file or a data set.
        text_field: its column of texts.
        remap: tokens of the tuned model's template that both are given as others.
        controls: run the pinned controls beside the methods named.
        options: options by method, such as ``{"diff-sae": {"k": 16}}``.
        seeds: of the methods.
        organism_seeds: fresh organisms of these kinds.
        references: what the tuned model is compared with: base, control, or both.
        tier: the budget.
        judge: who scores interpretability.
        layer: overrides the layer rule.
        harvest_dtype: what the models compute activations in.
        streaming: train on activations made on the fly.
        jobs: processes side by side.
        name: of the run folder.
        runs_dir: where run folders lie.
        overwrite: run finished cells again.
        quiet: show no progress on stderr.

    Raises:
        DiffbenchError: for anything that keeps the run from starting, with one line that says what to do.
    """
    asked = {key: _plain(value) for key, value in locals().items() if value is not None and key != "quiet"}
    argv = ("python", "-c", f"import diffbench; diffbench.run({_spelt(asked)})")
    pair = pair_asked({key: asked.pop(key, None) for key in PAIR})
    fields = {PLURALS.get(key, key): value for key, value in asked.items() if key not in _PLACE}
    for key in _SEVERAL & fields.keys():
        fields[key] = fields[key] if isinstance(fields[key], list) else [fields[key]]
        if not fields[key]:
            raise OptionError(f"{key}: none is named; leave it out for the usual ones")
    request = Request.of(
        fields | {"pair": pair}, fields, argv=argv, name=name, runs_dir=Path(runs_dir), overwrite=overwrite
    )
    started = time.monotonic()
    with _reported(quiet) as notify:
        outcome = request.execute(notify)
        for line in request.closing(outcome, time.monotonic() - started):
            logger.info("%s", line)
    return RunResult.of(outcome.run())


_PLACE = frozenset({"name", "runs_dir", "overwrite"})
_SEVERAL = frozenset({"organisms", "methods", "seeds", "organism_seeds", "references"})


@contextmanager
def _reported(quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """Progress and messages on stderr, or nowhere."""
    if quiet:
        yield lambda phrase, fraction: None
        return
    with progress() as notify, log_on_stderr():
        yield notify


def _plain(value: Any) -> Any:
    """A passed value as lists, dictionaries and what they hold; paths as text."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value


def _spelt(asked: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in asked.items() if _UNSAID.get(key) != value)


_UNSAID = {"runs_dir": "runs", "overwrite": False}


def _check_name(name: str) -> None:
    shown = one_line(repr(name), 120)
    if name in (".", "..") or Path(name).name != name:
        raise OptionError(f"name: {shown} is a path; a run lies in --runs-dir under a plain name")
    if not name.strip() or not name.isprintable():
        raise OptionError(f"name: {shown} is no name for a run; letters, digits, '.', '_' and '-' will do")


def _typed(argv: Sequence[str]) -> tuple[str, ...]:
    """A command line as it can be typed again: what ``python -m diffbench`` runs is ``diffbench``."""
    program, *rest = argv or ("diffbench",)
    return ("diffbench" if Path(program).name == "__main__.py" else program, *rest)


def _usual_name(config: RunConfig) -> str:
    named = [Path(organism).stem for organism in config.organisms]
    if config.pair is not None:
        named = [config.pair.recipe().name]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(named))[:LONGEST_NAME]
