"""``diffbench leaderboard slice``: run what a leaderboard holds, as it was written down, and publish its records."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffbench.cli.terminal import as_json, echo_json, log_on_stderr, progress, table

if TYPE_CHECKING:
    from diffbench.request import Request
    from diffbench.slice_plan import Slice, SlicePart


@click.command(
    "slice",
    epilog="Examples: diffbench leaderboard slice leaderboard/slice.yaml --dry-run    |    "
    "diffbench leaderboard slice leaderboard/slice.yaml --into leaderboard",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--part", "parts", multiple=True, help="Only this part; repeat for several.  [default: all]")
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), help="Leaderboard whose records/ take what has landed."
)
@click.option(
    "--runs-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Where run folders lie.",
)
@click.option("--jobs", type=click.IntRange(1), help="Processes side by side.  [default: one for each core]")
@click.option("--publish-only", is_flag=True, help="Run nothing; publish what has landed so far.")
@click.option("--prune", is_flag=True, help="Remove published records that the runs do not hold.")
@click.option("--dry-run", is_flag=True, help="Print cells and projected time of each part, and do nothing.")
@as_json
@click.pass_context
def run_slice(
    ctx: click.Context,
    file: Path,
    parts: tuple[str, ...],
    into: Path | None,
    runs_dir: Path,
    jobs: int | None,
    publish_only: bool,
    prune: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run the parts of a slice one after another, and put the records of each into a leaderboard as they land.

    FILE says which organisms, methods and seeds a published leaderboard holds, and is written before anything of it is
    run. Each part is a run of its own, RUNS_DIR/SLICE-PART, and is gone on with when the command is repeated. Records
    are published without paths and secrets; `diffbench leaderboard build LEADERBOARD/records/* --out LEADERBOARD`
    makes the tables. A published record that a run does not hold stays where
    it is, unless --prune is given. Exit code 1 if a cell failed.
    """
    from diffbench.slice_plan import read_slice

    plan = read_slice(file)
    asked = [(part, _request(plan, part, runs_dir, jobs)) for part in plan.chosen(parts)]
    if dry_run:
        _print_plan(asked, as_json)
        return
    told, failed = [], 0
    for part, request in asked:
        started = time.monotonic()
        try:
            if not publish_only:
                with progress() as notify, log_on_stderr():
                    outcome = request.execute(notify)
                failed += len(outcome.failed)
                for line in request.closing(outcome, time.monotonic() - started):
                    click.echo(f"{part.name}: {line}", err=True)
        finally:
            published = None if into is None else _publish(request, into, prune)
        told.append({"part": part.name, "run": str(request.folder), "published": published})
    if as_json:
        echo_json({"slice": plan.name, "parts": told, "failed": failed})
    else:
        rows = [(one["part"], one["run"], "-" if one["published"] is None else one["published"]) for one in told]
        click.echo(table(("PART", "RUN", "RECORDS PUBLISHED"), rows))
    if failed:
        ctx.exit(1)


def _request(plan: Slice, part: SlicePart, runs_dir: Path, jobs: int | None) -> Request:
    from diffbench.request import Request

    fields = {name: getattr(part.run, name) for name in part.run.model_fields_set}
    given = tuple(fields)
    if jobs is not None:
        fields["jobs"] = jobs
    return Request.of(fields, given, argv=sys.argv, name=plan.run_name(part), runs_dir=runs_dir)


def _publish(request: Request, into: Path, prune: bool) -> int | None:
    """How many records of a part are published; None: there is none yet."""
    from diffbench.publishing import publish
    from diffbench.run_folder import CELLS, RECORD_FILE

    if not any((request.folder / CELLS).glob(f"*/{RECORD_FILE}")):
        return None
    return publish(request.folder, into, request.folder.name, prune=prune)[1]


def _print_plan(asked: list[tuple[SlicePart, Request]], wanted_json: bool) -> None:
    from diffbench.duration import told

    found = [(part, request.foresee()) for part, request in asked]
    if wanted_json:
        parts = [
            {"part": part.name, "why": part.why, "cells": len(plan.cells), "seconds": round(plan.time.total, 1)}
            for part, plan in found
        ]
        echo_json({"parts": parts, "seconds": round(sum(plan.time.total for _, plan in found), 1)})
        return
    rows = [
        (
            part.name,
            len(plan.cells),
            sum(step.step == "finished" for step in plan.cells),
            told(plan.time.total),
            part.why,
        )
        for part, plan in found
    ]
    click.echo(table(("PART", "CELLS", "FINISHED", "PROJECTED", "WHY"), rows))
    click.echo(f"projected: {told(sum(plan.time.total for _, plan in found))} in all")
