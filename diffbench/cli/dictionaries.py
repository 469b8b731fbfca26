"""``diffbench dictionaries``: sparse dictionaries from and for other projects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffbench.cli import Group
from diffbench.cli.terminal import as_json, echo_json, table
from diffbench.errors import DiffbenchError, DiffError

if TYPE_CHECKING:
    from diffbench.diff import DictionaryDiff

EXPORTED = "Example: diffbench dictionaries export runs/halfswap/cells/CELL mine --format saelens"
IMPORTED = "Example: diffbench dictionaries import layer_12/width_16k/average_l0_82 mine --input tuned --layer 12"


@click.group(cls=Group)
def dictionaries() -> None:
    """Exchange sparse dictionaries with SAELens, crosscoder_learning and others."""


@dictionaries.command("formats")
@as_json
def list_formats(as_json: bool) -> None:
    """List the formats: what is read, what is written, and what you must say because the files do not."""
    from diffbench.formats import FORMATS

    if as_json:
        echo_json(
            [
                {"name": f.name, "files": f.files, "reads": f.reads, "writes": f.writes or None, "needs": f.needs}
                for f in FORMATS.values()
            ]
        )
        return
    rows = [(f.name, f.files, f.writes or "-", f.needs, f.reads) for f in FORMATS.values()]
    click.echo(table(("FORMAT", "FILES", "WRITES", "TO SAY WHEN READING", "READS"), rows))


@dictionaries.command("export", epilog=EXPORTED)
@click.argument("diff_folder", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--format", "format", required=True, help="Format to write; see `diffbench dictionaries formats`.")
@as_json
def export(diff_folder: Path, out: Path, format: str, as_json: bool) -> None:
    """Write the dictionary of a finished cell as a new folder OUT for another project.

    DIFF_FOLDER is a cell of a run, or the diff/ folder in it. Thresholds are the learned ones, so the dictionary is
    the same function there; imported again it is the same bit for bit.
    """
    from diffbench.diff import DictionaryDiff
    from diffbench.diff_file import load_diff
    from diffbench.exchange import DIFF, HEADER
    from diffbench.formats import write_dictionary

    folder = diff_folder if (diff_folder / HEADER).exists() else diff_folder / DIFF
    if not (folder / HEADER).exists():
        raise DiffError(f"{diff_folder}: holds no {HEADER}; name a cell of a run, or the {DIFF}/ folder in it")
    diff = load_diff(folder)
    if not isinstance(diff, DictionaryDiff):
        raise DiffError(f"{folder}: is of kind {diff.kind!r}; only dictionaries can be exported")
    write_dictionary(diff, out, format)
    _report(diff, out, as_json)


@dictionaries.command("import", epilog=IMPORTED)
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--format", "format", help="Format of PATH.  [default: found from the files]")
@click.option(
    "--input",
    "input",
    type=click.Choice(["delta", "tuned", "base"]),
    help="What an SAE was trained on: the difference, or the activations of one model. Crosscoders need none.",
)
@click.option("--layer", type=click.IntRange(min=0), help="Block whose output it reads, 0-based, where PATH is silent.")
@click.option(
    "--scales",
    nargs=2,
    type=float,
    metavar="REFERENCE TUNED",
    help="Factors that activations were multiplied by in the training of a crosscoder, where PATH is silent.",
)
@as_json
def import_(
    path: Path,
    out: Path,
    format: str | None,
    input: Any,
    layer: int | None,
    scales: tuple[float, float] | None,
    as_json: bool,
) -> None:
    """Read a dictionary of another project and write it as a Diff, a new folder OUT.

    PATH is a folder, or a weight file with its configuration beside it. Nothing in it is run. What the files leave
    open about biases, scales or thresholds is refused, never guessed.
    """
    from diffbench.atomic import new_folder
    from diffbench.diff_file import save_diff
    from diffbench.formats import read_dictionary

    if out.is_symlink() or out.exists():
        raise DiffbenchError(f"{out}: exists already; name a folder that does not")
    diff = read_dictionary(path, format=format, input=input, layer=layer, scales=scales)
    try:
        with new_folder(out) as draft:
            save_diff(diff, draft)
    except OSError as error:
        raise DiffbenchError(f"{out}: cannot be written ({error.strerror})") from error
    _report(diff, out, as_json)


def _report(diff: DictionaryDiff, out: Path, as_json: bool) -> None:
    width = diff.encoder.shape[1] // (2 if diff.input == "both" else 1)
    facts: dict[str, Any] = {
        "path": str(out),
        "latents": diff.n_components,
        "width": width,
        "layer": diff.layer,
        "input": diff.input,
        "activation": diff.activation,
    }
    if as_json:
        echo_json(facts)
        return
    click.echo(
        f"wrote {out}: {diff.n_components} latents of width {width}, input {diff.input} at layer {diff.layer}, "
        f"{diff.activation}"
    )
