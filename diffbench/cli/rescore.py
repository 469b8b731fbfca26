"""``diffbench rescore``: a finished run scored anew from its Diffs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffbench.cli.terminal import as_json, echo_json, log_on_stderr, progress, table_width
from diffbench.line import one_line

if TYPE_CHECKING:
    from diffbench.rescore import RescoreOutcome


@click.command(epilog="Examples: diffbench rescore runs/halfswap    |    diffbench rescore theirs --organism ours.yaml")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--judge", help="Who scores interpretability: NAME, or NAME:MODEL.  [default: who did]")
@click.option(
    "--organism",
    "organisms",
    multiple=True,
    help="Name or recipe file of an organism of the run, if it is not where the run says; repeat for several.",
)
@click.option("--jobs", type=click.IntRange(1), help="Processes side by side; scores do not depend on it.")
@click.option("--dry-run", is_flag=True, help="Print how many cells would be scored and what a judge would cost.")
@as_json
@click.pass_context
def rescore(
    ctx: click.Context,
    run: Path,
    judge: str | None,
    organisms: tuple[str, ...],
    jobs: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Score every finished cell of a run anew from the Diff that it kept. No method is run, or need be installed.

    RUN is a run folder or the name of a folder in runs/, whichever version of diffbench made it. A record is replaced
    when its new scores are there; a cell whose pair or Diff is not the same any more is refused and keeps what it has.
    Cells that are up to date are reused; another judge's rows stand beside the old ones. Exit code 1 if a cell could
    not be re-scored.
    """
    from diffbench.rescore import foresee
    from diffbench.rescore import rescore as score_anew
    from diffbench.run_folder import find_run

    folder = find_run(run)
    if dry_run:
        n, judging = foresee(folder, judge, organisms)
        if as_json:
            echo_json({"cells": n, "judging": None if judging is None else judging.model_dump()})
        else:
            click.echo(f"{n} cells to score" + ("" if judging is None else f"; {judging}"))
        return
    started = time.monotonic()
    with progress() as notify, log_on_stderr():
        outcome = score_anew(folder, notify, judge=judge, organisms=organisms, jobs=jobs)
    _print(outcome, as_json)
    click.echo(
        f"{len(outcome.records) - outcome.reused} cells re-scored, {outcome.reused} reused, {len(outcome.failed)} "
        f"failed, {len(outcome.refused)} refused in {time.monotonic() - started:.0f} s; records: {outcome.folder}",
        err=True,
    )
    for record in outcome.failed:
        click.echo(f"failed: {record.cell.organism} {record.cell.row}: {one_line(record.reason)}", err=True)
    for refused in outcome.refused:
        click.echo(f"refused: {one_line(refused.name)}: {one_line(refused.reason)}", err=True)
    if outcome.refused or outcome.failed:
        ctx.exit(1)


def _print(outcome: RescoreOutcome, as_json: bool) -> None:
    from diffbench.board import collect
    from diffbench.board_page import text
    from diffbench.leaderboard import document
    from diffbench.run_folder import Run, read_run_file

    board = collect([Run(outcome.folder, read_run_file(outcome.folder), outcome.records, (), ())])
    if as_json:
        refused = [{"cell": one_line(cell.name), "reason": one_line(cell.reason)} for cell in outcome.refused]
        echo_json(document(board) | {"reused": outcome.reused, "refused": refused})
    else:
        click.echo(text(board, table_width()), nl=False)
