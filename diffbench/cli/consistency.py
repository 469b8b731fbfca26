"""``diffbench consistency``: how far the method seeds of a run's rows agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffbench.cli.terminal import as_json, echo_json, log_on_stderr, progress, table
from diffbench.errors import RecordError
from diffbench.line import one_line

if TYPE_CHECKING:
    from diffbench.agreement import ConsistencyFile
    from diffbench.figure import Figure

LEGEND = """\
COS: largest |cosine| of each of the first 32 components to a direction of the other seed. >=.7: share of them that are
matched so. SPAN: overlap of the subspaces of the first k directions. RANK CORR: of |activity|, where components are no
directions. WORDS: Jaccard of the tokens that the first ten findings name. CONTRADICT: matched findings of which one
names a token up and the other down. In brackets is chance: as many random directions, random subspaces, shuffled
positions, the random dictionary's words. Means over pairs of seeds; [95% interval] by a jackknife over seeds, from
three on."""


@click.command(epilog="Example: diffbench consistency runs/halfswap")
@click.argument("run", type=click.Path(path_type=Path))
@as_json
@click.pass_context
def consistency(ctx: click.Context, run: Path, as_json: bool) -> None:
    """Show how far the method seeds of each row of a run agree: an error floor that needs no truth.

    RUN is a run folder or the name of a folder in runs/. What is missing is computed from the Diffs and kept in
    RUN/consistency. Exit code 1 if a row could not be compared.
    """
    from diffbench.run_folder import find_run
    from diffbench.seed_run import compare_run

    folder = find_run(run)
    with progress() as notify, log_on_stderr():
        found = compare_run(folder, notify)
    if not found:
        raise RecordError(f"{folder}: no row with two finished method seeds or more; run it with --seed 0 --seed 1")
    files = [compared.file for compared in found if compared.file is not None]
    problems = [compared for compared in found if compared.file is None]
    if as_json:
        echo_json([file.model_dump(mode="json") for file in files])
    else:
        _print(files)
    for compared in problems:
        click.echo(f"failed: {one_line(compared.group.name)}: {one_line(compared.problem)}", err=True)
    if problems:
        ctx.exit(1)


def _print(files: list[ConsistencyFile]) -> None:
    head = ("ROW", "SEEDS", "COS", ">=.7", "SPAN 1", "SPAN 8", "SPAN 32", "RANK CORR", "WORDS",
            "CONTRADICT", "VERDICTS")  # fmt: skip
    sections: dict[tuple[str, ...], list[ConsistencyFile]] = {}
    for file in files:
        section = (file.organism, str(file.organism_version), file.reference, file.tier, file.pair)
        sections.setdefault(section, []).append(file)
    for (organism, version, reference, tier, _), rows in sections.items():
        click.echo(one_line(f"{organism} v{version}, tuned against {reference}, tier {tier}"))
        click.echo(table(head, [_row(file) for file in rows]) + "\n")
    click.echo(LEGEND)


def _row(file: ConsistencyFile) -> list[str]:
    found = file.agreement
    spans = {span.k: _beside(span.overlap, span.chance) for span in found.spans}
    said = found.contradictions
    return [
        file.row,
        str(len(file.seeds)),
        _beside(found.matching.cosine, found.matching.chance_cosine),
        _number(found.matching.share),
        *(spans[k] for k in (1, 8, 32)),
        _beside(found.activity.spearman, found.activity.chance),
        _beside(found.words.jaccard, found.words.control),
        f"{said.contradicting} of {said.matched}",
        ", ".join(f"{times} {verdict}" for verdict, times in said.verdicts.items()),
    ]


def _beside(figure: Figure, chance: Figure) -> str:
    """A figure beside what chance gives; where there is none, why."""
    return figure.state if figure.value is None else f"{_interval(figure)} ({_number(chance)})"


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return _number(figure)
    return f"{_number(figure)} [{figure.low:.2f}, {figure.high:.2f}]"


def _number(figure: Figure) -> str:
    return figure.state if figure.value is None else f"{figure.value:.2f}"
