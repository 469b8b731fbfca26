"""``diffbench new`` and ``diffbench check``: what an author of plugins uses."""

from __future__ import annotations

from pathlib import Path

import click

from diffbench.cli import Group
from diffbench.cli.terminal import as_json, echo_json, progress, table
from diffbench.errors import OptionError


@click.group(cls=Group)
def new() -> None:
    """Start a plugin package of your own."""


@new.command("method")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make.  [default: ./diffbench-NAME]")
def new_method(name: str, out: Path | None) -> None:
    """Write a package with one working method called NAME."""
    from diffbench import scaffold
    from diffbench.plugins import load_plugins

    if name in load_plugins().methods:
        raise OptionError(f"a method named {name!r} is installed already; choose another name")
    folder = scaffold.new_method(name, out)
    module = scaffold.method_names(name).module
    click.echo(f"wrote {folder}\n\nnext:\n  pip install -e {folder}\n  diffbench check {name}")
    click.echo(f"  edit {folder / module}.py")


@click.command()
@click.argument("method")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of the method; repeat it.")
@as_json
@click.pass_context
def check(ctx: click.Context, method: str, options: tuple[str, ...], as_json: bool) -> None:
    """Test whether METHOD keeps the contract; exit code 1 where it does not.

    It runs on two pairs of tiny models, one of them without a difference, as real cells do.
    """
    from diffbench.check import check_method
    from diffbench.plugins import find_method

    with progress() as report:
        points = check_method(find_method(method), dict(_split(option) for option in options), report)
    failed = sum(point.state == "failed" for point in points)
    if as_json:
        echo_json({"method": method, "passed": not failed, "checks": [point.model_dump() for point in points]})
    else:
        click.echo(table(("CHECK", "RESULT", "DETAIL"), [(p.name, p.state, p.detail) for p in points]))
        click.echo(f"{method}: {f'{failed} failed' if failed else 'keeps the contract'}")
    ctx.exit(1 if failed else 0)


def _split(option: str) -> tuple[str, str]:
    key, sign, value = option.partition("=")
    if not sign or not key:
        raise OptionError(f"-o {option!r}: needs the form KEY=VALUE")
    return key, value
