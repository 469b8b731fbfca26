"""``diffbench report``: one HTML file that shows a run."""

from __future__ import annotations

from pathlib import Path

import click

from diffbench.cli.terminal import as_json, echo_json
from diffbench.errors import DiffbenchError


@click.command(epilog="Examples: diffbench report runs/monday    |    diffbench report runs/monday --out monday.html")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write.  [default: report.html in the run]"
)
@as_json
def report(run: Path, out: Path | None, as_json: bool) -> None:
    """Write the report of one run: one HTML file that needs nothing else, to be read in any browser.

    RUN is a run folder, its run.json, or the name of a folder in runs/. Nothing is run and no model is loaded: what
    stands in the folder is shown, with scores, curves, findings against the truth, dashboards, samples, errors and
    provenance. A file that is not the one its record speaks of is named and not shown.
    """
    from diffbench.atomic import write_text
    from diffbench.report import read_report
    from diffbench.report_page import page
    from diffbench.run_folder import find_run

    found = read_report(find_run(run))
    target = out if out is not None else found.run.path / "report.html"
    text = page(found)
    try:
        write_text(target, text)
    except OSError as error:
        raise DiffbenchError(f"{target}: cannot be written ({error.strerror}); name another --out") from error
    for problem in found.problems:
        click.echo(f"not shown: {problem}", err=True)
    if as_json:
        echo_json({"file": str(target), "bytes": len(text.encode()), "problems": list(found.problems)})
    else:
        click.echo(str(target))
