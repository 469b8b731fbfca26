"""Replay: a judge's scores made again from the evidence and verdicts that a run kept: no judge, model or network.

The questions and their right answers follow from the evidence, the answers are looked up among the verdicts, and the
scores follow as they did when the judge was asked. What was measured on the pair, the controls of a random dictionary
and of untrained models, is taken from the record. Games are replayed from their transcripts.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from diffbench.cache import code_version
from diffbench.canonical import file_digest
from diffbench.comparison import SCORE_CODE
from diffbench.errors import JudgeError, RecordError
from diffbench.figure import Figure
from diffbench.finding_evidence import EVIDENCE
from diffbench.game_file import read_game, unfounded
from diffbench.interpretation import Controls, Shown, interpret, limit_of
from diffbench.judge import Judge, Reply
from diffbench.line import error_line, one_line
from diffbench.panel import VERDICTS, Panel, Verdict, read_verdicts
from diffbench.question import Question, question_key
from diffbench.record import Record
from diffbench.run_folder import CELLS, GAMES, cell_folder_name, folders_in, read_run, refusal
from diffbench.scores import ControlScores, Interpretability
from diffbench.sheet import SHEET, Sheet
from diffbench.trial import TESTS, Trial
from diffbench.truth import Schema

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


class _Kept(Judge):
    """Answers as another judge did."""

    name = "kept"

    def __init__(self, label: str, trials: Sequence[Trial]) -> None:
        self.name, _, version = label.rpartition(" ")  # type: ignore[misc]
        self.version = int(version) if version.isdecimal() else 0  # type: ignore[misc]
        self.contexts = limit_of(trials)  # type: ignore[misc]
        self.verdicts: dict[str, Verdict] = {trial.verdict.question: trial.verdict for trial in trials}
        self.questions: dict[str, Question] = {}

    def answer(self, question: Question) -> Reply:
        """The answer that was kept.

        Raises:
            JudgeError: if there is none.
        """
        key = question_key(question)
        self.questions[key] = question
        verdict = self.verdicts.get(key)
        if verdict is None or verdict.state not in ("ok", "malformed", "refused"):
            raise JudgeError("no verdict was kept of a question that the evidence leads to")
        state = verdict.state if verdict.state != "ok" or verdict.answer is not None else "malformed"
        return Reply(state, verdict.answer, verdict.raw, verdict.problem, verdict.usage, verdict.prompt)


def replay(folder: Path) -> list[Replayed]:
    """Replay every cell of a run that has scores, and every game.

    Raises:
        RecordError: if this is no run folder.
    """
    run = read_run(folder)
    found = []
    for record in run.records:
        if record.scores is not None:
            found.append(replay_cell(run.path, record))
    return found + [_game(path, problem) for path, problem in folders_in(run.path / GAMES)]


def replay_cell(folder: Path, record: Record) -> Replayed:
    """Replay one cell of a run folder, which has scores; whatever keeps it from being replayed is a difference."""
    cell = record.cell
    name = f"{cell.organism} {cell.row} s{cell.seed} against {cell.reference}, judge {cell.judge}"
    return _cell(folder / CELLS / cell_folder_name(cell, record.key), record, one_line(name, 300))


def transcript(folder: Path, record: Record) -> list[tuple[Trial, Question | None]]:
    """All that a judge was asked in a cell of a run folder, in order, with the question that each verdict is on.

    Verdicts hold a question's hash alone; what it says follows from the evidence. None: it does not follow from it.

    Args:
        folder: the run folder.
        record: of a cell that has scores.

    Raises:
        RecordError: if a file that is needed is missing, changed or malformed.
    """
    judge, trials, _, _ = _judged_again(folder / CELLS / cell_folder_name(record.cell, record.key), record)
    return [(trial, judge.questions.get(trial.verdict.question)) for trial in trials]


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


def _cell(path: Path, record: Record, name: str) -> Replayed:
    same = record.hashes.score_code == code_version(*SCORE_CODE)
    try:
        return Replayed(name, *_replayed(path, record), same)
    except RecordError as error:
        return Replayed(name, 0, (error_line(error),), same)


def _replayed(path: Path, record: Record) -> tuple[int, tuple[str, ...]]:
    """How many verdicts there are, and what does not follow from them."""
    assert record.scores is not None
    _, trials, again, asked = _judged_again(path, record)
    differences = list(_differences("", record.scores.interpretability, again))
    known = {trial.verdict.question for trial in asked}
    if spare := sum(trial.verdict.question not in known for trial in trials):
        differences.append(f"{spare} verdicts are on questions that the evidence does not lead to")
    return len(trials), tuple(differences)


def _judged_again(path: Path, record: Record) -> tuple[_Kept, list[Trial], Interpretability, tuple[Trial, ...]]:
    """The judge that answers from what was kept, all verdicts, and the scores and trials that come of it."""
    from diffbench.evidence_file import read_evidence

    assert record.scores is not None
    _check_files(path, record)
    told, trials = record.scores.interpretability, read_verdicts(path / VERDICTS, Trial)
    evidence, sheet = read_evidence(path / EVIDENCE), _sheet(path, record)
    # Of a Diff that shows nothing the record alone says why.
    why = told.detection.score if not evidence and told.detection.score.value is None else None
    controls = Controls(
        random=ControlScores(**{test: getattr(told, test).random for test in TESTS}),
        untrained=ControlScores(**{test: getattr(told, test).untrained for test in TESTS}),
        match=told.match_random,
    )
    judge = _Kept(told.judge, trials)
    shown = Shown(evidence, why, record.scores.verdict)
    again, asked = interpret(Panel(judge), shown, sheet, record.cell.seed, controls)
    return judge, trials, again, asked


def _check_files(path: Path, record: Record) -> None:
    """Raise `RecordError` unless the files are what they were when the record was written."""
    known = record.hashes.judged
    if known is None or not {EVIDENCE, VERDICTS} <= known.keys():
        raise RecordError("its record names no evidence or no verdicts; `diffbench rescore` makes them")
    for name, digest in known.items():
        problem = refusal(path / name, stat.S_ISREG)
        if problem is not None or not (path / name).exists():
            raise RecordError(f"{name}: {problem or 'missing'}")
        if file_digest(path / name) != digest:
            raise RecordError(f"{name}: changed since it was scored")


def _sheet(path: Path, record: Record) -> Sheet | None:
    if SHEET not in (record.hashes.judged or {}):
        return None
    if (path / SHEET).stat().st_size > MOST_SHEET_BYTES:
        raise RecordError(f"{SHEET}: larger than {MOST_SHEET_BYTES} bytes")
    try:
        return Sheet.model_validate_json((path / SHEET).read_text(encoding="utf-8"))
    except (ValidationError, UnicodeError) as error:
        raise RecordError(f"{SHEET}: {one_line(error, 200)}") from None


def _differences(where: str, told: Schema, again: Schema) -> Iterator[str]:
    """Every part that does not come out as the record says."""
    for name in type(told).model_fields:
        one, other = getattr(told, name), getattr(again, name)
        here = f"{where}{name}"
        if isinstance(one, Figure) or not isinstance(one, Schema | tuple):
            if one != other:
                yield f"{here}: the record says {_shown(one)}, its verdicts {_shown(other)}"
        elif isinstance(one, Schema):
            yield from _differences(f"{here}, ", one, other)
        elif len(one) != len(other):
            yield f"{here}: the record has {len(one)}, its evidence {len(other)}"
        else:
            for n, (part, remade) in enumerate(zip(one, other, strict=True), start=1):
                yield from _differences(f"finding {n}, ", part, remade)


def _shown(value: object) -> str:
    if isinstance(value, Figure):
        return value.state if value.value is None else f"{value.value:.4f}"
    return one_line(value, 80)
