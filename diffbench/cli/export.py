"""``diffbench export``: finished runs in the forms that other tools read."""

from __future__ import annotations

from pathlib import Path

import click

from diffbench.cli.terminal import as_json, echo_json, log_on_stderr


@click.command(
    epilog="Examples: diffbench export runs/halfswap --as hf-dataset --to data    |    "
    "diffbench export runs/halfswap --as inspect --to logs    |    "
    "diffbench export runs/mine --as neuronpedia --model-id gemma-2-2b --top 10 --to vectors"
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--as", "form", required=True, help="hf-dataset, lm-eval, inspect or neuronpedia.")
@click.option("--to", required=True, type=click.Path(path_type=Path, file_okay=False), help="A new folder.")
@click.option("--organism", help="Only cells of this organism.")
@click.option("--method", help="Only cells of this method, or NAME@COLUMN.")
@click.option("--license", "licence", default="mit", show_default=True, help="Of a data set, as the Hub names it.")
@click.option("--model-id", help="Of vectors: the model's name on Neuronpedia.")
@click.option("--top", type=click.IntRange(1), help="Of vectors: how many of each Diff.")
@as_json
def export(
    runs: tuple[Path, ...],
    form: str,
    to: Path,
    organism: str | None,
    method: str | None,
    licence: str,
    model_id: str | None,
    top: int | None,
    as_json: bool,
) -> None:
    """Write finished runs to a new folder in the form of another tool. Nothing is sent anywhere.

    RUN is a run folder, the name of a folder in runs/, a folder of runs, or a folder with a leaderboard.json.
    hf-dataset: Parquet with a card, for `datasets.load_dataset`. lm-eval: results as lm-evaluation-harness writes them.
    inspect: what judges were asked, as logs for `inspect view`. neuronpedia: directions of Diffs as steering vectors.
    The last two need run folders.
    """
    from diffbench.outlets import Wanted, export_runs

    wanted = Wanted(form, organism, method, licence, model_id, top)
    with log_on_stderr():
        files = export_runs(runs, to, wanted)
    if as_json:
        echo_json({"files": [str(path) for path in files]})
    else:
        click.echo("\n".join(map(str, files)))
    click.echo(f"{len(files)} files in {to}", err=True)
