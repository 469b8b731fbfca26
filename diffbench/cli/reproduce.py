"""``diffbench reproduce``: the claims of the literature, as studies whose margins were set before they were run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffbench.cli.terminal import as_json, echo_json, log_on_stderr, progress, table
from diffbench.line import one_line

if TYPE_CHECKING:
    from diffbench.study import Registration


@click.command(
    epilog="Examples: diffbench reproduce --list    |    diffbench reproduce C1 C5    |    "
    "diffbench reproduce --out leaderboard/reproduction.md"
)
@click.argument("studies", nargs=-1, metavar="[STUDY]...")
@click.option("--list", "listing", is_flag=True, help="List the registered studies, and stop.")
@click.option(
    "--runs-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Where run folders lie; finished cells and measurements are reused.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the page, as Markdown.")
@click.option("--tier", help="Another tier than was registered, for a trial: smoke, laptop or workstation.")
@click.option("--jobs", type=click.IntRange(1), help="Processes side by side; results do not depend on it.")
@as_json
@click.pass_context
def reproduce(ctx: click.Context, /, studies: tuple[str, ...], listing: bool, **asked: Any) -> None:
    """Measure claims of the literature on model diffing; no STUDY: all of them.

    Each is an inequality with a margin that was registered before it was run. Its verdict is holds, does not hold
    here, or undecided, over organism seeds. Exit code 0 whatever the verdicts are, 1 if something could not be
    measured, 2 if nothing could be started.
    """
    from diffbench.atomic import write_text
    from diffbench.reproduction import reproduce as carry_out
    from diffbench.reproduction_page import TEXT, page, text
    from diffbench.study import registration
    from diffbench.study_plan import plan
    from diffbench.tier import find_tier

    registered = registration()
    if listing:
        click.echo(_listed(registered, studies))
        return
    if asked["tier"] is not None:
        find_tier(asked["tier"])
    what = plan(registered, studies, asked["runs_dir"], tier=asked["tier"], jobs=asked["jobs"])
    missing = len(what.missing())
    click.echo(
        f"{len(what.studies)} studies, {len(what.cells)} cells, {missing} of them to run; "
        f"projected: {what.projected() / 60:.0f} min with {what.jobs} jobs",
        err=True,
    )
    with progress() as notify, log_on_stderr():
        found = carry_out(what, notify, tuple(sys.argv))
    if asked["out"] is not None:
        asked["out"].parent.mkdir(parents=True, exist_ok=True)
        write_text(asked["out"], page(found))
    if asked["as_json"]:
        echo_json(found.model_dump(mode="json"))
    else:
        click.echo(table(TEXT, text(found)))
    click.echo(f"measured in {found.seconds / 60:.1f} min ({found.projected / 60:.0f} projected)", err=True)
    for error in found.errors:
        click.echo(f"failed: {one_line(error)}", err=True)
    if found.errors:
        ctx.exit(1)


def _listed(registered: Registration, names: tuple[str, ...]) -> str:
    rows = [(study.name, len(study.tests), study.claim) for study in registered.named(names)]
    return table(("STUDY", "TESTS", "CLAIM"), rows)
