"""The command: measure the parts that were asked for, print a table, write a JSON file."""

from __future__ import annotations

import importlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks.lines import Part, print_table, write_json
from benchmarks.settings import Settings
from benchmarks.turns import cores

PARTS = {
    "agreement": "agreement",
    "train": "training_speed",
    "parity": "parity",
    "harvest": "harvest_speed",
    "grid": "grid_time",
    "score": "scoring_time",
    "judge": "judging_time",
    "decode": "decoding_speed",
    "exclusive": "exclusive_latents",
    "gpu": "gpu_speed",
}
"""Name on the command line, and module."""


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="A part; repeat.  [default: all]")
@click.option("--quick", is_flag=True, help="Few steps, to see that everything works; the numbers mean little.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("bench"), show_default=True)
@click.option(
    "--peers",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".venv-peers"),
    show_default=True,
    help="Folder with an environment for each peer.",
)
@click.option("--core", type=int, help="The core that timed work is pinned to.  [default: the last one allowed]")
@click.option(
    "--clock",
    type=click.Choice(["wall", "processor"]),
    default="wall",
    show_default=True,
    help="What timed work is timed by; the processor's own time where others use the core too.",
)
@click.option("--device", default="cuda", show_default=True, help="Of the part gpu.")
def main(only: tuple[str, ...], core: int | None, **asked: Any) -> None:
    """Measure diffbench beside the public trainers, as ratios of one run. Nothing fails where a goal is missed."""
    settings = Settings(core=_core(core), **asked)
    parts: dict[str, Part] = {}
    for name in only or tuple(PARTS):
        started = time.monotonic()
        click.echo(f"{name} ...", err=True)
        parts[name] = importlib.import_module(f"benchmarks.{PARTS[name]}").measure(settings)
        click.echo(f"{name}: {time.monotonic() - started:.0f} s", err=True)
    print_table([line for part in parts.values() for line in part.lines])
    file = settings.out / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    write_json(parts, settings, file)
    click.echo(f"written: {file}", err=True)


def _core(asked: int | None) -> int:
    allowed = cores()
    if asked is not None and asked not in allowed:
        raise click.BadParameter(f"core {asked} is not one of {allowed}", param_hint="--core")
    return allowed[-1] if asked is None else asked


if __name__ == "__main__":
    main()
