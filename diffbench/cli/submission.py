"""``diffbench leaderboard submit``, ``verify``, ``merge`` and ``diff``: how rows of others come into a leaderboard."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffbench.cli.terminal import as_json, echo_json, log_on_stderr, progress, table
from diffbench.errors import OptionError, SubmissionError
from diffbench.line import one_line

if TYPE_CHECKING:
    from diffbench.board_diff import BoardDiff, RowChange
    from diffbench.packing import Packing
    from diffbench.verification import Verification

LISTED = 50
ARCHIVE = click.argument("archive", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
MB = 1e6


@click.command(
    epilog="Examples: diffbench leaderboard submit runs/monday --out monday.tar.gz    |    "
    "diffbench leaderboard submit runs/monday --out monday.tar.gz --no-weights --dry-run"
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Archive to write, FILE.tar.gz.")
@click.option("--name", help="Of the submission, and of its folder in a leaderboard.  [default: the run's]")
@click.option(
    "--weights/--no-weights",
    default=True,
    show_default=True,
    help="Carry the weights (of LoRA organisms the adapters) of the tuned models of the cells that carry their Diff.",
)
@click.option("--challenge", help="A word that the maintainers named after they were told the commitment.")
@click.option("--dry-run", is_flag=True, help="Print commitment, cells and sizes, and write nothing.")
@as_json
def submit(
    run: Path, out: Path | None, name: str | None, weights: bool, challenge: str | None, dry_run: bool, as_json: bool
) -> None:
    """Pack a finished run into one archive for a leaderboard.

    It holds run.json without paths, the record of every cell, what a judge was shown and said, and the Diffs of a
    twentieth of the cells with scores, one at least, which a hash over all records chooses: whoever verifies it
    scores these again. Equal runs give equal archives. A file that holds a path or a secret of this machine is refused.
    """
    from diffbench.packing import pack
    from diffbench.run_folder import find_run

    if out is None and not dry_run:
        raise OptionError("--out: name the archive to write, for example --out monday.tar.gz")
    if out is not None and not out.name.endswith(".tar.gz"):
        raise OptionError(f"--out: {out.name!r} does not end in .tar.gz")
    packing = pack(find_run(run), name=name, weights=weights, challenge=challenge)
    for line in packing.left_out:
        click.echo(f"left out: {one_line(line)}", err=True)
    if packing.weights:
        told = (
            "carried; --no-weights leaves them out" if weights else "left out: they will be trained from their recipes"
        )
        click.echo(f"weights: {packing.weights / MB:.1f} MB, {told}", err=True)
    if out is not None and not dry_run:
        packing.write(out)
    _print_packing(packing, None if dry_run else out, as_json)


def _print_packing(packing: Packing, out: Path | None, as_json: bool) -> None:
    manifest = packing.manifest
    picked = [cell for cell in manifest.cells if cell.carries_diff]
    size = None if out is None else out.stat().st_size
    if as_json:
        echo_json(
            {
                "file": None if out is None else str(out),
                "bytes": size,
                "unpacked": packing.size,
                "weights": packing.weights,
                "manifest": manifest.model_dump(mode="json"),
            }
        )
        return
    if out is not None and size is not None:
        click.echo(f"{out}: {size / MB:.1f} MB")
    click.echo(f"commitment: {manifest.commitment}")
    click.echo(
        f"{len(manifest.cells)} cells, {len(manifest.unfinished)} unfinished, {len(picked)} with their Diff; "
        f"{len(manifest.members)} files, {packing.size / MB:.1f} MB unpacked"
    )
    for cell in picked[:LISTED]:
        click.echo(f"with its Diff: {one_line(cell.name, 300)}")


@click.command(
    epilog="Examples: diffbench leaderboard verify monday.tar.gz    |    "
    "diffbench leaderboard verify monday.tar.gz --fresh-cache --json"
)
@ARCHIVE
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Verification file.  [default: beside FILE]"
)
@click.option("--challenge", help="The word that the choice of the Diffs must hang on.")
@click.option("--organism", "organisms", multiple=True, help="Recipe of an organism that is not installed; repeat.")
@click.option("--absolute", type=click.FloatRange(0), help="By which a figure may differ.  [default: 0.001]")
@click.option("--relative", type=click.FloatRange(0), help="The same, as a share of the figure.  [default: 0.001]")
@click.option("--fresh-cache", is_flag=True, help="Make organisms anew in a cache of their own, which is removed.")
@click.option("--jobs", type=click.IntRange(1), help="Processes side by side; scores do not depend on it.")
@as_json
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    archive: Path,
    out: Path | None,
    absolute: float | None,
    relative: float | None,
    fresh_cache: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Find out whether a submission is what it says.

    Nothing in FILE is believed or unpacked where it wants to be. Checked are schema, hashes, versions, completeness,
    the choice of the Diffs, and that judges' figures follow from their verdicts; the cells that carry their Diff are
    scored again on a pair made here, and every figure is compared. Their rows are verified, the others are not. Exit
    code 1 if anything is refused.
    """
    from diffbench.atomic import write_text
    from diffbench.examination import examine, untouched_cache
    from diffbench.merging import beside
    from diffbench.verification import Tolerance

    given = {name: value for name, value in (("absolute", absolute), ("relative", relative)) if value is not None}
    target = out or beside(archive)
    try:
        with tempfile.TemporaryDirectory(prefix="diffbench-verify-") as folder, progress() as notify, log_on_stderr():
            work = Path(folder)
            with untouched_cache(work / "cache" if fresh_cache else None):
                found = examine(archive, work, notify, tolerance=Tolerance(**given), **asked)
    except SubmissionError as error:
        if as_json:
            echo_json({"accepted": False, "problems": [one_line(error, 500)], "rows": []})
        click.echo(f"refused: {one_line(error, 500)}", err=True)
        ctx.exit(1)
    write_text(target, found.model_dump_json(indent=1) + "\n")
    _print_verification(found, target, as_json)
    if not found.accepted:
        ctx.exit(1)


