"""``diffbench run``: organisms x methods x seeds, scored, as a table."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffbench.cli.own import own_pair, pair_of
from diffbench.cli.seeds import organism_seeds
from diffbench.cli.terminal import as_json, echo_json, log_on_stderr, progress, table, table_width
from diffbench.errors import OptionError
from diffbench.line import one_line

if TYPE_CHECKING:
    from diffbench.campaign import RunOutcome
    from diffbench.projection import Projection

STEPS = {"finished": "nothing, finished", "score": "score the fit", "run": "run the method, score"}


@click.command(
    epilog="Examples: diffbench run --organism halfswap    |    "
    "diffbench run --organism halfswap --method diff-sae -o diff-sae.k=16 --seed 0 --seed 1    |    "
    "diffbench run --organism halfswap --method diff-sae --method diff-sae@frequency    |    "
    "diffbench run --base google/gemma-2-2b --tuned google/gemma-2-2b-it --text my-texts.jsonl"
)
@click.option("--organism", "organisms", multiple=True, help="Name or recipe file; repeat for several.")
@own_pair
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="Name, or NAME@COLUMN to rank its latents anew; repeat.  [default: all installed]",
)
@click.option(
    "--controls/--no-controls",
    default=True,
    show_default=True,
    help="Run oracle, nothing and random-dictionary beside the methods named.",
)
@click.option("-o", "--option", "options", multiple=True, metavar="METHOD.KEY=VALUE", help="Set a method's option.")
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    type=click.IntRange(0, 2**63 - 1),
    default=(0,),
    show_default=True,
    help="Seed of the methods; repeat for several.",
)
@click.option(
    "--reference",
    "references",
    multiple=True,
    type=click.Choice(["base", "control"]),
    default=("base",),
    show_default=True,
    help="What the tuned model is compared with; control isolates the intended change.",
)
@organism_seeds
@click.option("--tier", default="laptop", show_default=True, help="Budget: smoke, laptop or workstation.")
@click.option(
    "--judge",
    default="offline",
    show_default=True,
    help="Who scores interpretability: NAME, or NAME:MODEL; see `diffbench judge list`.",
)
@click.option("--layer", type=click.IntRange(0), help="Override the layer rule (a track of its own).")
@click.option(
    "--harvest-dtype",
    type=click.Choice(["float32", "bfloat16", "auto"]),
    default="float32",
    show_default=True,
    help="What the models compute activations in. bfloat16 is refused, and auto avoids it, where the difference "
    "of the models is less than 10 times its rounding error.",
)
@click.option(
    "--streaming",
    is_flag=True,
    help="Train on activations made on the fly, in bounded memory, and store a sample of them only.",
)
@click.option("--jobs", type=click.IntRange(1), help="Processes side by side; scores do not depend on it.")
@click.option("--name", help="Name of the run folder.  [default: the organisms' names]")
@click.option(
    "--runs-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Where run folders lie.",
)
@click.option("--overwrite", is_flag=True, help="Run finished cells again, their methods too.")
@click.option("--dry-run", is_flag=True, help="Print what would be done and how long it would take, and do nothing.")
@as_json
@click.pass_context
def run(ctx: click.Context, /, options: tuple[str, ...], name: str | None, runs_dir: Path, **asked: Any) -> None:
    """Run methods on organisms, or on two models of one's own, blind, and score them.

    Organisms are built and checked when they are first needed. The same command again reuses whatever is finished.
    Exit code 1 if a cell failed, 2 if the run could not start.
    """
    from diffbench.request import Request

    wanted_json, overwrite, dry_run = (asked.pop(name) for name in ("as_json", "overwrite", "dry_run"))
    pair = pair_of(asked)
    fields = asked | {"options": parse_options(options), "pair": pair}
    given = [key for key in fields if _given(ctx, key)]
    request = Request.of(fields, given, argv=sys.argv, name=name, runs_dir=runs_dir, overwrite=overwrite)
    if dry_run:
        _print_plan(request.foresee(), wanted_json)
        return
    started = time.monotonic()
    with progress() as notify, log_on_stderr():
        outcome = request.execute(notify)
    _print(outcome, wanted_json)
    for line in request.closing(outcome, time.monotonic() - started):
        click.echo(line, err=True)
    if outcome.failed:
        ctx.exit(1)


def parse_options(options: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``method.key=value`` strings as options by method.

    Raises:
        OptionError: if one has another form.
    """
    parsed: dict[str, dict[str, Any]] = {}
    for option in options:
        left, equals, value = option.partition("=")
        method, dot, key = left.rpartition(".")
        if not (equals and dot and method and key):
            raise OptionError(f"-o {option!r}: write METHOD.KEY=VALUE, for example diff-sae.k=16")
        if not option.isprintable():
            raise OptionError(f"-o {option!a}: holds characters that are no text")
        parsed.setdefault(method, {})[key] = value
    return parsed


def _given(ctx: click.Context, name: str) -> bool:
    from click.core import ParameterSource

    return ctx.get_parameter_source(name) not in (None, ParameterSource.DEFAULT)


def _print(outcome: RunOutcome, wanted_json: bool) -> None:
    """The table of this run's cells, without those that an earlier command left in the same folder."""
    from diffbench.board import collect
    from diffbench.board_page import text
    from diffbench.leaderboard import document

    board = collect([outcome.run()])
    if wanted_json:
        echo_json(document(board) | {"time": None if outcome.time is None else outcome.time.model_dump()})
    else:
        click.echo(text(board, table_width()), nl=False)


def _print_plan(plan: Projection, wanted_json: bool) -> None:
    """What a run would do, cell by cell, and how long it would take."""
    from diffbench.duration import told

    if wanted_json:
        cells = [
            {"organism": step.cell.organism, "reference": step.cell.reference, "row": step.cell.row,
             "seed": step.cell.seed, "tier": step.cell.tier, "step": step.step, "seconds": round(step.seconds, 1)}
            for step in plan.cells
        ]  # fmt: skip
        judging = None if plan.judging is None else plan.judging.model_dump()
        echo_json(
            {"cells": cells, "models": plan.models, "pairs": plan.comparisons, "time": plan.time.model_dump(),
             "judging": judging}
        )  # fmt: skip
        return
    rows = [
        (step.cell.organism, step.cell.reference, step.cell.row, step.cell.seed, STEPS[step.step],
         "-" if step.step == "finished" else told(step.seconds))
        for step in plan.cells
    ]  # fmt: skip
    click.echo(table(("ORGANISM", "AGAINST", "ROW", "SEED", "TO DO", "TIME"), rows))
    click.echo()
    for what, names in (("to be trained", plan.models), ("to be prepared", plan.comparisons)):
        if names:
            click.echo(f"{what}: {', '.join(map(one_line, names))}")
    click.echo(f"projected: {plan.told()}")
