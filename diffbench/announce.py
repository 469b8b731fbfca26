"""Announce: one line in the log for every finished cell, so that a long run says how it goes.

It is registered like any other plugin, as the bundled user of ``diffbench_cell_finished``; the command line shows the
log on stderr.
"""

from __future__ import annotations

import logging
from pathlib import Path

from diffbench.hookspecs import hookimpl
from diffbench.record import Record

logger = logging.getLogger("diffbench")


@hookimpl
def diffbench_cell_finished(record: Record, path: Path) -> None:
    """Log what a cell came to."""
    cell = record.cell
    logger.info("%s %s seed %d: %s", cell.organism, cell.row, cell.seed, outcome(record))


def outcome(record: Record) -> str:
    """How a cell ended, in a few words."""
    seconds = f"{record.timings.method_seconds:.1f} s"
    if record.scores is None:
        return f"{record.status} after {seconds}: {record.reason}"
    headline = record.scores.recovery.headline
    lift = headline.state if headline.value is None else f"{headline.value:+.2f}"
    return f"lift {lift}, {seconds}"
