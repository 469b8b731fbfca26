"""Grid time: all dictionary methods on one organism through the command line; warm cache, new run folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.lines import Goal, Line, Part
from benchmarks.settings import Settings
from diffbench.errors import RecordError
from diffbench.plugins import load_plugins
from diffbench.record import Record
from diffbench.run_folder import read_run

ORGANISM = "halfswap"
TOKENS, QUICK_TOKENS = 1_000_000, 20_000
WARMING = "mean-difference"
JOBS = 2
GOAL = 240
"""Seconds."""
RAN = (0, 1)
"""Exit codes of a run that took place; 1 where a cell failed, which then has a record that says why."""


class GridFailed(Exception):
    """The command did not run; the message is the last line it wrote."""


def measure(settings: Settings) -> Part:
    """Wall time of the whole command, and seconds of each method."""
    tokens = QUICK_TOKENS if settings.quick else TOKENS
    names = dictionary_methods()
    options = [word for name in names for word in ("-o", f"{name}.tokens={tokens}")]
    what = f"{len(names)} methods on {ORGANISM}, {tokens:,} tokens each, {JOBS} jobs"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        runs = Path(folder)
        try:
            prepared = run(runs, "warm", [WARMING], [])
            seconds = run(runs, "timed", names, options)
            records = read_run(runs / "timed").records
        except (GridFailed, RecordError) as error:
            return Part([Line("grid", what, state=str(error))])
    state = "measured" if len(records) == len(names) else f"{len(names) - len(records)} methods have no record"
    whole = Line(
        "grid", what, ours=seconds, unit="s", ratio=seconds / GOAL, goal=Goal(most=1), against="4 minutes", state=state
    )
    raw = {
        "preparing_seconds": prepared,
        "seconds": seconds,
        "methods": {record.cell.method: record.timings.model_dump() for record in records},
    }
    return Part([whole, *map(_line, records)], raw)


def dictionary_methods() -> list[str]:
    """Every installed method that can be told how many tokens to train on."""
    found = load_plugins().methods
    return sorted(name for name, method in found.items() if "tokens" in method.Options.model_fields)


def run(runs: Path, name: str, methods: list[str], options: list[str]) -> float:
    """Seconds of one command."""
    command = [sys.executable, "-m", "diffbench", "run", "--organism", ORGANISM, "--no-controls"]
    command += [word for method in methods for word in ("--method", method)]
    command += [*options, "--jobs", str(JOBS), "--runs-dir", str(runs), "--name", name]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in RAN:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise GridFailed(f"diffbench run: {said[-1] if said else done.returncode}")
    return time.monotonic() - started


def _line(record: Record) -> Line:
    if record.status != "ok":
        return Line("grid", record.cell.method, state=f"{record.status}: {record.reason}")
    seconds = record.timings.method_seconds
    scoring = f"and {record.timings.score_seconds:.0f} s of scoring"
    return Line("grid", record.cell.method, ours=seconds, unit="s", against=scoring)
