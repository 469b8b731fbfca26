"""Inspect log: what a judge was asked in a cell, as an eval log of UK AISI's inspect_ai, one file for each cell.

Followed is version 2 of the JSON format (`EvalLog` of inspect_ai 0.3.285), which `inspect_ai.log.read_eval_log` and
`inspect view` read. A sample is one question; the judge is the model that is evaluated. A question whose right answer
is known is scored: ``C`` or ``I`` where one thing is picked, the share that is right where there are several marks.
Without a usable answer a sample has an error and no score.

A language model is shown with the messages that it was sent, the nonce of the call replaced; another judge got the
question as data, which is then the one message. The log's own metrics are the record's, of all findings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from diffbench.canonical import digest
from diffbench.columns import instant
from diffbench.errors import JudgeError, RecordError
from diffbench.fence import PLACEHOLDER
from diffbench.figure import Figure
from diffbench.line import one_line
from diffbench.outlets.folder import ExportedFile
from diffbench.outlets.source import Source
from diffbench.prompts import prompt_hash, prompt_of
from diffbench.question import Marks, Pick, Question
from diffbench.record import Record
from diffbench.replay import transcript
from diffbench.run_folder import cell_folder_name
from diffbench.trial import TESTS, Trial

VERSION = 2
SCORER = "diffbench"
IDENTIFIER = 22
"""Characters of the log's identifiers."""
Message = dict[str, str]


def inspect_log(source: Source) -> Iterator[ExportedFile]:
    """A log for every cell that has scores.

    Raises:
        RecordError: if there is none, or a cell's verdicts or evidence are missing, changed or malformed.
    """
    cells = [(run, record) for run in source.runs for record in run.records if record.scores is not None]
    if not cells:
        raise RecordError("no finished cell with scores lies in a run folder there; a table alone holds no transcripts")
    done: set[str] = set()
    for run, record in cells:
        if record.key in done:
            continue
        done.add(record.key)
        cell = cell_folder_name(record.cell, record.key)
        try:
            asked = transcript(run.path, record)
        except RecordError as error:
            raise RecordError(f"{cell}: {error}") from None
        text = json.dumps(_log(record, asked), indent=1, ensure_ascii=True, allow_nan=False)
        stamp = _moment(record.timings.started).strftime("%Y-%m-%dT%H-%M-%S+00-00")
        yield ExportedFile(f"{stamp}_{cell}_{record.key[:IDENTIFIER]}.json", (text + "\n").encode())


def _log(record: Record, asked: Sequence[tuple[Trial, Question | None]]) -> dict[str, Any]:
    cell, created = record.cell, _moment(record.timings.started).isoformat()
    samples = [_sample(record, n, trial, question) for n, (trial, question) in enumerate(asked, start=1)]
    usage = _usage([trial for trial, _ in asked])
    completed = sum(sample["error"] is None for sample in samples)
    task = one_line(f"diffbench/{cell.organism}", 200)
    about = cell.model_dump(mode="json", include=set(_ABOUT)) | {"row": cell.row, "key": record.key}
    return {
        "version": VERSION,
        "status": "success",
        "eval": {
            "eval_id": record.key[:IDENTIFIER],
            "run_id": record.key[:IDENTIFIER],
            "task_id": digest([task, cell.row, cell.judge])[:IDENTIFIER],
            "created": created,
            "task": task,
            "task_version": cell.organism_version,
            "task_args": {},
            "dataset": {
                "name": one_line(f"{cell.organism} {cell.row} s{cell.seed}", 200),
                "samples": len(samples),
                "sample_ids": [sample["id"] for sample in samples],
                "shuffled": False,
            },
            "model": _judge(record),
            "model_generate_config": {},
            "model_args": {},
            "config": {},
            "packages": {"diffbench": one_line(record.timings.versions.get("diffbench", "unknown"), 40)},
            "metadata": about,
        },
        "plan": {"name": "plan", "steps": [{"solver": "judge", "params": {}}], "config": {}},
        "results": {"total_samples": len(samples), "completed_samples": completed, "scores": _results(record)},
        "stats": {"started_at": created, "completed_at": created, "model_usage": {_judge(record): usage}},
        "samples": samples,
    }


_ABOUT = ("organism", "organism_version", "reference", "method", "ranking", "method_version", "seed", "tier", "judge")


