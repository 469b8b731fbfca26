"""Terminal: how commands speak to people. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from diffbench.line import one_line

if TYPE_CHECKING:
    from diffbench.base import Progress

SECONDS_TO_FIRST_LINE, SECONDS_BETWEEN_LINES = 2.0, 5.0

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Left-aligned columns; the last one is as long as it likes."""
    cells = [[one_line(cell) for cell in row] for row in [list(header), *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def echo_json(document: Any) -> None:
    """Print a JSON document for programs."""
    import json

    click.echo(json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False))


def table_width() -> int:
    """Columns that a table may take: those of the terminal, or all it wants where nobody looks on."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 200


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Show what diffbench and its plugins log, one line each, while the block runs."""
    logger, handler = logging.getLogger("diffbench"), _Echo()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Echo(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(one_line(record.getMessage()), err=True)


@contextmanager
def progress() -> Iterator[Progress]:
    """A function to report progress with: a bar on a terminal, elsewhere a plain line every few seconds."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda phrase, fraction: bar.update(task, description=escape(one_line(phrase)), completed=fraction)


def _lines() -> Progress:
    last_time, last_line = time.monotonic() - SECONDS_BETWEEN_LINES + SECONDS_TO_FIRST_LINE, ""

    def report(phrase: str, fraction: float) -> None:
        nonlocal last_time, last_line
        line = f"{one_line(phrase)}: {fraction:.0%}"
        if line != last_line and time.monotonic() - last_time >= SECONDS_BETWEEN_LINES:
            last_time, last_line = time.monotonic(), line
            click.echo(line, err=True)

    return report
