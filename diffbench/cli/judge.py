"""``diffbench judge``: which judges there are, and how good and how robust they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffbench.cli import Group
from diffbench.cli.terminal import as_json, echo_json, log_on_stderr, progress, table, table_width
from diffbench.line import one_line

if TYPE_CHECKING:
    from diffbench.gold import GoldSet
    from diffbench.judge import Judge
    from diffbench.quote import Quote
    from diffbench.spending import Allowance, Usage
    from diffbench.truth import Schema

Command = Callable[..., Any]


@click.group(cls=Group)
def judge() -> None:
    """List, calibrate, attack and replay judges."""


def asking(command: Command) -> Command:
    """The options of commands that ask a judge."""
    for option in reversed(
        (
            click.option("--judge", "name", default="offline", show_default=True, help="NAME, or NAME:MODEL."),
            click.option(
                "--gold",
                type=click.Path(path_type=Path, dir_okay=False),
                help="A gold set of your own (YAML).  [default: the bundled one]",
            ),
            click.option("--max-calls", type=click.IntRange(0), help="Most questions that are sent."),
            click.option("--max-cost", type=click.FloatRange(0), help="Most money, in the currency of the prices."),
            click.option("--dry-run", is_flag=True, help="Print calls, tokens and cost, and ask nothing."),
            click.option(
                "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the whole result here as JSON."
            ),
            as_json,
        )
    ):
        command = option(command)
    return command


@judge.command("list")
@as_json
def list_judges(as_json: bool) -> None:
    """List the installed judges."""
    from diffbench.plugins import load_plugins, provenance

    plugins = load_plugins()
    found = [
        {
            "name": cls.name,
            "version": cls.version,
            "needs_model": cls.takes_model,
            "paid": cls.paid,
            "distribution": provenance(cls),
            "summary": cls.summary,
        }
        for cls in plugins.judges.values()
    ]
    if as_json:
        echo_json(found)
        return
    rows = [
        (f"{one['name']}:MODEL" if one["needs_model"] else one["name"], one["version"], one["distribution"],
         one["summary"])
        for one in found
    ]  # fmt: skip
    click.echo(table(("JUDGE", "V", "FROM", "SUMMARY"), rows))
    if plugins.failures:
        click.secho(f"{len(plugins.failures)} failed; see `diffbench plugins`", fg="red", err=True)


@judge.command(
    epilog="Examples: diffbench judge calibrate    |    diffbench judge calibrate --judge openai:MODEL --dry-run"
)
@asking
@click.option(
    "--repeats", type=click.IntRange(1, 20), default=3, show_default=True, help="Times that each grade is asked for."
)
@click.pass_context
def calibrate(ctx: click.Context, /, gold: Path | None, repeats: int, **asked: Any) -> None:
    """Measure a judge against accounts whose grades are known: agreement, kappa, bias and consistency.

    Answers of judges that cost something are kept, and the same command again asks for what is missing alone. Exit code
    1 if a question could not be asked, so that figures rest on fewer accounts.
    """
    from diffbench.calibration import calibrate as measure
    from diffbench.calibration import quote_calibration
    from diffbench.calibration_page import text

    who, against = _judge(asked["name"]), _gold(gold)
    if asked["dry_run"]:
        _print_quote(quote_calibration(who, against, repeats=repeats), asked["as_json"])
        return
    started, allowance = time.monotonic(), _allowance(asked)
    with progress() as notify, log_on_stderr():
        found = measure(who, against, repeats=repeats, allowance=allowance, notify=notify)
    _print(found, lambda: text(found, table_width()), asked)
    _close(found.answers.asked, allowance.spent, time.monotonic() - started)
    if found.answers.unasked:
        click.echo(f"{found.answers.unasked} questions could not be asked; run the command again", err=True)
        ctx.exit(1)


@judge.command(
    epilog="Examples: diffbench judge attack    |    diffbench judge attack --judge openai:MODEL --max-cost 2"
)
@asking
@click.option(
    "--attacks",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Attacks of your own (YAML).  [default: the bundled ones]",
)
@click.option("--bases", type=click.IntRange(1, 500), help="Accounts that each attack is put into.  [default: 6]")
@click.option("--every", is_flag=True, help="Show the attacks that moved nothing, too.")
@click.pass_context
def attack(
    ctx: click.Context, /, gold: Path | None, attacks: Path | None, bases: int | None, every: bool, **asked: Any
) -> None:
    """Put injected texts before a judge, and see whether its verdicts move.

    Exit code 1 if a limit is broken: no verdict may flip, and grades may move by .05 of the scale on average.
    """
    from diffbench.attack import bundled_attacks, read_attacks
    from diffbench.attack_page import text
    from diffbench.attack_run import BASES, attack_judge, quote_attacks

    who, against = _judge(asked["name"]), _gold(gold)
    suite = bundled_attacks() if attacks is None else read_attacks(attacks)
    if asked["dry_run"]:
        _print_quote(quote_attacks(who, suite, against, bases=bases or BASES), asked["as_json"])
        return
    started, allowance = time.monotonic(), _allowance(asked)
    with progress() as notify, log_on_stderr():
        report = attack_judge(who, suite, against, bases=bases or BASES, allowance=allowance, notify=notify)
    _print(report, lambda: text(report, table_width(), every), asked)
    _close(report.answers.asked, allowance.spent, time.monotonic() - started)
    for reason in report.broken:
        click.echo(f"broken: {one_line(reason)}", err=True)
    if report.broken:
        ctx.exit(1)


@judge.command(epilog="Examples: diffbench judge replay runs/halfswap    |    diffbench judge replay theirs --json")
@click.argument("run", type=click.Path(path_type=Path))
@as_json
@click.pass_context
def replay(ctx: click.Context, run: Path, as_json: bool) -> None:
    """Score the judging of a finished run, and its games, again from the verdicts alone: no judge, model or network.

    Every figure of a record that a judge had a part in must follow from the verdicts beside it. What does not is
    listed, with files that are missing or changed, and the exit code is 1.
    """
    from diffbench.replay import replay as play_back
    from diffbench.run_folder import find_run

    found = play_back(find_run(run))
    bad = [cell for cell in found if cell.differences]
    if as_json:
        echo_json(
            [
                {
                    "cell": one.name,
                    "verdicts": one.n_verdicts,
                    "differences": list(one.differences),
                    "same_code": one.same_code,
                }
                for one in found
            ]
        )
    else:
        rows = [
            (one.name, one.n_verdicts, "all of it follows" if not one.differences else f"{len(one.differences)} do not")
            for one in found
        ]
        click.echo(table(("CELL OR GAME", "VERDICTS", "FIGURES"), rows))
        for one in bad:
            for difference in one.differences:
                click.echo(f"{one.name}: {one_line(difference, 300)}")
    click.echo(f"{len(found)} cells and games replayed, {len(bad)} with figures that do not follow", err=True)
    if other := sum(not one.same_code for one in bad):
        click.echo(f"{other} of these were scored by other code, which may be why; see `diffbench rescore`", err=True)
    if bad:
        ctx.exit(1)


def _judge(name: str) -> Judge:
    from diffbench.plugins import find_judge

    return find_judge(name)()


def _gold(path: Path | None) -> GoldSet:
    from diffbench.gold import bundled_gold, read_gold

    return bundled_gold() if path is None else read_gold(path)


def _allowance(asked: dict[str, Any]) -> Allowance:
    from diffbench.spending import Allowance

    return Allowance(calls=asked["max_calls"], money=asked["max_cost"])


def _print(found: Schema, page: Callable[[], str], asked: dict[str, Any]) -> None:
    if asked["out"] is not None:
        from diffbench.atomic import write_text
        from diffbench.canonical import canonical_json

        write_text(asked["out"], canonical_json(found.model_dump(mode="json")) + "\n")
    if asked["as_json"]:
        echo_json(found.model_dump(mode="json"))
    else:
        click.echo(page(), nl=False)


def _print_quote(quote: Quote, as_json: bool) -> None:
    if as_json:
        echo_json(quote.model_dump(mode="json"))
    else:
        click.echo(str(quote))


def _close(questions: int, spent: Usage, seconds: float) -> None:
    cost = "cost not known" if spent.cost is None else f"cost {spent.cost:.4f}"
    paid = f"; {spent.calls} calls, {spent.tokens} tokens, {cost}" if spent.calls else ""
    click.echo(f"{questions} questions in {seconds:.0f} s{paid}", err=True)
