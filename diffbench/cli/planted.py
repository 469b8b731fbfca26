"""``diffbench planted``: methods on streams made from a known two-model dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from diffbench.cli.run import parse_options
from diffbench.cli.terminal import as_json, echo_json, progress, table
from diffbench.errors import OptionError
from diffbench.line import one_line
from diffbench.table import count, number, precise

if TYPE_CHECKING:
    from diffbench.figure import Figure
    from diffbench.planted import PlantedParameters
    from diffbench.planted_trial import PlantedRow, PlantedSummary

LEGEND = """\
P R F1 @m   precision, recall and F1 of the first m components in the method's own order; a second component for the
            same feature is no hit. The middle m is the number of changed features; in brackets: 95% over seeds
chance      F1 at the middle m of the same components in random order
any         share of the changed features that any component names
{kinds}
            recall at the middle m, by kind of change
twice       components among the middle m that repeat a feature; shared: that name an unchanged one instead
n           components
Higher is better, but for 'twice' and 'shared'."""


@click.command(
    epilog="Examples: diffbench planted    |    diffbench planted --method diff-sae --k 1 --k 8 --seeds 3    |    "
    "diffbench planted --method crosscoder-batchtopk@relative_norm -p noise=0.3 -p rotated=20"
)
@click.option("--method", "methods", multiple=True, help="Name, or NAME@COLUMN; repeat.  [default: all it suits]")
@click.option("-o", "--option", "options", multiple=True, metavar="METHOD.KEY=VALUE", help="Set a method's option.")
@click.option("-p", "--parameter", "parameters", multiple=True, metavar="KEY=VALUE", help="Set what is planted.")
@click.option("--parameters", "listing", is_flag=True, help="List what -p can set, and stop.")
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="First seed.")
@click.option(
    "--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="Independent pairs, one per seed."
)
@click.option(
    "--expansion", type=click.IntRange(1, 256), default=4, show_default=True, help="Components per dimension."
)
@click.option(
    "--k",
    "ks",
    type=click.IntRange(1),
    multiple=True,
    default=(2, 8),
    show_default=True,
    help="Active components per row; repeat for several.",
)
@as_json
@click.pass_context
def planted(
    ctx: click.Context,
    /,
    methods: tuple[str, ...],
    options: tuple[str, ...],
    parameters: tuple[str, ...],
    listing: bool,
    **asked: Any,
) -> None:
    """Ask methods which features of a known two-model dictionary changed.

    Two streams of activations are made from features that are shared, in one model only, rescaled, rotated, or firing
    at other times; methods see the streams alone, all at the same size. Few features change at a time, so a small k
    suits methods that read the difference, and a larger one those that read both streams. No model is loaded.

    Unlike in `run`, methods run in this process and with your rights, third-party ones too. Exit code 1 if one failed.
    """
    import torch

    from diffbench.planted import PlantedParameters, planted_parameters
    from diffbench.planted_trial import Size, planned, run_trial, summarise
    from diffbench.precision import use_fast_matmul

    if listing:
        click.echo(_parameters(PlantedParameters))
        return
    chosen = planted_parameters(dict(_split(parameter) for parameter in parameters))
    sizes = [Size(expansion=asked["expansion"], k=k) for k in asked["ks"]]
    seeds = range(asked["seed"], asked["seed"] + asked["seeds"])
    what = planned(methods, parse_options(options), sizes)
    use_fast_matmul()
    torch.set_num_threads(1)  # as in every method process of `run`
    with progress() as report:
        rows = list(run_trial(what, chosen, seeds, sizes[0], report))
    means = summarise(rows)
    if asked["as_json"]:
        echo_json(
            {
                "parameters": chosen.model_dump(mode="json"),
                "sizes": [size.model_dump(mode="json") for size in sizes],
                "rows": [row.model_dump(mode="json") for row in rows],
                "means": [mean.model_dump(mode="json") for mean in means],
            }
        )
    else:
        click.echo(_text(means, chosen))
    _end(ctx, rows)


def _end(ctx: click.Context, rows: Sequence[PlantedRow]) -> None:
    failed = [row for row in rows if row.status == "error"]
    for row in failed:
        click.echo(f"failed: {row.method} seed {row.seed}: {one_line(row.reason)}", err=True)
    if failed:
        ctx.exit(1)


def _split(parameter: str) -> tuple[str, str]:
    key, equals, value = parameter.partition("=")
    if not (equals and key):
        raise OptionError(f"-p {parameter!r}: write KEY=VALUE, for example noise=0.3")
    return key, value


def _parameters(schema: type[PlantedParameters]) -> str:
    rows = [(name, field.default, field.description or "") for name, field in schema.model_fields.items()]
    return table(("PARAMETER", "DEFAULT", "MEANING"), rows)


def _text(means: Sequence[PlantedSummary], parameters: PlantedParameters) -> str:
    from diffbench.planted import CHANGED

    ms = next(mean.budgets for mean in means if mean.budgets)  # the baselines are always scored
    header = (
        "METHOD",
        *(f"P R F1 @{budget.m}" for budget in ms),
        "CHANCE",
        "ANY",
        *(kind.upper() for kind in CHANGED),
        "TWICE",
        "SHARED",
        "N",
        "S",
        "NOTE",
    )
    body = [_row(mean, len(header)) for mean in means]
    head = (
        f"{parameters.n_changed} of {parameters.n_features} planted features changed, width {parameters.width}, "
        f"{parameters.rows:,} rows"
    )
    return f"{head}\n\n{table(header, body)}\n\n{LEGEND.format(kinds=', '.join(CHANGED))}"


def _row(mean: PlantedSummary, columns: int) -> list[str]:
    name = f"({mean.method})" if mean.baseline else mean.method
    note = "" if mean.reason is None else one_line(f"{mean.seeds} of {mean.seeds + mean.failed} seeds: {mean.reason}")
    seconds = "" if mean.seconds is None else precise(mean.seconds)
    if not mean.budgets or mean.recall_all is None:
        return [name, *[""] * (columns - 3), seconds, one_line(mean.reason)]
    middle = len(mean.budgets) // 2
    triples = [
        " ".join(
            [
                _figure(budget.precision),
                _figure(budget.recall),
                _figure(budget.f1) + (_interval(budget.f1, at == middle)),
            ]
        )
        for at, budget in enumerate(mean.budgets)
    ]
    at = mean.budgets[middle]
    return [
        name,
        *triples,
        _figure(at.f1_shuffled),
        _figure(mean.recall_all),
        *(_figure(kind) for kind in mean.kinds),
        count(at.duplicates),
        count(at.false_alarms),
        count(mean.components),
        seconds,
        note,
    ]


def _figure(figure: Figure) -> str:
    return number(0.0 if figure.value is None else figure.value, figure.state)


def _interval(figure: Figure, shown: bool) -> str:
    return (
        f" [{number(figure.low)}, {number(figure.high)}]"
        if shown and figure.low is not None and figure.high is not None
        else ""
    )
