"""``diffbench leaderboard`` and ``diffbench show``: tables, standings and change detection from finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffbench.cli import Group, slice, submission
from diffbench.cli.terminal import as_json, echo_json, table_width
from diffbench.errors import DiffbenchError, UnknownName

if TYPE_CHECKING:
    from diffbench.board import Board

RUNS = click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))


@click.group(cls=Group)
def leaderboard() -> None:
    """Build tables and pages from finished runs."""


for command in (submission.submit, submission.verify, submission.merge, submission.diff, slice.run_slice):
    leaderboard.add_command(command)


@leaderboard.command("build", epilog="Example: diffbench leaderboard build runs/monday runs/tuesday --out leaderboard")
@RUNS
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write to.")
@as_json
def build_leaderboard(runs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Write leaderboard.md, .csv, .json and a static site from the records of finished runs.

    index.html is the page of all results, with a page for each organism and each method; it works from a folder and on
    GitHub Pages, and loads nothing from elsewhere. Pages of an earlier build that are no more are removed.

    Nothing is run again and no model is loaded: equal records give equal files. Failed cells and controls are shown,
    and 'n/a' where a method cannot be asked. Where runs hold several organisms the standings over them are in it, and
    where they hold nulls the detection of change.
    """
    from diffbench.garbage import uncollected
    from diffbench.leaderboard import FILES

    try:
        with uncollected():
            made, told = _built(runs, out)
    except OSError as error:
        raise DiffbenchError(f"{out}: cannot be written ({error.strerror}); name another --out") from error
    if as_json:
        echo_json(made)
    else:
        click.echo("\n".join(str(out / name) for name in (*FILES, "index.html")))
    click.echo(told, err=True)


@leaderboard.command(
    "standings",
    epilog="Examples: diffbench leaderboard standings runs/monday    |    "
    "diffbench leaderboard standings runs/monday --metric claims_recall --metric r_model    |    "
    "diffbench leaderboard standings runs/monday --organism halfswap --metric all",
)
@RUNS
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="A figure of the leaderboard's data that has a direction; repeat for several, or 'all' for the usual ones: "
    "headline, budget_mean, claims_recall, auroc_first, direction_first, installed, removed, detection_lift.  "
    "[default: headline]",
)
@click.option("--organism", help="Only this organism, over its seeds.  [default: all in which something was changed]")
@as_json
def standings(runs: tuple[Path, ...], metrics: tuple[str, ...], organism: str | None, as_json: bool) -> None:
    """Rank methods over organisms, as far as the records separate them.

    Means and 95% intervals are over the highest independent unit of which there are three: families, else organisms,
    else organism seeds, else method seeds. A method gets one rank only where paired tests, corrected over all pairs
    (Holm), leave it no other; else a range, and a letter that it shares with those it is not separated from. For
    neighbours that are not separated it says how many more units would be needed.

    Controls are pinned and never ranked. A method that failed or cannot be asked somewhere is compared on common
    organisms alone, and shows no mean. The lift is over the best cheap baseline, chosen on other families.
    """
    from diffbench.leaderboard import described
    from diffbench.standing import PairTest, Standing, StandingRow
    from diffbench.standings import chosen, organisms_of
    from diffbench.standings import standings as stand
    from diffbench.standings_page import text

    asked = chosen(metrics)
    board = _board(runs)
    known = organisms_of(board.rows)
    if organism is not None and organism not in known:
        raise UnknownName("organism in these runs", organism, known)
    tables = stand(board.rows, asked, scope=organism)
    if not tables:
        what = "any of the figures" if len(asked) > 1 else asked[0]
        where = f"of {organism}" if organism else "of an organism in which something was changed"
        raise DiffbenchError(f"no finished cell {where} has {what}; `diffbench show RUN` says why")
    if as_json:
        columns = described(Standing, rows=StandingRow, pairs=PairTest)
        found = [table.model_dump(mode="json") for table in tables]
        echo_json({"standings_columns": columns, "standings": found})
    else:
        click.echo(text(tables, table_width()), nl=False)


@leaderboard.command(
    "detection",
    epilog="Examples: diffbench run --organism identity --organism continued --organism-seeds 1-60 --name nulls    "
    "|    diffbench leaderboard detection runs/monday runs/nulls",
)
@RUNS
@as_json
def detection(runs: tuple[Path, ...], as_json: bool) -> None:
    """Show whether methods alarm where something was changed, and keep quiet where nothing was.

    Changed organisms are set against nulls, class by class: identity (the same weights), continued (more training on
    the same text), control (a fine-tune without the change) and, as a track of its own, gauge (another basis).

    A rate at 5% needs 20 independent nulls, at 1% 100; with fewer it is n/a. A null is an organism at a seed:
    --organism-seeds of `diffbench run` makes as many as it takes. Verdicts are counted apart from change scores, and
    abstaining is neither a hit nor an alarm.
    """
    from diffbench.change_detection import ChangeDetection, DetectionRow, change_detection
    from diffbench.change_page import text
    from diffbench.leaderboard import described

    tables = change_detection(_board(runs).rows)
    if not tables:
        raise DiffbenchError(
            "these runs hold no nulls; make some with `diffbench run --organism identity --organism continued "
            "--organism-seeds 1-60`"
        )
    if as_json:
        found = [table.model_dump(mode="json") for table in tables]
        columns = described(ChangeDetection, rows=DetectionRow)
        echo_json({"change_detection_columns": columns, "change_detection": found})
    else:
        click.echo(text(tables, table_width()), nl=False)


@click.command(epilog="Example: diffbench show runs/monday")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--details", is_flag=True, help="Show the other scores: R_model, necessity, off-target KL, direction, …")
@as_json
def show(run: Path, details: bool, as_json: bool) -> None:
    """Show the table of one run, its pairs, and what failed and why.

    RUN is a run folder, its run.json, or the name of a folder in runs/. A narrow terminal gets the essential columns.
    Of an organism that was run at several seeds one is shown; `diffbench leaderboard standings` puts them together.
    """
    from diffbench.board_page import text
    from diffbench.leaderboard import document
    from diffbench.run_folder import CELLS

    board = _board((run,))
    if as_json:
        echo_json(document(board))
        return
    folder = _place(run)
    folder = folder if folder.is_dir() else folder.parent
    click.echo(text(board, table_width(), details), nl=False)
    click.echo(f"\nrecords, Diffs and logs of each cell: {folder / CELLS}")
    click.echo(f"as files: diffbench leaderboard build {folder} --out leaderboard")


def _place(run: Path) -> Path:
    """A run as it was named, or the folder of that name in runs/."""
    named = Path("runs") / run
    return named if not run.exists() and named.is_dir() else run


def _built(runs: tuple[Path, ...], out: Path) -> tuple[dict[str, object], str]:
    """What was built, and a line about it; the board is gone before anybody searches it for cycles."""
    from diffbench.board_page import counts
    from diffbench.leaderboard import write

    board = _board(runs)
    files = write(board, out)
    return {"files": [str(path) for path in files], "runs": board.runs, "damaged": board.damaged}, counts(board)


def _board(runs: tuple[Path, ...]) -> Board:
    from diffbench.leaderboard import collect
    from diffbench.run_folder import read_run

    return collect([read_run(_place(run)) for run in runs])
