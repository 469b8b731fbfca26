"""``diffbench run``: organisms x methods x seeds, scored, as a table."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffbench.cli.own import own_pair, pair_of
from diffbench.cli.seeds import organism_seeds
from diffbench.cli.terminal import as_json, echo_json, log_on_stderr, progress, table_width
from diffbench.errors import OptionError
from diffbench.line import one_line

if TYPE_CHECKING:
    from diffbench.run import RunOutcome

LONGEST_NAME = 100


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
@click.option("--judge", default="offline", show_default=True, help="Who scores interpretability.")
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
@as_json
@click.pass_context
def run(ctx: click.Context, /, options: tuple[str, ...], name: str | None, runs_dir: Path, **asked: Any) -> None:
    """Run methods on organisms, or on two models of one's own, blind, and score them.

    Organisms are built and checked when they are first needed. The same command again reuses whatever is finished.
    Exit code 1 if a cell failed, 2 if the run could not start.
    """
    from diffbench.plugins import load_plugins
    from diffbench.run import RunConfig, execute

    wanted_json, overwrite = asked.pop("as_json"), asked.pop("overwrite")
    pair = pair_of(asked)
    config = RunConfig(options=parse_options(options), pair=pair, **asked)
    passed = {key: value for key, value in config.model_dump(mode="json").items() if _given(ctx, key)}
    if name is not None and Path(name).name != name:
        raise OptionError(f"name: {name!r} is a path; a run lies in --runs-dir under a plain name")
    named = (Path(organism).stem for organism in config.organisms) if pair is None else (pair.recipe().name,)
    folder = runs_dir / (name or re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(named))[:LONGEST_NAME])
    started = time.monotonic()
    with progress() as notify, log_on_stderr():
        outcome = execute(config, folder, passed=passed, argv=tuple(sys.argv), notify=notify, overwrite=overwrite)
    _print(outcome, wanted_json)
    seconds = time.monotonic() - started
    click.echo(
        f"{len(outcome.records)} cells ({outcome.reused} reused, {len(outcome.failed)} failed) in {seconds:.0f} s; "
        f"records, Diffs and logs: {outcome.folder}",
        err=True,
    )
    if not config.methods and (broken := load_plugins().failures):
        click.echo(
            f"{len(broken)} plugins failed to load, and their methods are missing; see `diffbench plugins`", err=True
        )
    for record in outcome.failed:
        click.echo(f"failed: {record.cell.organism} {record.cell.row}: {one_line(record.reason)}", err=True)
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
    from diffbench.run_folder import Run, read_run_file

    board = collect([Run(outcome.folder, read_run_file(outcome.folder), outcome.records, (), ())])
    if wanted_json:
        echo_json(document(board))
    else:
        click.echo(text(board, table_width()), nl=False)
