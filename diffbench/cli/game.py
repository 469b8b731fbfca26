"""``diffbench game``: a blind agent states what changed between two models, and is scored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffbench.cli.terminal import as_json, echo_json, log_on_stderr, progress, table
from diffbench.errors import OptionError
from diffbench.line import one_line

if TYPE_CHECKING:
    from diffbench.game_file import PlayedGame
    from diffbench.game_ground import GamePlan
    from diffbench.quote import Quote

FRAMINGS = {"neutral": (False,), "presupposing": (True,), "both": (False, True)}


@click.command(
    epilog="Examples: diffbench game --organism halfswap --access questions    |    "
    "diffbench game runs/halfswap --organism halfswap --method diff-sae    |    "
    "diffbench game runs/halfswap --organism halfswap --method diff-sae --agent openai:MODEL --max-cost 1 --dry-run"
)
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--organism", required=True, help="Name or recipe file; the pair that the game is about.")
@click.option("--method", "row", metavar="ROW", help="Row of RUN whose evidence the agent gets, NAME or NAME@COLUMN.")
@click.option("--seed", "cell_seed", type=click.IntRange(0), help="Seed of that row's method, if there are several.")
@click.option("--reference", type=click.Choice(["base", "control"]), help="What the tuned model is compared with.")
@click.option("--tier", help="Tier of that row, if there are several.")
@click.option("--agent", default="offline", show_default=True, help="Who plays: a judge, NAME or NAME:MODEL.")
@click.option(
    "--grader", default="offline", show_default=True, help="Who grades the account: another judge, if you like."
)
@click.option(
    "--access",
    type=click.Choice(["evidence", "questions", "both"]),
    help="What the agent gets: a method's evidence, questions to both models, or both.  "
    "[default: both with --method, else questions]",
)
@click.option(
    "--framing",
    type=click.Choice(list(FRAMINGS)),
    default="neutral",
    show_default=True,
    help="Tell the agent that nothing may have changed, or that something did; both measures what that does.",
)
@click.option("--questions", type=click.IntRange(0, 200), default=20, show_default=True, help="Prompts it may ask.")
@click.option("--max-calls", type=click.IntRange(1), help="Most calls of one game to the agent; grading has as many.")
@click.option("--max-tokens", type=click.IntRange(1), help="Most tokens, in and out; likewise.")
@click.option("--max-cost", type=click.FloatRange(0, min_open=True), help="Most money, in the currency of the prices.")
@click.option(
    "--repeats",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Games of each framing; each has other draws of the models, and asks the agent anew.",
)
@click.option("--game-seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of what the models say.")
@click.option("--dry-run", is_flag=True, help="Print calls, tokens and cost, and ask nothing.")
@as_json
@click.pass_context
def game(ctx: click.Context, /, run: Path | None, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """Let a blind agent find out what changed between two models, and score what it states.

    The agent sees neither names nor paths: only what a method found (RUN's evidence, explained by the agent itself),
    what the two models say to its prompts, or both. It states what changed or that nothing did, with a confidence. The
    account is held against the truth, beside what abstaining would have got.

    RUN is a run folder or the name of a folder in runs/ [default: runs/ORGANISM]. Without evidence it need not exist.
    Game, transcript and truth are written to RUN/games. Answers of agents that cost something are kept: the same game
    again costs nothing. Exit code 1 if a game came to no account, which is an error and no score.
    """
    from diffbench.arena import foresee, hold

    plan = _plan(asked)
    folder = _folder(run, plan)
    if dry_run:
        _print_quotes(foresee(plan, folder), as_json)
        return
    started = time.monotonic()
    with progress() as notify, log_on_stderr():
        played = hold(plan, folder, notify)
    _print(played, as_json)
    lost = [one for one in played if one.game.state != "ok"]
    click.echo(
        f"{len(played)} games, {len(lost)} without an account, in {time.monotonic() - started:.0f} s; "
        f"transcripts: {folder / 'games'}",
        err=True,
    )
    for one in lost:
        click.echo(f"no account: {one.name}: {one.game.state}: {one_line(one.game.problem)}", err=True)
    if lost:
        ctx.exit(1)


def _plan(asked: dict[str, Any]) -> GamePlan:
    from diffbench.game import Budget
    from diffbench.game_ground import GamePlan

    access = asked["access"] or ("questions" if asked["row"] is None else "both")
    if access != "evidence" and not asked["questions"]:
        raise OptionError("--questions: none are left to ask; use --access evidence")
    budget = Budget(
        questions=asked["questions"], calls=asked["max_calls"], tokens=asked["max_tokens"], money=asked["max_cost"]
    )
    same = ("organism", "row", "cell_seed", "reference", "tier", "agent", "grader", "repeats")
    return GamePlan(
        access=access,
        framings=FRAMINGS[asked["framing"]],
        seed=asked["game_seed"],
        budget=budget,
        **{name: asked[name] for name in same},
    )


def _folder(run: Path | None, plan: GamePlan) -> Path:
    """The run folder; one that is not there is a name in runs/ where it is a plain name."""
    from diffbench.run_folder import find_run, safe_name

    if run is None:
        return Path("runs") / safe_name(Path(plan.organism).stem if plan.organism.endswith("ml") else plan.organism)
    found = find_run(run)
    return Path("runs") / run if not found.exists() and run.name == str(run) else found


def _print(played: Sequence[PlayedGame], wanted_json: bool) -> None:
    from diffbench import game_page as page
    from diffbench.framing import framing

    effect = framing(played)
    if wanted_json:
        games = [{"name": one.name, **one.model_dump(mode="json", exclude={"game": {"turns"}})} for one in played]
        echo_json({"games": games, "framing": None if effect is None else effect.model_dump(mode="json")})
        return
    for line in page.told(played[0]):
        click.echo(line)
    click.echo()
    if len(played) == 1:
        click.echo(table(("SCORE", "ACCOUNT", "ABSTAINING", "CHANCE"), page.scores(played[0])))
        return
    click.echo(table(page.HEADER, [*map(page.row, played), *page.beside(played)]))
    if effect is not None:
        click.echo(page.effect(effect))


def _print_quotes(quotes: tuple[Quote, Quote], wanted_json: bool) -> None:
    names = ("agent", "grader")
    if wanted_json:
        echo_json({name: quote.model_dump(mode="json") for name, quote in zip(names, quotes, strict=True)})
        return
    for name, quote in zip(names, quotes, strict=True):
        click.echo(f"{name}: {quote}")
    click.echo("one prompt a turn is reckoned with, which makes most turns; the budget is looked at before each")
