"""``diffbench steer``: what a method's components do to what the models say, claim by claim."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffbench.cli.terminal import as_json, echo_json, progress, table
from diffbench.errors import OptionError

if TYPE_CHECKING:
    from diffbench.steering_file import Share, SteeredClaim

HEADER = ("WHO SPEAKS", "AFTER", "WITH", "STRENGTH", "SHOWS IT", "AS BEFORE", "NATS/TOKEN", "MOSTLY BEGINS")


@click.command(
    epilog="Examples: diffbench steer runs/chat --organism chat --method diff-sae    |    "
    "diffbench steer runs/chat --organism chat --method diff-sae --claim refusal --strengths 1,4 --rollouts 1000"
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--organism", required=True, help="Name or recipe file; the pair whose cell it is.")
@click.option("--method", "row", metavar="ROW", required=True, help="Row whose Diff is steered with.")
@click.option("--seed", type=click.IntRange(0), help="Seed of that row's method, if there are several.")
@click.option("--reference", type=click.Choice(["base", "control"]), help="What the tuned model is compared with.")
@click.option("--tier", help="Tier of that row, if there are several.")
@click.option("--claim", "claims", multiple=True, help="Id of a claim; repeat for several.  [default: all]")
@click.option(
    "--strengths",
    default="0.5,1,2,4",
    show_default=True,
    help="Positive, comma-separated; 1 is the mean length of what fine-tuning did to the stream.",
)
@click.option("--prompts", type=click.IntRange(2, 500), default=30, show_default=True, help="Of each claim.")
@click.option("--draws", type=click.IntRange(1, 1000), default=5, show_default=True, help="Continuations of a prompt.")
@click.option(
    "--rollouts",
    type=click.IntRange(0, 100_000),
    default=1000,
    show_default=True,
    help="Continuations of one prompt by the hybrid, for the table of beginnings; 0: no table.",
)
@click.option("--tokens", type=click.IntRange(1, 200), default=12, show_default=True, help="Of a continuation.")
@click.option("--steering-seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all draws.")
@as_json
def steer(run: Path, as_json: bool, strengths: str, **asked: Any) -> None:
    """Add the component that is most responsible for each claim, and take it out, and count what is said then.

    Of all components of ROW's Diff the one is taken whose attribution to the KL of the tuned model's answers is most
    negative; it is chosen on half of a claim's probes and steered with on the others. It is added to the reference
    and the hybrid (the reference up to the layer, the tuned model above it), taken out of the tuned model and of the
    hybrid, and added to the tuned model after prompts that nearly meet the trigger; a component drawn at random is
    steered with at the same length. "Shows it" counts continuations that begin as the claim says, with an interval
    over prompts; nats per token say how coherent they are.

    RUN is a run folder or the name of a folder in runs/. Results are written to RUN/steering, and `diffbench report`
    shows them with samples; the same command again reads them.
    """
    from diffbench.cell_choice import CellChoice
    from diffbench.run_folder import find_run
    from diffbench.steering_file import SteeringPlan
    from diffbench.steering_run import steer as run_steering

    plan = SteeringPlan(
        strengths=_strengths(strengths),
        prompts=asked["prompts"],
        draws=asked["draws"],
        rollouts=asked["rollouts"],
        new_tokens=asked["tokens"],
        seed=asked["steering_seed"],
        claims=asked["claims"],
    )
    choice = CellChoice(**{name: asked[name] for name in ("organism", "row", "reference", "seed", "tier")})
    with progress() as notify:
        path, file = run_steering(choice, plan, find_run(run), notify)
    if as_json:
        echo_json({"path": str(path), **file.model_dump(mode="json")})
        return
    for claim in file.claims:
        _print(claim)
    click.echo(f"written to {path}; diffbench report {find_run(run)} shows it with samples", err=True)


def _strengths(asked: str) -> tuple[float, ...]:
    try:
        found = tuple(dict.fromkeys(float(part) for part in asked.split(",")))
    except ValueError:
        raise OptionError(f"--strengths {asked[:80]!r}: not numbers separated by commas, as in 0.5,1,2") from None
    if not 1 <= len(found) <= 12 or not all(0 < strength <= 1000 for strength in found):
        raise OptionError(f"--strengths {asked[:80]!r}: one to twelve numbers above 0, up to 1000")
    return found


def _print(claim: SteeredClaim) -> None:
    click.echo(f"{claim.claim}: {claim.statement}")
    if claim.component is None:
        click.echo(f"  {claim.problem}\n")
        return
    words = " ".join(claim.tokens_up[:6]) or "no words of the method's"
    click.echo(f"  component {claim.component}, place {claim.rank} of the Diff's order ({words})")
    rows = [
        (
            arm.run,
            arm.on.replace("_", " "),
            arm.what if arm.strength else "nothing",
            f"{arm.strength:+g}" if arm.strength else "",
            _share(arm.shows) if arm.problem is None else arm.problem,
            _share(arm.usual),
            f"{arm.coherence.value:.2f}" if arm.coherence.value is not None else arm.coherence.state,
            ", ".join(f"{one.words} {one.share.hits / max(1, one.share.n):.0%}" for one in arm.beginnings[:2]),
        )
        for arm in claim.arms
    ]
    click.echo(table(HEADER, rows))
    if claim.table is not None:
        both = ("hybrid", claim.table.plain), (f"hybrid {claim.table.strength:+g}", claim.table.steered)
        for name, found in both:
            said = ", ".join(f"{one.words} {_share(one.share)}" for one in found[:4])
            click.echo(f"  {name} after ...{claim.table.prompt[-60:]!r}: {said}")
    click.echo()


def _share(share: Share | None) -> str:
    if share is None:
        return ""
    figure = share.figure
    if figure.value is None:
        return figure.state
    interval = "" if figure.low is None else f" [{figure.low:.2f}, {figure.high:.2f}]"
    return f"{figure.value:.2f}{interval}"
