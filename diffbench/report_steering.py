"""Report steering: what a method's components do to what the models say, claim by claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from diffbench.chart import SERIES, Axis, Point, Series, lines
from diffbench.figure import Figure
from diffbench.line import one_line
from diffbench.shading import chips
from diffbench.steering_file import Beginning, Share, SteeredArm, SteeredClaim, SteeringFile
from diffbench.steering_file import Table as Rollouts
from diffbench.table import precise, share
from diffbench.webpage import Cell, Head, Line, Table, figure_cell, figure_text

MOST_FILES, SAMPLES = 40, 2
PLACES = {"affected": "prompts that meet the trigger", "near_miss": "prompts that nearly meet it"}
WHO = {"reference": "reference", "tuned": "tuned model", "hybrid": "hybrid"}
SAMPLED = (
    f"Samples, at most {SAMPLES} for who speaks, after what and in which direction: of the strength that changes most "
    "how often the claim is shown (of equals the weakest), and those first that steering changes. They show what "
    "steering can do, not what it mostly does, which is counted above."
)
SHOWS = (
    "A continuation shows the claim if it begins as the claim says, and is as before if it begins as the base model's."
)


@dataclass(frozen=True, slots=True)
class SampleView:
    """What was said after one prompt, without and with the component."""

    title: str
    prompt: str
    plain: str
    steered: str


@dataclass(frozen=True, slots=True)
class ClaimView:
    """One claim.

    Attributes:
        table: an arm a line.
        rollouts: how continuations of one prompt begin, without and with the component; None: not measured.
        told: what its numbers are.
    """

    statement: str
    brief: str
    up: Markup
    down: Markup
    problem: str
    pictures: tuple[Markup, ...]
    table: Table | None
    rollouts: Table | None
    prompt: str
    told: str
    samples: tuple[SampleView, ...]


@dataclass(frozen=True, slots=True)
class SteeringView:
    """One file of a run's steering folder.

    Attributes:
        sampled: how samples were chosen.
    """

    title: str
    brief: str
    sampled: str
    claims: tuple[ClaimView, ...]


def steering_views(files: Sequence[SteeringFile]) -> tuple[SteeringView, ...]:
    """The first of them."""
    return tuple(_view(file, f"steering-{number}") for number, file in enumerate(files[:MOST_FILES], start=1))


def _view(file: SteeringFile, ident: str) -> SteeringView:
    cell, plan = file.cell, file.plan
    against = "" if cell.reference == "base" else f" against its {cell.reference}"
    return SteeringView(
        title=one_line(f"{cell.organism}{against}: {cell.row}, seed {cell.seed}", 300),
        brief=f"layer {file.layer}, {plan.prompts} prompts of each claim with {plan.draws} continuations of each",
        sampled=SAMPLED,
        claims=tuple(_claim(claim, f"{ident}-{number}") for number, claim in enumerate(file.claims, start=1)),
    )


def _claim(claim: SteeredClaim, ident: str) -> ClaimView:
    measured = [arm for arm in claim.arms if arm.problem is None]
    size = "" if claim.size is None else f"Strength 1 is a length of {precise(claim.size)}. "
    chosen = "" if claim.component is None else f"Component {claim.component}"
    chosen += f", place {claim.rank} in the method's order" if chosen and claim.rank is not None else ""
    chosen += f", attribution {precise(claim.attribution)} nats" if chosen and claim.attribution is not None else ""
    chosen += f", chosen on {claim.n_chosen_on} other prompts" if chosen else ""
    return ClaimView(
        statement=one_line(claim.statement, 600) or one_line(claim.claim),
        brief=chosen,
        up=chips(claim.tokens_up, 8),
        down=chips(claim.tokens_down, 8),
        problem=one_line(claim.problem or ""),
        pictures=tuple(picture for on in PLACES if (picture := _picture(measured, on)) is not None),
        table=_arms(claim, ident) if claim.arms else None,
        rollouts=_rollouts(claim, claim.table, ident) if claim.table else None,
        prompt=one_line(claim.table.prompt, 300) if claim.table else "",
        told=f"{size}{SHOWS}" if claim.arms else "",
        samples=_samples(measured),
    )


def _picture(arms: Sequence[SteeredArm], on: str) -> Markup | None:
    """Share of continuations that show the claim, by strength."""
    kinds: dict[tuple[str, str], list[Point]] = {}
    for arm in arms:
        figure = arm.shows.figure if arm.shows else None
        if arm.on == on and figure is not None and figure.value is not None:
            point = Point(arm.strength, figure.value, figure.low, figure.high)
            kinds.setdefault((arm.run, arm.what), []).append(point)
    if not kinds:
        return None
    series = [
        Series(WHO[run] + (", random component" if what == "random" else ""), tuple(points), style)
        for style, ((run, what), points) in enumerate(list(kinds.items())[:SERIES])
    ]
    text = f"Share of the continuations that show the claim, by strength, after {PLACES[on]}; negative: taken out."
    return lines(f"After {PLACES[on]}", text, series, Axis("strength"), Axis("shows the claim", 0.0, 1.0))


def _arms(claim: SteeredClaim, ident: str) -> Table:
    heads = (
        Head("who speaks", "the hybrid is the reference up to the layer and the tuned model above it", True),
        Head("after", "", True),
        Head("with", "", True),
        Head("strength", "negative: taken out"),
        Head("shows it", "continuations that begin as the claim says"),
        Head("as before", "continuations that begin as the base model does"),
        Head("nats per token", "coherence: lower is more coherent", lower=True),
        Head("repeats", "pairs of neighbouring tokens that came before", lower=True),
        Head("mostly begins", "", True),
    )
    found = []
    for arm in claim.arms:
        begins = "; ".join(f"{one_line(one.words, 60)} ({_share(one.share)})" for one in arm.beginnings[:2])
        found.append(
            Line(
                (
                    Cell(WHO[arm.run]),
                    Cell(PLACES[arm.on]),
                    Cell("its component" if arm.what == "component" else "a random one"),
                    Cell(f"{arm.strength:g}", arm.strength),
                    _counted(arm.shows),
                    _counted(arm.usual),
                    figure_cell(arm.coherence),
                    figure_cell(arm.repeats),
                    Cell(one_line(arm.problem) if arm.problem else begins),
                )
            )
        )
    return Table(f"{ident}-arms", "What is said, by strength; intervals are over prompts", heads, tuple(found))


def _rollouts(claim: SteeredClaim, table: Rollouts, ident: str) -> Table:
    """How one prompt is continued; above it how often the claim is shown after all prompts, where that was measured."""
    heads = (
        Head("begins", "first two words of what the hybrid says", True),
        Head("without", "share of the continuations"),
        Head("with the component", "share of the continuations"),
    )
    plain, steered = _known(table.plain), _known(table.steered)
    found = [
        Line((Cell(words), figure_cell(_of(plain, words), share), figure_cell(_of(steered, words), share)))
        for words in dict.fromkeys((*plain, *steered))
    ]
    shows = [_hybrid(claim.arms, strength) for strength in (0.0, table.strength)]
    if any(one is not None for one in shows):
        label = Cell(f"as the claim says, after all {claim.n_prompts} prompts")
        found.insert(0, Line((label, *map(_counted, shows)), pinned=True))
    caption = f"The hybrid's continuations of this prompt by their first two words, at strength {table.strength:g}"
    return Table(f"{ident}-rollouts", caption, heads, tuple(found))


def _hybrid(arms: Sequence[SteeredArm], strength: float) -> Share | None:
    """How often the hybrid shows the claim at a strength of its component."""
    for arm in arms:
        if (arm.run, arm.on, arm.what, arm.strength) == ("hybrid", "affected", "component", strength):
            return arm.shows
    return None


def _known(beginnings: Sequence[Beginning]) -> dict[str, Figure]:
    return {one_line(one.words, 80): one.share.figure for one in beginnings}


def _of(known: dict[str, Figure], words: str) -> Figure:
    return known.get(words, Figure.none("not among the commonest"))


def _counted(found: Share | None) -> Cell:
    if found is None:
        return Cell("n/a", state="n/a", title="nothing says what a continuation that shows it is")
    return Cell(figure_text(found.figure, share), found.figure.value, f"{found.hits} of {found.n}")


def _share(found: Share) -> str:
    return "n/a" if found.figure.value is None else share(found.figure.value)


def _value(arm: SteeredArm) -> float:
    return 0.0 if arm.shows is None else arm.shows.figure.value or 0.0


def _samples(arms: Sequence[SteeredArm]) -> tuple[SampleView, ...]:
    """Of every kind's arm that changes most how often the claim is shown, those first that were changed.

    Of arms that change it alike the weakest: much strength makes any model say nonsense.
    """
    plain = {(arm.run, arm.on): _value(arm) for arm in arms if arm.strength == 0}

    def telling(arm: SteeredArm) -> tuple[float, float]:
        return -round(abs(_value(arm) - plain.get((arm.run, arm.on), 0.0)), 2), abs(arm.strength)

    strongest: dict[tuple[str, str, bool], SteeredArm] = {}
    for arm in arms:
        kind = (arm.run, arm.on, arm.strength < 0)
        if arm.what == "component" and arm.strength and arm.samples:
            strongest[kind] = min((arm, strongest.get(kind, arm)), key=telling)
    return tuple(
        SampleView(
            title=f"{WHO[arm.run]}, strength {arm.strength:g}, {PLACES[arm.on]}",
            prompt=one_line(sample.prompt, 300),
            plain=one_line(sample.plain, 300),
            steered=one_line(sample.steered, 300),
        )
        for arm in strongest.values()
        for sample in sorted(arm.samples, key=lambda one: one.plain == one.steered)[:SAMPLES]
    )
