"""``diffbench leaderboard`` and ``diffbench show``: tables from finished runs."""

from __future__ import annotations

from pathlib import Path

import click

from diffbench.cli import Group
from diffbench.cli.terminal import as_json, echo_json, table_width
from diffbench.errors import DiffbenchError


@click.group(cls=Group)
def leaderboard() -> None:
    """Build tables and pages from finished runs."""


@leaderboard.command("build", epilog="Example: diffbench leaderboard build runs/monday runs/tuesday --out leaderboard")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write to.")
@as_json
def build_leaderboard(runs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Write leaderboard.md, .csv and .json from the records of finished runs.

    Nothing is run again and no model is loaded: equal records give equal files. Failed cells and controls are shown,
    and 'n/a' where a method cannot be asked.
    """
    from diffbench.board_page import counts
    from diffbench.leaderboard import collect, write
    from diffbench.run_folder import read_run

    board = collect([read_run(path) for path in runs])
    try:
        files = write(board, out)
    except OSError as error:
        raise DiffbenchError(f"{out}: cannot be written ({error.strerror}); name another --out") from error
    if as_json:
        echo_json({"files": [str(path) for path in files], "runs": board.runs, "damaged": board.damaged})
    else:
        click.echo("\n".join(str(path) for path in files))
    click.echo(counts(board), err=True)


@click.command(epilog="Example: diffbench show runs/monday")
@click.argument("run", type=click.Path(path_type=Path))
@as_json
def show(run: Path, as_json: bool) -> None:
    """Show the table of one run, its pairs, and what failed and why.

    RUN is a run folder, its run.json, or the name of a folder in runs/. A narrow terminal gets the essential columns.
    """
    from diffbench.board_page import text
    from diffbench.leaderboard import collect, document
    from diffbench.run_folder import CELLS, read_run

    named = Path("runs") / run
    found = read_run(named if not run.exists() and named.is_dir() else run)
    board = collect([found])
    if as_json:
        echo_json(document(board))
        return
    click.echo(text(board, table_width()), nl=False)
    click.echo(f"\nrecords, Diffs and logs of each cell: {found.path / CELLS}")
    click.echo(f"as files: diffbench leaderboard build {found.path} --out leaderboard")
