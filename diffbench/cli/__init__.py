"""The command ``diffbench``. Each command is imported when it is called, so that ``--help`` needs none of them."""

from __future__ import annotations

import difflib
import pkgutil
from typing import Any

import click

from diffbench.errors import DiffbenchError
from diffbench.line import one_line

COMMANDS = {
    "run": ("diffbench.cli.run:run", "Run methods on organisms and score them."),
    "leaderboard": ("diffbench.cli.leaderboard:leaderboard", "Build tables and pages from finished runs."),
    "export": ("diffbench.cli.export:export", "Write finished runs in the forms that other tools read."),
    "show": ("diffbench.cli.leaderboard:show", "Show the table of one run."),
    "report": ("diffbench.cli.report:report", "Write one HTML file that shows a run."),
    "consistency": (
        "diffbench.cli.consistency:consistency",
        "Show how far the seeds of a method agree: needs no truth.",
    ),
    "rescore": ("diffbench.cli.rescore:rescore", "Score a finished run anew from its Diffs."),
    "latents": ("diffbench.cli.latents:latents", "Show which latents of a run's dictionaries changed most."),
    "methods": ("diffbench.cli.listing:methods", "List and describe methods."),
    "organisms": ("diffbench.cli.organisms:organisms", "List, describe and verify organisms."),
    "bases": ("diffbench.cli.organisms:bases", "List and rebuild base models."),
    "dictionaries": (
        "diffbench.cli.dictionaries:dictionaries",
        "Exchange sparse dictionaries with SAELens, crosscoder_learning and others.",
    ),
    "planted": ("diffbench.cli.planted:planted", "Ask methods which features of a known dictionary changed."),
    "reproduce": ("diffbench.cli.reproduce:reproduce", "Measure claims of the literature that were registered before."),
    "judge": ("diffbench.cli.judge:judge", "List, calibrate and attack judges."),
    "game": ("diffbench.cli.game:game", "Let a blind agent state what changed between two models."),
    "steer": ("diffbench.cli.steer:steer", "Add and take out what a method found, and count what is said then."),
    "plugins": ("diffbench.cli.listing:plugins", "Show installed plugins and what failed in them."),
    "new": ("diffbench.cli.author:new", "Start a plugin package of your own."),
    "check": ("diffbench.cli.author:check", "Test whether a method keeps the contract."),
    "schema": ("diffbench.cli.listing:schema", "Print the JSON Schema of a file format."),
}
"""Command, where it is, and its line in ``--help``, kept here so that help imports nothing."""


HELP = """\
A benchmark for model diffing: which method finds what really changed between two models?

\b
Start:            diffbench run --organism halfswap
Your own method:  diffbench new method my-diff
                  pip install -e ./diffbench-my-diff
                  diffbench check my-diff
                  diffbench run --organism halfswap --method my-diff
Publish:          diffbench leaderboard build runs/halfswap --out leaderboard
"""


class Group(click.Group):
    """A group that suggests the nearest command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was named, or suggest the nearest."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], known, n=3, cutoff=0.5)
            advice = f"did you mean {' or '.join(near)}?" if near else f"commands: {', '.join(known)}"
            raise click.UsageError(f"no command {args[0]!r}; {advice}", ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """The group of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = pkgutil.resolve_name(COMMANDS[cmd_name][0])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from their stored lines."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; errors that people can cause are one line, and only bugs have a traceback."""
        try:
            return super().invoke(ctx)
        except DiffbenchError as error:
            click.echo(f"diffbench: error: {one_line(error)}", err=True)
            ctx.exit(2)
        except OSError as error:
            if error.filename is None:  # of a pipe, which click knows how to close, or a bug
                raise
            click.echo(f"diffbench: error: {one_line(error.filename)}: {error.strerror}", err=True)
            ctx.exit(2)
        except (KeyboardInterrupt, click.Abort):
            click.echo("diffbench: interrupted", err=True)
            ctx.exit(130)


@click.group(
    cls=LazyGroup,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="diffbench", message="diffbench %(version)s")
def main() -> None:
    """Run the command line."""
