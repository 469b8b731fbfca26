"""Replay: a judge's scores made again from the verdicts that a run kept, without judge, model, method or network.

Cells and games alike.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from diffbench.cache import code_version
from diffbench.canonical import file_digest
from diffbench.comparison import SCORE_CODE
from diffbench.conclusion import matched
from diffbench.errors import RecordError
from diffbench.figure import Figure
from diffbench.game_file import read_game, unfounded
from diffbench.judging import asked_for, scored
from diffbench.line import error_line, one_line
from diffbench.panel import VERDICTS, read_verdicts
from diffbench.record import Record
from diffbench.run_folder import CELLS, GAMES, cell_folder_name, folders_in, read_run, refusal
from diffbench.scores import Interpretability
from diffbench.sheet import SHEET, Sheet
from diffbench.trial import TESTS, Trial

MOST_SHEET_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Replayed:
    """One cell, or one game.

    Attributes:
        name: as people are told of it.
        n_verdicts: that its scores follow from.
        differences: what does not follow from them as the record says; empty: everything does.
        same_code: whether the record was scored by the code that is here; other code may score otherwise.
    """

    name: str
    n_verdicts: int
    differences: tuple[str, ...]
    same_code: bool


def replay(folder: Path) -> list[Replayed]:
    """Replay every cell of a run that has scores, and every game.

    Raises:
        RecordError: if this is no run folder.
    """
    run = read_run(folder)
    found = []
    for record in run.records:
        if record.scores is not None:
            cell = record.cell
            name = f"{cell.organism} {cell.row} s{cell.seed} against {cell.reference}, judge {cell.judge}"
            path = run.path / CELLS / cell_folder_name(cell, record.key)
            found.append(_replay(path, record, one_line(name, 300)))
    return found + [_game(path, problem) for path, problem in folders_in(run.path / GAMES)]


def _game(path: Path, problem: str | None) -> Replayed:
    """A game from its transcript; the code that scored it is not told."""
    name = one_line(f"game {path.name}", 300)
    try:
        if problem is not None:
            raise RecordError(problem)
        played, sheet = read_game(path)
    except RecordError as error:
        return Replayed(name, 0, (error_line(error),), True)
    n = len(played.game.turns) + len(played.score.trials)
    return Replayed(name, n, tuple(unfounded(played, sheet)), True)


def _replay(path: Path, record: Record, name: str) -> Replayed:
    assert record.scores is not None
    same = record.hashes.score_code == code_version(*SCORE_CODE)
    try:
        trials, sheet = _read(path, record)
    except RecordError as error:
        return Replayed(name, 0, (error_line(error),), same)
    told = record.scores.interpretability
    return Replayed(name, len(trials), tuple(_differences(told, trials, sheet)), same)


def _read(path: Path, record: Record) -> tuple[list[Trial], Sheet | None]:
    """What the judge said and what is true, as they were when the record was written."""
    known = record.hashes.judged
    if known is None or VERDICTS not in known:
        raise RecordError("its record names no verdicts; `diffbench rescore` makes them")
    for name, digest in known.items():
        problem = refusal(path / name, stat.S_ISREG)
        if problem is not None or not (path / name).exists():
            raise RecordError(f"{name}: {problem or 'missing'}")
        if file_digest(path / name) != digest:
            raise RecordError(f"{name}: changed since it was scored")
    trials = read_verdicts(path / VERDICTS, Trial)
    if SHEET not in known:
        return trials, None
    if (path / SHEET).stat().st_size > MOST_SHEET_BYTES:
        raise RecordError(f"{SHEET}: larger than {MOST_SHEET_BYTES} bytes")
    try:
        return trials, Sheet.model_validate_json((path / SHEET).read_text(encoding="utf-8"))
    except (ValidationError, UnicodeError) as error:
        raise RecordError(f"{SHEET}: {one_line(error, 200)}") from None


def _differences(told: Interpretability, trials: list[Trial], sheet: Sheet | None) -> Iterator[str]:
    """Every figure that does not come out as the record says. What was not asked follows from no verdict."""
    asked = {(trial.test, trial.arm, trial.rank) for trial in trials}
    reasons = {(finding.rank, test): getattr(finding, test) for finding in told.findings for test in TESTS}
    found = scored(trials, [(finding.rank, finding.component) for finding in told.findings], reasons)
    for finding, again in zip(told.findings, found.findings, strict=True):
        if finding.explanation != again.explanation:
            yield f"finding {finding.rank}: another explanation"
        for test in TESTS:
            if (test, "own", finding.rank) in asked:
                yield from _unlike(f"finding {finding.rank}, {test}", getattr(finding, test), getattr(again, test))
    for test in TESTS if told.findings else ():
        judged = getattr(told, test)
        # A control's own verdicts are those of the pair, not of this cell.
        controls = [found.means().model_copy(update={test: control}) for control in (judged.random, judged.untrained)]
        remade = found.judged(test, *controls)
        for name in type(judged).model_fields:
            yield from _unlike(f"{test}, {name}", getattr(judged, name), getattr(remade, name))
    match = matched(trials, sheet)
    if match is not None and match != told.match:
        yield "what the judge concludes: another score"
    count = asked_for(trials)
    if (count.questions, count.unanswered, count.usage) != (told.questions, told.unanswered, told.usage):
        yield "questions and usage: other numbers"


def _unlike(what: str, told: Figure, again: Figure) -> Iterator[str]:
    if told != again:
        yield f"{what}: the record says {_shown(told)}, its verdicts {_shown(again)}"


def _shown(figure: Figure) -> str:
    return figure.state if figure.value is None else f"{figure.value:.4f}"