def _sample(record: Record, n: int, trial: Trial, question: Question | None) -> dict[str, Any]:
    verdict = trial.verdict
    sent = _messages(question, verdict.prompt, verdict.question)
    of = "all" if trial.rank is None else f"finding{trial.rank}"
    said: list[dict[str, Any]] = []
    if verdict.raw or verdict.answer is not None:
        raw = verdict.raw or json.dumps(verdict.answer.model_dump(mode="json")) if verdict.answer else verdict.raw
        said = [{"role": "assistant", "content": raw, "source": "generate", "model": _judge(record)}]
    output: dict[str, Any] = {"model": _judge(record), "choices": [], "usage": _usage([trial])}
    output["choices"] = [{"message": message, "stop_reason": "stop"} for message in said]
    scores = _score(trial)
    return {
        "id": f"{n:05d}-{trial.test}-{trial.arm}-{of}",
        "epoch": 1,
        "input": list(sent),
        "target": _target(trial),
        "messages": [*sent, *said],
        "output": output,
        "scores": None if scores is None else {SCORER: scores},
        "metadata": {
            "test": trial.test,
            "arm": trial.arm,
            "finding": trial.rank,
            "component": trial.component,
            "question": verdict.question,
            "question_follows_from_evidence": question is not None,
            "state": verdict.state,
            "sent": one_line(verdict.sent, 300),
        },
        "model_usage": {_judge(record): _usage([trial])},
        "error": None if verdict.state == "ok" else _error(verdict.state, verdict.problem),
    }


def _messages(question: Question | None, prompt: str | None, key: str) -> tuple[Message, ...]:
    """What a judge got."""
    if question is None:
        return ({"role": "user", "content": f"(question {one_line(key, 80)}, which the evidence does not lead to)"},)
    try:
        if prompt is not None and prompt_hash(question) == prompt:
            messages = prompt_of(question, PLACEHOLDER).messages
            return tuple({"role": role, "content": content} for role, content in messages)
    except JudgeError:  # of more parts than are put into words
        pass
    document = question.model_dump(mode="json", exclude_none=True)
    return ({"role": "user", "content": json.dumps(document, indent=1, ensure_ascii=False)},)


def _score(trial: Trial) -> dict[str, Any] | None:
    """What a sample is worth; None where the right answer is not known, or there is no answer."""
    answer, right = trial.verdict.answer, trial.right
    if not right or trial.verdict.state != "ok":
        return None
    if isinstance(answer, Marks) and len(answer.marks) == len(right):
        hits = sum(said == bool(mark) for said, mark in zip(answer.marks, right, strict=True))
        value: str | float = hits / len(right)
        return {"value": value, "answer": _marks(answer.marks), "explanation": f"{hits} of {len(right)} marks right"}
    if isinstance(answer, Pick):
        value = "C" if (answer.pick,) == right else "I"
        return {"value": value, "answer": "none" if answer.pick is None else str(answer.pick), "explanation": None}
    return None


def _target(trial: Trial) -> str:
    if trial.test in ("detection", "fuzzing"):
        return _marks([bool(mark) for mark in trial.right])
    return ", ".join(map(str, trial.right))


def _marks(marks: Sequence[bool]) -> str:
    return ", ".join("yes" if mark else "no" for mark in marks)


def _error(state: str, problem: str | None) -> dict[str, str]:
    return {"message": f"{state}: {one_line(problem or 'no reason given', 300)}", "traceback": "", "traceback_ansi": ""}


def _results(record: Record) -> list[dict[str, Any]]:
    """The record's figures of each test; those without a number have none here either."""
    assert record.scores is not None
    told = record.scores.interpretability
    found: list[tuple[str, dict[str, Figure]]] = [
        (test, {"score": one.score, "over_shuffled": one.over_shuffled, "over_random": one.over_random})
        for test in TESTS
        for one in (getattr(told, test),)
    ]
    found.append(("account", {name: getattr(told.match, name) for name in ("structured", "grade", "choice", "brier")}))
    return [
        {
            "name": name,
            "scorer": SCORER,
            "params": {},
            "metrics": {
                metric: {"name": metric, "value": figure.value, "params": {}, "metadata": _interval(figure)}
                for metric, figure in figures.items()
                if figure.value is not None
            },
            "metadata": {
                "missing": {
                    metric: f"{figure.state}: {one_line(figure.reason or '', 200)}"
                    for metric, figure in figures.items()
                    if figure.value is None
                }
            },
        }
        for name, figures in found
    ]


def _interval(figure: Figure) -> dict[str, float | None]:
    return {"low": figure.low, "high": figure.high}


def _usage(trials: Sequence[Trial]) -> dict[str, int]:
    asked = {trial.verdict.question: trial.verdict.usage for trial in trials}.values()
    sent, got = sum(usage.tokens_in for usage in asked), sum(usage.tokens_out for usage in asked)
    return {"input_tokens": sent, "output_tokens": got, "total_tokens": sent + got}


def _judge(record: Record) -> str:
    return one_line(f"diffbench/{record.cell.judge}", 200)


def _moment(started: str) -> datetime:
    """When a cell was run; what is no time is the beginning of time."""
    seconds = instant(started)[0]
    try:
        return datetime.fromtimestamp(max(0.0, seconds), UTC)
    except (OverflowError, OSError, ValueError):
        return datetime.fromtimestamp(0, UTC)
