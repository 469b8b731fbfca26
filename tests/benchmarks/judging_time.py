"""Judging: the offline judge on every method's findings on one organism, from the evidence that a run keeps, twice."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.grid_time import ORGANISM, GridFailed, run
from benchmarks.lines import Goal, Line, Part
from benchmarks.settings import Settings
from diffbench.conclusion import conclude, notes_of
from diffbench.errors import RecordError
from diffbench.evidence_file import EVIDENCE, read_evidence
from diffbench.judging import judge_findings, texts_of
from diffbench.offline_judge import OfflineJudge
from diffbench.panel import Panel
from diffbench.plugins import load_plugins
from diffbench.record import Record
from diffbench.run_folder import CELLS, cell_folder_name, read_run
from diffbench.sheet import SHEET, Sheet

GOAL = 60.0
"""Seconds on two cores; measured on one."""


def measure(settings: Settings) -> Part:
    """Seconds of all questions of all methods, and whether the same bytes come out twice."""
    names = sorted(load_plugins().methods)
    what = f"offline judge, {len(names)} methods on {ORGANISM}, one core"
    tier = ["--tier", "smoke"] if settings.quick else []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            run(Path(folder), "judged", names, tier)
            found = read_run(Path(folder) / "judged")
        except (GridFailed, RecordError) as error:
            return Part([Line("judge", what, state=str(error))])
        cells = [record for record in found.records if record.scores is not None]
        rounds = [{record.cell.row: _judged(found.path, record) for record in cells} for _ in range(2)]
    seconds = [sum(took for took, _ in round.values()) for round in rounds]
    same = all(rounds[0][row][1] == rounds[1][row][1] for row in rounds[0])
    state = "measured" if same else "not the same bytes twice"
    line = Line(
        "judge",
        what,
        ours=min(seconds),
        unit="s",
        ratio=min(seconds) / GOAL,
        goal=Goal(most=1),
        against="60 s",
        spread=(min(seconds) / GOAL, max(seconds) / GOAL),
        state=state,
    )
    raw: dict[str, Any] = {"cells": len(cells), "seconds": {row: took for row, (took, _) in rounds[0].items()}}
    return Part([line], raw)


def _judged(folder: Path, record: Record) -> tuple[float, str]:
    """Seconds, and all that was asked and answered."""
    cell = folder / CELLS / cell_folder_name(record.cell, record.key)
    assert record.scores is not None
    sheet = Sheet.model_validate_json((cell / SHEET).read_text(encoding="utf-8"))
    started = time.perf_counter()
    evidence, panel = read_evidence(cell / EVIDENCE), Panel(OfflineJudge())
    judged = judge_findings(panel, evidence, 0)
    conclude(panel, notes_of(evidence, texts_of(judged.trials)), record.scores.verdict, sheet, 0)
    seconds = time.perf_counter() - started
    return seconds, json.dumps([verdict.model_dump(mode="json") for verdict in panel.asked.values()])
