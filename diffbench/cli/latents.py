"""``diffbench latents``: the tables of latents that the dictionaries of a finished run left."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffbench.cli.terminal import as_json, echo_json, table, table_width
from diffbench.errors import RecordError, UnknownName
from diffbench.line import one_line

if TYPE_CHECKING:
    from diffbench.fits import FitFile

WORDS = 6
"""Tokens that are shown of each list; the file and the JSON have all of them."""


@click.command(
    epilog="Examples: diffbench latents runs/halfswap    |    "
    "diffbench latents runs/halfswap --method diff-sae --sort frequency --top 5"
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--method", help="Only fits of this method.")
@click.option("--organism", help="Only fits on this organism.")
@click.option("--seed", type=click.IntRange(0), help="Only fits of this seed.")
@click.option("--sort", metavar="COLUMN", help="Order by a column, falling.  [default: the method's own order]")
@click.option("--top", type=click.IntRange(0), default=20, show_default=True, help="Latents to show of each fit.")
@as_json
def latents(
    run: Path, method: str | None, organism: str | None, seed: int | None, sort: str | None, top: int, as_json: bool
) -> None:
    """Show which latents of a run's dictionaries changed most, and the columns by which they can be ranked.

    RUN is a run folder or the name of a folder in runs/. Every column is a ranking: the row NAME@COLUMN of `diffbench
    run --method NAME@COLUMN` is the same fit in that order. The whole tables are files: latents.parquet in each folder
    of RUN/fits.
    """
    from diffbench.fits import fits_of
    from diffbench.run_folder import FITS, read_run_file

    named = Path("runs") / run
    folder = named if not run.exists() and named.is_dir() else run
    read_run_file(folder)
    asked = {"method": method, "organism": organism, "seed": seed}
    entries, known = [], set()
    for path, fit, problem in fits_of(folder):
        if fit is None:
            click.echo(f"damaged: {one_line(problem)}", err=True)
            continue
        known.add(fit.method)
        if all(value in (None, getattr(fit, name)) for name, value in asked.items()):
            entries.append(_entry(path, fit, sort, top))
    if method is not None and method not in known:
        raise UnknownName("method with a finished fit in this run", method, known)
    if not entries:
        raise RecordError(f"{folder / FITS}: no finished fit that was asked for")
    if sort is not None and not any(sort in entry["rankings"] for entry in entries):
        raise UnknownName("ranking in these fits", sort, {name for entry in entries for name in entry["rankings"]})
    if as_json:
        echo_json(entries)
        return
    for entry in entries:
        click.echo(_text(entry, sort))


def _entry(path: Path, fit: FitFile, sort: str | None, top: int) -> dict[str, Any]:
    """What is shown of one fit; ``latents`` is None where its Diff is no dictionary, or cannot be ranked so."""
    from diffbench.fits import checked_file
    from diffbench.latent_row import LATENTS, meaning
    from diffbench.latent_table import numeric_columns, read_latents, top_latents

    entry: dict[str, Any] = {
        name: getattr(fit, name) for name in ("organism", "reference", "method", "seed", "tier", "options")
    }
    entry |= {"file": str(path / LATENTS), "rankings": {}, "latents": None}
    if LATENTS not in fit.files:
        return entry | {"file": None}
    found = read_latents(checked_file(path, fit, LATENTS))
    names = numeric_columns(found)
    rows = None if sort is not None and sort not in names else top_latents(found, sort, top)
    entry["rankings"] = {name: meaning(name) for name in names}
    entry["latents"] = None if rows is None else [{k: _plain(v) for k, v in row.items()} for row in rows]
    return entry


def _text(entry: dict[str, Any], sort: str | None) -> str:
    title = f"{entry['method']} on {entry['organism']} against {entry['reference']}, seed {entry['seed']}"
    if entry["file"] is None:
        return f"{one_line(title)}: its Diff is no dictionary and has no latents\n"
    rankings = ", ".join(entry["rankings"]) or "none"
    lines = [one_line(f"{title}, {'own order' if sort is None else f'by {sort}'}"), f"rankings: {rankings}"]
    if entry["latents"] is None:
        return "\n".join([*lines, f"no ranking {sort!r} here\n"])
    shown = _columns(entry, sort)
    rows = [
        [row["latent"], row["rank"], *(_number(row[name]) for name in shown), _words(row["tokens_up"]),
         _words(row["tokens_down"])]
        for row in entry["latents"]
    ]  # fmt: skip
    head = ("LATENT", "RANK", *shown, "PROMOTES", "SUPPRESSES")
    return "\n".join([*lines, table(head, rows), f"all latents and columns: {entry['file']}\n"])


def _columns(entry: dict[str, Any], sort: str | None) -> list[str]:
    """The column that is sorted by, and others as far as the terminal is wide."""
    usual = ("energy", "frequency", "relative_norm", "nu_error", "nu_reconstruction")
    wanted = list(dict.fromkeys([*([sort] if sort else []), *(name for name in usual if name in entry["rankings"])]))
    room = max(1, (table_width() - 90) // 16)
    return wanted[: max(2, room)]


def _words(words: list[str]) -> str:
    return " ".join(words[:WORDS])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _plain(value: Any) -> Any:
    """A value as JSON: numbers that are none become null, and tokens one line each."""
    if isinstance(value, list):
        return [one_line(word, 200) for word in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