def _print_verification(found: Verification, target: Path, as_json: bool) -> None:
    if as_json:
        echo_json(found.model_dump(mode="json"))
    else:
        shown = [row for row in found.rows if row.state != "unverified"]
        rows = [
            (row.state, one_line(row.name, 120), row.figures, "-" if row.largest is None else f"{row.largest:.2g}",
             row.weights or "-", row.judging or "-")
            for row in shown
        ]  # fmt: skip
        click.echo(table(("STATE", "CELL", "FIGURES", "LARGEST DIFFERENCE", "WEIGHTS", "JUDGING"), rows))
    for problem in found.problems[:LISTED]:
        click.echo(f"refused: {one_line(problem, 500)}", err=True)
    if found.unfinished:
        names = [one_line(cell.name, 200) for cell in found.unfinished[:LISTED]]
        more = f" and {len(found.unfinished) - LISTED} more" if len(found.unfinished) > LISTED else ""
        click.echo(f"{len(found.unfinished)} cells asked for and not there: {', '.join(names)}{more}", err=True)
    for row in [row for row in found.rows if row.state == "verified" and row.reason][:LISTED]:
        click.echo(f"{one_line(row.name, 200)}: {one_line(row.reason, 500)}", err=True)
    for row in [row for row in found.rows if row.state == "refused"][:LISTED]:
        click.echo(f"refused: {one_line(row.name, 200)}: {one_line(row.reason, 500)}", err=True)
    click.echo(
        f"{found.count('verified')} rows verified, {found.count('unverified')} unverified, {found.count('refused')} "
        f"refused; written to {target}",
        err=True,
    )


@click.command(epilog="Example: diffbench leaderboard merge monday.tar.gz --into leaderboard")
@ARCHIVE
@click.option("--into", required=True, type=click.Path(path_type=Path, file_okay=False), help="A leaderboard's folder.")
@click.option(
    "--verification",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What `verify` wrote.  [default: beside FILE]",
)
@as_json
def merge(archive: Path, into: Path, verification: Path | None, as_json: bool) -> None:
    """Put a verified submission's records into a leaderboard's records/, without touching anybody else's.

    The verification file is trusted as it is: make it yourself with `verify`, and take none that came with FILE.
    Rows that were not scored again stay marked as unverified. Repeating it changes nothing; a name that is taken by
    other records is refused.
    """
    from diffbench.merging import RECORDS, beside
    from diffbench.merging import merge as put

    merged = put(archive, into, verification)
    if as_json:
        echo_json({"folder": str(merged.folder), "new": merged.new})
    else:
        click.echo(merged.folder)
    found = merged.verification
    trusted = one_line(str(verification or beside(archive)), 300)
    click.echo(f"trusted as it is: {trusted}, which says who verified what; it must be your own", err=True)
    told = f"{found.count('verified')} verified and {found.count('unverified')} unverified rows"
    click.echo(f"{told} {'added' if merged.new else 'were there already'}", err=True)
    click.echo(f"build the tables with: diffbench leaderboard build {into / RECORDS}/* --out {into}", err=True)


@click.command(
    epilog="Examples: diffbench leaderboard diff before/leaderboard.json leaderboard    |    "
    "diffbench leaderboard diff runs/monday runs/tuesday --relative 0.05"
)
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--absolute", type=click.FloatRange(0), default=1e-9, show_default=True, help="That counts as the same.")
@click.option("--relative", type=click.FloatRange(0), default=1e-6, show_default=True, help="As a share of the figure.")
@as_json
def diff(before: Path, after: Path, absolute: float, relative: float, as_json: bool) -> None:
    """Compare two states of a leaderboard: rows that came, went or changed, and ranks that moved.

    A state is a leaderboard.json, a run folder, or a folder of run folders, as `leaderboard/` with its records/.
    """
    from diffbench.board_diff import compare_boards
    from diffbench.verification import Tolerance

    found = compare_boards(before, after, Tolerance(absolute=absolute, relative=relative))
    if as_json:
        echo_json(found.model_dump(mode="json"))
    else:
        _print_diff(found)
    click.echo(
        f"{found.rows_before} rows before, {found.rows_after} after: {len(found.added)} added, {len(found.removed)} "
        f"removed, {len(found.changed)} changed, {len(found.ranks)} ranks moved",
        err=True,
    )


def _print_diff(found: BoardDiff) -> None:
    if found.same:
        click.echo("no difference")
    for what, rows in (("added", found.added), ("removed", found.removed)):
        for row in rows:
            click.echo(f"{what}: {_name(row)}")
    for row in found.changed:
        moves = ", ".join(f"{move.name} {_shown(move.before)} -> {_shown(move.after)}" for move in row.moves)
        click.echo(f"changed: {_name(row)}: {moves}")
    for rank in found.ranks:
        click.echo(f"rank: {rank.label} ({rank.table}): {rank.before or '-'} -> {rank.after or '-'}")


def _name(row: RowChange) -> str:
    which = f"{row.organism} v{row.organism_version} {row.row} #{row.variant} s{row.seed}"
    return f"{which} against {row.reference}, tier {row.tier}, judge {row.judge}"


def _shown(value: float | str | None) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else value
